"""Refinement: what a frozen model made of scenes through a few regions of them."""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Refinement:
    """The answer for a batch of scenes.

    Attributes:
        logits: Fused from the kept regions ``[B, classes]``, or the model's own where gated; in segmentation the map
            with the regions pasted in ``[B, classes, H, W]``.
        logits_whole: Of the whole view at the model's input size; of the mean of the map where one was read.
        boxes: Kept regions ``[B, k, 4]``, x0, y0, x1, y1 in pixels; rows of zeros where a scene keeps fewer.
        weights: Of the regions in the fusion ``[B, k]``.
        terms: For each level its terms by name, ``[B, m]`` over the candidates: ``ut``, ``re``, ``ro``, ``sy`` (those
            that count), ``score``, ``loss``, ``kept``, ``boxes`` ``[B, m, 4]``, and ``eps`` ``[B]``, the share by which
            the kept set's loss differs from that of the whole view.
        area: Share of each scene that its kept regions cover ``[B]``; 1 where gated.
        depth: Levels searched, of the deepest search; 0 where gated.
        n_forwards: Calls of the model a scene needs, counted by its inputs; the most of any scene.
        n_pixels: Pixels encoded for a scene, in units of one model input.
        n_calls: Calls of the model for the batch.
        gated: The scenes are too small to refine; ``logits`` are the model's own, bit for bit.
        size: Height and width of the scenes.
        engine: What ran: ``scan``, ``crop``, ``dense``, ``mask``, or ``gated``.
        analysis: The labels were used: these logits know the truth and are no prediction.
        embedding: Of the kept regions, weighed ``[B, d]``; None where the model gives none.
        labels: As they were given ``[B]``; used for `accuracy` only, unless ``analysis``.

    Example:
        >>> from lightning_coreset.regions import HCSConfig, refine
        >>> scenes = torch.rand(2, 3, 64, 64)
        >>> found = refine(scenes, lambda crops: crops.mean((2, 3)), HCSConfig(levels=[(4, 3)]), input_size=16)
        >>> found.logits.shape, found.boxes.shape, found.n_forwards
        (torch.Size([2, 3]), torch.Size([2, 3, 4]), 17)
    """

    logits: Tensor
    logits_whole: Tensor
    boxes: Tensor
    weights: Tensor
    area: Tensor
    depth: int
    n_forwards: int
    n_pixels: float
    n_calls: int
    gated: bool
    size: tuple[int, int]
    engine: str
    terms: list[dict[str, Tensor]] = field(default_factory=list)
    analysis: bool = False
    labels: Tensor | None = None
    embedding: Tensor | None = None

    @property
    def mask(self) -> Tensor:
        """Pixels of the kept regions ``[B, H, W]``, made when asked for."""
        mask = torch.zeros(len(self.boxes), *self.size, dtype=torch.bool)
        for covered, boxes in zip(mask, self.boxes.tolist(), strict=True):
            for x0, y0, x1, y1 in boxes:
                covered[y0:y1, x0:x1] = True
        return mask

    @property
    def heatmap(self) -> Tensor:
        """Importance of each pixel in [0, 1] ``[B, H, W]``, made when asked for; finer levels paint over coarser ones.

        Where windows overlap the best counts. Zeros where gated.
        """
        scenes = len(self.boxes)
        heat = torch.zeros(scenes, *self.size)
        painted = torch.zeros(scenes, *self.size, dtype=torch.bool)
        for level in self.terms:
            fresh = torch.full((scenes, *self.size), -torch.inf)
            for image, (boxes, scores) in enumerate(zip(level["boxes"].tolist(), level["score"].tolist(), strict=True)):
                # From low to high, so that the best stays.
                for score, (x0, y0, x1, y1) in sorted(
                    (score, box) for score, box in zip(scores, boxes, strict=True) if score == score
                ):
                    fresh[image, y0:y1, x0:x1] = score
            found = torch.isfinite(fresh)
            heat, painted = torch.where(found, fresh, heat), painted | found
        for one, seen in zip(heat, painted, strict=True):
            if bool(seen.any()):
                lowest, highest = one[seen].min(), one[seen].max()
                one.sub_(lowest).div_(highest - lowest if highest > lowest else 1.0).masked_fill_(~seen, 0)
        return heat

    def accuracy(self, labels: Tensor | None = None) -> tuple[float, float]:
        """Share of scenes named rightly before (whole view) and after.

        Raises:
            ValueError: No labels, or a segmentation.
        """
        labels = self.labels if labels is None else labels
        if labels is None or self.logits.ndim != 2:
            msg = "accuracy needs labels [B] and logits [B, classes]: give refine(labels=...), or accuracy(labels)."
            raise ValueError(msg)
        truth = torch.as_tensor(labels, device=self.logits.device)
        before, after = (
            float((logits.argmax(dim=1) == truth).float().mean()) for logits in (self.logits_whole, self.logits)
        )
        return before, after


def covered_share(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Share of a scene in the union of boxes ``[B]``, from ``[B, k, 4]``.

    By the cells between all borders: O(k^3) a scene, never an array of pixels.

    Example:
        >>> covered_share(torch.tensor([[[0, 0, 2, 2], [1, 1, 3, 3]]]), (4, 4)).tolist()
        [0.4375]
    """
    shares = []
    for scene in boxes:
        scene = scene[(scene[:, 2:] > scene[:, :2]).all(dim=1)]
        x, y = scene[:, [0, 2]].unique(), scene[:, [1, 3]].unique()
        if not len(scene):
            shares.append(0.0)
            continue
        across = (scene[:, :1] <= x[:-1]) & (scene[:, 2:3] >= x[1:])
        down = (scene[:, 1:2] <= y[:-1]) & (scene[:, 3:4] >= y[1:])
        inside = (down.unsqueeze(2) & across.unsqueeze(1)).any(dim=0)
        shares.append(float((inside * y.diff().unsqueeze(1) * x.diff()).sum()) / (size[0] * size[1]))
    return torch.tensor(shares)
