"""OWLv2: objects of any class that words name, one query a class."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms

from lightning_coreset.data.fingerprint import stable_key
from lightning_coreset.detection.class_names import names_in_order
from lightning_coreset.detection.pretrained import corners_of, load_pretrained, source_key, whole_numbers
from lightning_coreset.detection.proposals import Proposals, no_proposals, size_of


class Owlv2Proposer:
    """OWLv2 (Minderer et al. 2023) through transformers, asked for the classes by name.

    Each patch of the image proposes one box; its class is the query that fits it best, its embedding the one that is
    compared with queries. Patches of the same object are merged class by class. Every image passes alone.

    Args:
        class_names: Names of the classes.
        model: A folder, a name on the hub, or a model with its processor as a tuple.
        prompt: What to ask for, with ``{}`` for the name.
        floor: Least score of a proposal.
        overlap: Intersection over union above which boxes of a class are one object.

    Raises:
        ValueError: A prompt without a place for the name.
        CoresetError: On first use, where transformers is not installed.
        WeightsUnavailableError: On first use, where the weights cannot be had.

    Example:
        >>> Owlv2Proposer(["cat"]).class_names
        ['cat']
    """

    def __init__(
        self,
        class_names: Sequence[str],
        model: Any = "google/owlv2-base-patch16-ensemble",
        *,
        prompt: str = "a photo of a {}",
        floor: float = 0.1,
        overlap: float = 0.5,
    ) -> None:
        if "{}" not in prompt:
            msg = f"prompt={prompt!r} has no place for the name of a class: write {{}} there."
            raise ValueError(msg)
        self.class_names = names_in_order(class_names)
        self.prompt = prompt
        self.floor = floor
        self.overlap = overlap
        self._source = model
        self._loaded: tuple[Any, Any] | None = None

    def fingerprint(self) -> str:
        """Model, words, floor score and overlap."""
        return stable_key("owlv2", source_key(self._source), self.class_names, self.prompt, self.floor, self.overlap)

    def module(self) -> nn.Module:
        """The model, loaded on first use."""
        network: nn.Module = self._load()[0]
        return network

    @torch.no_grad()
    def propose(self, images: Sequence[Tensor]) -> list[Proposals]:
        """Everything above the floor score in each image."""
        return [self._look(image) for image in images]

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            self._loaded = load_pretrained("Owlv2ForObjectDetection", "Owlv2Processor", self._source)
        return self._loaded

    def _look(self, image: Tensor) -> Proposals:
        model, processor = self._load()
        size = size_of(image)
        words = [self.prompt.replace("{}", name) for name in self.class_names]
        inputs = processor(text=[words], images=whole_numbers(image), return_tensors="pt").to(model.device)
        answer = model(**inputs)
        scores, labels = answer.logits[0].sigmoid().float().cpu().max(dim=1)
        # The image was padded to a square, below or on the right: a patch out there shows nothing.
        side = max(size)
        boxes = corners_of(answer.pred_boxes[0], side, side).clamp(min=0)
        boxes = torch.minimum(boxes, torch.tensor([size[1], size[0], size[1], size[0]]))
        kept = (scores >= self.floor) & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        rows = torch.nonzero(kept).flatten()
        rows = rows[torch.argsort(scores[rows], descending=True, stable=True)]
        rows = rows[batched_nms(boxes[rows], scores[rows], labels[rows], self.overlap)]
        if not len(rows):
            return no_proposals(size)
        features = answer.class_embeds[0].float().cpu()
        return Proposals(boxes[rows], labels[rows], scores[rows], features[rows], size)
