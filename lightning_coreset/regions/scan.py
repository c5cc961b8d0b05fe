"""Engines that read a feature map of the whole scene: ``scan`` looks again at the best windows, ``dense`` does not."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_coreset.ops.rows import accumulator_dtype
from lightning_coreset.regions.config import HCSConfig
from lightning_coreset.regions.encoding import Encoder, parse
from lightning_coreset.regions.losses import row_loss
from lightning_coreset.regions.search import Answer, Kept, Whole
from lightning_coreset.regions.selection import coarse, sureness
from lightning_coreset.regions.views import TensorScenes
from lightning_coreset.regions.windows import WindowGrid, neighbour_entropy, pool_windows, suppress, window_grids

# Rows that the head gets at a time.
_HEAD_ROWS = 8_192
#: A native pass covers at most this many chunks of inputs at a time; more do not fit the caches of CPUs.
CHUNKS_A_PASS = 4


def native_maps(scenes: TensorScenes, features: Callable[[Tensor], Any], encode: Encoder) -> tuple[Tensor, int]:
    """Feature maps ``[B, d, h, w]`` of scenes at native resolution, and how many calls they took.

    Raises:
        ValueError: What ``features`` gives is no map, or not finite.
    """
    inputs = scenes.size[0] * scenes.size[1] / (encode.input_size[0] * encode.input_size[1])
    together = max(1, int(CHUNKS_A_PASS * encode.chunk / inputs))
    parts = []
    for images in scenes.images.split(together):
        maps = features(images)
        if not isinstance(maps, Tensor) or maps.ndim != 4 or len(maps) != len(images):
            came = list(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
            msg = f"features gave {came} for {len(images)} scenes: a map [B, d, h, w] is accepted."
            raise ValueError(msg)
        parts.append(maps)
    return torch.cat(parts), len(parts)


def scan(
    encode: Encoder,
    scenes: TensorScenes,
    features: Callable[[Tensor], Any],
    head: Callable[[Tensor], Any],
    config: HCSConfig,
    labels: Tensor | None,
    look_again: bool,
) -> tuple[Answer, Whole]:
    """Find windows on which the model is sure, and fuse what it says of the best.

    ``dense`` ranks windows by L(r) + scan_sy min over the windows r' one side away of the entropy of (p_r + p_r') / 2,
    and keeps the best whose centres are half an input side apart. ``scan`` (``look_again``) ranks by L(r) alone and
    encodes the kept windows as crops. In a map each window sees what lies around it, a crop does not: the mean
    difference of their logits corrects all windows of the scene, and the best of them by the rank above are heard
    beside the crops.

    O(windows (d + classes)) beside the passes; memory the map and ``windows x (d + classes)`` numbers.

    Args:
        encode: The model, for the second look.
        scenes: The scenes.
        features: Scenes to maps.
        head: Pooled rows ``[n, d]`` to logits.
        config: The choices.
        labels: The truth ``[B]``, in analysis only.
        look_again: Whether to encode the kept windows.

    Returns:
        The answer, and the head's answer to the mean of the map in place of a whole view.
    """
    maps, calls = native_maps(scenes, features, encode)
    encode.calls += calls
    whole_logits = head_rows(head, maps.flatten(2).mean(dim=2))
    wide = accumulator_dtype(maps.device)
    whole = Whole(whole_logits, whole_logits.to(wide))
    grids = window_grids(scenes.size, encode.input_size)
    pooled = [pool_windows(maps, grid, scenes.size) for grid in grids]
    everything = torch.cat([head_rows(head, rows.flatten(0, 1)).unflatten(0, rows.shape[:2]) for rows in pooled], dim=1)
    boxes = torch.cat([grid.boxes for grid in grids])
    loss = row_loss(config.loss, whole.values, everything.to(wide), labels)
    search = _Search(grids, boxes, encode.input_size, loss, config, scenes.count)
    single, rank = search.rank(everything.to(wide), 0.0 if look_again else config.scan_sy)
    picks = search.best(rank, config.keep)
    chosen = torch.zeros_like(rank, dtype=torch.bool).scatter_reduce_(1, picks.clamp(min=0), picks >= 0, "amax")
    places = [row[row >= 0].cpu() for row in picks]
    counts = torch.tensor([len(row) for row in places])
    windows = [one[row.to(rank.device)] for one, row in zip(everything, places, strict=True)]

    if look_again:
        encoded = encode(torch.repeat_interleave(torch.arange(scenes.count), counts), boxes[torch.cat(places)])
        crops = list(encoded.logits.split(counts.tolist()))
        rows = None if encoded.rows is None else encoded.rows.split(counts.tolist())
        heard = min(config.heard, len(boxes))
        if heard:
            off = torch.stack([_offset(seen, read) for seen, read in zip(crops, windows, strict=True)])
            corrected = everything + off.unsqueeze(1).to(everything)
            beside = search.best(search.rank(corrected.to(wide), config.scan_sy)[1], heard)
            for image, row in enumerate(beside):
                row = row[row >= 0]
                crops[image] = torch.cat([crops[image], corrected[image, row].to(crops[image])])
                places[image] = torch.cat([places[image], row.cpu()])
        said = crops
    else:
        said, rows, heard = windows, None, 0
    lengths = torch.tensor([len(one) for one in said])
    final = loss_of_each(torch.cat(said).to(wide), lengths, loss).split(lengths.tolist())
    # Fusion weighs by softmax(score / tau), so the score is what is low when the model is sure, turned around.
    kept = [
        Kept(boxes[place], -lost, logits, row)
        for place, lost, logits, row in zip(places, final, said, rows or [None] * scenes.count, strict=True)
    ]
    everywhere = boxes.expand(scenes.count, *boxes.shape)
    terms = {"loss": single, "score": -rank, "boxes": everywhere, "kept": chosen}
    forwards = 1 + (counts if look_again else torch.zeros_like(counts))
    return Answer(kept, forwards, [terms], depth=1, most=config.keep + heard), whole


@dataclass(frozen=True)
class _Search:
    """Windows of a scene in order."""

    grids: list[WindowGrid]
    boxes: Tensor
    input_size: tuple[int, int]
    loss: Callable[[Tensor], Tensor]
    config: HCSConfig
    scenes: int

    def rank(self, logits: Tensor, synergy: float) -> tuple[Tensor, Tensor]:
        """Loss of each window, and its rank, lower is better ``[B, windows]``."""
        single = self.loss(logits)
        rank = single
        if synergy:
            fields = logits.split([len(grid.boxes) for grid in self.grids], dim=1)
            beside = [
                neighbour_entropy(one.float().softmax(dim=2), grid).to(single)
                for one, grid in zip(fields, self.grids, strict=True)
            ]
            rank = single + synergy * torch.cat(beside, dim=1)
        if self.config.saliency is not None:
            rank = rank / _saliency(self.config.saliency, self.boxes, self.scenes).to(rank)
        return single, rank

    def best(self, rank: Tensor, count: int) -> Tensor:
        """The best windows whose centres are half an input side apart ``[B, count]``; -1 where no more fit."""
        centers = ((self.boxes[:, :2] + self.boxes[:, 2:]) / 2).to(rank.device)
        return suppress(-coarse(sureness(rank)), centers, (self.input_size[0] / 2, self.input_size[1] / 2), count)


def _offset(crops: Tensor, windows: Tensor) -> Tensor:
    """Mean of what crops say beyond what the map said of them ``[classes]``; zero for classes that cannot be."""
    difference = crops.to(accumulator_dtype(crops.device)) - windows.to(crops.device)
    return difference.mean(dim=0).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def loss_of_each(logits: Tensor, counts: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """Loss of regions ``[n]`` whose scenes have different numbers of them."""
    most = int(counts.max())
    mask = torch.arange(most) < counts.unsqueeze(1)
    padded = torch.zeros(len(counts), most, logits.shape[1], dtype=logits.dtype, device=logits.device)
    padded[mask.to(logits.device)] = logits
    return loss(padded)[mask.to(logits.device)]


def head_rows(head: Callable[[Tensor], Any], rows: Tensor) -> Tensor:
    """Logits of pooled rows, some at a time ``[n, classes]``."""
    return torch.cat([parse(head(part), len(part))[1] for part in rows.split(_HEAD_ROWS)])


def _saliency(saliency: Tensor, boxes: Tensor, scenes: int) -> Tensor:
    maps = saliency.double() if saliency.ndim == 3 else saliency.double().expand(scenes, *saliency.shape)
    sums = torch.nn.functional.pad(maps.cumsum(1).cumsum(2), (1, 0, 1, 0))
    x0, y0, x1, y1 = boxes.unbind(1)
    inside = sums[:, y1, x1] - sums[:, y0, x1] - sums[:, y1, x0] + sums[:, y0, x0]
    return (inside / ((x1 - x0) * (y1 - y0))).clamp(min=torch.finfo(torch.float64).eps)
