"""What a proposer says about one image, and what proposers and encoders must be able to do."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from lightning_coreset.detection.class_names import ClassNames, names_in_order
from lightning_coreset.detection.objects import Objects


@dataclass(frozen=True, eq=False)
class Proposals:
    """The objects that a model sees in one image.

    Args:
        boxes: Corners ``[K, 4]`` as x1, y1, x2, y2 in pixels of the image as it is stored, inside the image.
        labels: Class of each object ``[K]``, 0 to C-1 of the proposer's ``class_names``; no entry for background.
        scores: Confidence ``[K]`` in [0, 1].
        features: Embedding of each object ``[K, D]``; None leaves it to an encoder.
        size: Height and width of the image.
        masks: Run lengths of each object's mask, column by column and beginning with what lies outside, as COCO counts
            them; None where the proposer has boxes only.

    Raises:
        ValueError: Columns of another length, boxes that are not finite, inverted or outside the image, scores outside
            [0, 1].

    Example:
        >>> len(Proposals([[1, 1, 4, 3]], [0], [0.5], size=(6, 8)))
        1
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    features: Tensor | None = None
    size: tuple[int, int] = (0, 0)
    masks: Sequence[Sequence[int]] | None = None

    def __post_init__(self) -> None:
        """Bring the columns to their types, and refuse what cannot be."""
        kinds = {"boxes": torch.float32, "labels": torch.int64, "scores": torch.float32, "features": torch.float32}
        for name, kind in kinds.items():
            column = getattr(self, name)
            if column is not None:
                object.__setattr__(self, name, torch.as_tensor(column).detach().to(kind).cpu())
        if self.boxes.numel() == 0:
            object.__setattr__(self, "boxes", self.boxes.reshape(0, 4))
        if self.masks is not None and len(self.masks) != len(self.boxes):
            msg = f"proposals have {len(self.boxes)} boxes and {len(self.masks)} masks: give one mask for each box."
            raise ValueError(msg)
        # The checks of the table are those of a part.
        objects_from_proposals([self])

    def __len__(self) -> int:
        """Number of objects ``K``."""
        return len(self.boxes)


@runtime_checkable
class ObjectProposer(Protocol):
    """A model that finds objects.

    It gives everything above a low floor score: thresholds come later, from calibration, and cost no new pass. One
    that runs a network may return it from a method ``module()``, so that the pass moves it to the right device and
    puts its modes back. One that knows the objects of a dataset beforehand is a `KnownObjects` and never sees an image.
    """

    @property
    def class_names(self) -> Sequence[str]:
        """Names of the classes that its labels number."""
        ...

    def fingerprint(self) -> str:
        """What the proposals depend on, beside the images: model, weights, prompt, floor score; for the cache's key."""
        ...

    def propose(self, images: Sequence[Tensor]) -> list[Proposals]:
        """The objects of each image ``[C, H, W]``; integers are 0 to 255, floats 0 to 1."""
        ...


@runtime_checkable
class KnownObjects(Protocol):
    """A proposer that knows the objects of a dataset without looking at its images."""

    def known_objects(self, dataset: Any) -> Objects:
        """The objects of a dataset's ``N`` images, with class names."""
        ...


@runtime_checkable
class ObjectEncoder(Protocol):
    """A model that embeds objects, given their boxes."""

    def fingerprint(self) -> str:
        """What the embeddings depend on, beside images and boxes; for the cache's key."""
        ...

    def encode(self, images: Sequence[Tensor], boxes: Sequence[Tensor]) -> list[Tensor]:
        """Embeddings ``[K, D]`` of the boxes ``[K, 4]`` of each image."""
        ...


def objects_from_proposals(proposals: Sequence[Proposals], *, class_names: ClassNames = None) -> Objects:
    """One table of the proposals of ``N`` images.

    Args:
        proposals: One for each image.
        class_names: The proposer's.

    Raises:
        ValueError: As `Objects`; features of some images only, or of several widths.

    Example:
        >>> one, none = Proposals([[1, 1, 4, 3]], [0], [0.5], size=(6, 8)), Proposals([], [], [], size=(6, 8))
        >>> objects_from_proposals([none, one], class_names=["cat"]).image.tolist()
        [1]
    """
    for place, part in enumerate(proposals):
        if not isinstance(part, Proposals):
            msg = f"proposals of image {place} are a {type(part).__name__}: give one Proposals for each image."
            raise ValueError(msg)
    counts = torch.tensor([len(part.boxes) for part in proposals], dtype=torch.int64)
    return Objects(
        image=torch.repeat_interleave(torch.arange(len(proposals)), counts),
        boxes=_joined([part.boxes for part in proposals], torch.empty(0, 4)),
        labels=_joined([part.labels for part in proposals], torch.empty(0, dtype=torch.int64)),
        num_images=len(proposals),
        scores=_joined([part.scores for part in proposals], torch.empty(0)),
        features=_features([part for part in proposals if len(part.boxes)]),
        image_sizes=torch.tensor([part.size for part in proposals], dtype=torch.int64).reshape(-1, 2),
        class_names=None if class_names is None else names_in_order(class_names),
    )


def no_proposals(size: tuple[int, int]) -> Proposals:
    """Nothing was found in an image of this height and width."""
    return Proposals(torch.empty(0, 4), torch.empty(0), torch.empty(0), size=size)


def clipped(boxes: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Boxes ``[K, 4]`` cut at the borders of an image, and which of them have an area ``[K]``.

    Raises:
        ValueError: A box that lies outside altogether: it belongs to another image, size or format.
    """
    height, width = size
    limits = boxes.new_tensor([width, height, width, height])
    x1, y1, x2, y2 = boxes.unbind(1)
    outside = (x2 > x1) & (y2 > y1) & ((x1 >= width) | (y1 >= height) | (x2 <= 0) | (y2 <= 0))
    if bool(outside.any()):
        box = [round(edge, 1) for edge in boxes[outside][0].tolist()]
        msg = f"box {box} lies outside its image of {width} x {height} pixels: give boxes as x1, y1, x2, y2 in pixels."
        raise ValueError(msg)
    inside = torch.minimum(boxes.clamp(min=0), limits)
    return inside, (inside[:, 2] > inside[:, 0]) & (inside[:, 3] > inside[:, 1])


def size_of(image: Any) -> tuple[int, int]:
    """Height and width of an image ``[C, H, W]``."""
    return int(image.shape[-2]), int(image.shape[-1])


def _features(filled: Sequence[Proposals]) -> Tensor | None:
    features = [part.features for part in filled if part.features is not None]
    if not features:
        return None
    widths = sorted({int(part.shape[-1]) if part.ndim == 2 else -1 for part in features})
    if len(features) < len(filled) or len(widths) > 1:
        told = f"{len(features)} of {len(filled)} images" if len(features) < len(filled) else f"widths {widths}"
        msg = f"proposals have features of {told}: give features [K, D] of one width for every image, or for none."
        raise ValueError(msg)
    return torch.cat(features)


def _joined(columns: Sequence[Tensor], empty: Tensor) -> Tensor:
    return torch.cat([empty, *columns]) if columns else empty
