"""The objects of a whole pool in one flat table: what detection methods select by."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

_FLOATS = ("boxes", "scores", "features")
_CHECKED_ROWS = 4_096


@dataclass(frozen=True, eq=False)
class Objects:
    """The objects of ``N`` images, one row each, in ascending image; labelled or proposed.

    Everything is checked once, on entry, so that no selector has to.

    Args:
        image: Position of the image that shows each object ``[M]``, 0 to N-1; rows are put in ascending order.
        boxes: Corners ``[M, 4]`` as x1, y1, x2, y2 in pixels of the stored image; ``[0, 4]`` without objects.
        labels: Class of each object ``[M]``, 0 to C-1.
        num_images: ``N``; images without objects count.
        scores: Confidence of each object ``[M]`` in [0, 1]; None where people drew the boxes.
        features: Embedding of each object ``[M, D]``.
        crowd: Whether a box stands for a crowd or counts as difficult ``[M]``: annotated, but no object to learn from.
        image_sizes: Height and width of each image ``[N, 2]`` in pixels.
        class_names: Names of the ``C`` classes.
        units: Annotation units of each image ``[N]`` where they are known otherwise than by counting rows, such as
            the true boxes of images whose rows are proposals.

    Raises:
        ValueError: Columns of another length, images or labels out of range, boxes that are not finite, inverted or
            outside their image, scores outside [0, 1]; the first such row is named.

    Example:
        >>> objects = Objects([0, 0, 2], [[0, 0, 5, 5], [2, 2, 9, 9], [1, 1, 4, 4]], [0, 1, 1], num_images=3)
        >>> len(objects), objects.num_classes, objects.counts().tolist()
        (3, 2, [[1, 1], [0, 0], [0, 1]])
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor
    num_images: int
    scores: Tensor | None = None
    features: Tensor | None = None
    crowd: Tensor | None = None
    image_sizes: Tensor | None = None
    class_names: Sequence[str] | None = None
    units: Tensor | None = None

    def __post_init__(self) -> None:
        """Bring the columns to their types and order, and refuse what cannot be."""
        kinds = dict.fromkeys(("image", "labels", "image_sizes"), torch.int64) | dict.fromkeys(_FLOATS, torch.float32)
        kinds |= {"crowd": torch.bool, "units": torch.float64}
        for name, kind in kinds.items():
            column = getattr(self, name)
            if column is not None:
                self._set(name, torch.as_tensor(column).detach().to(kind).cpu())
        if self.boxes.numel() == 0:
            self._set("boxes", self.boxes.reshape(0, 4))
        if self.class_names is not None:
            self._set("class_names", list(self.class_names))
        self._check_lengths()
        self._check_rows()
        if bool((self.image[1:] < self.image[:-1]).any()):
            order = torch.argsort(self.image, stable=True)
            for name in self._columns():
                self._set(name, getattr(self, name)[order])

    @classmethod
    def from_targets(cls, targets: Any, *, class_names: Any = None, features: Any = None) -> "Objects":
        """The objects of targets in any usual form; see `detection.targets.objects_from_targets`.

        Example:
            >>> Objects.from_targets([{"boxes": [[0, 0, 4, 2]], "labels": [1]}, {}]).num_images
            2
        """
        # Late, because targets become objects.
        from lightning_coreset.detection.targets import objects_from_targets

        return objects_from_targets(targets, class_names=class_names, features=features)

    @classmethod
    def from_proposals(cls, proposals: Sequence[Any], *, class_names: Any = None) -> "Objects":
        """The objects of one `Proposals` for each image; see `detection.proposals.objects_from_proposals`."""
        from lightning_coreset.detection.proposals import objects_from_proposals

        return objects_from_proposals(proposals, class_names=class_names)

    @property
    def num_classes(self) -> int:
        """Classes ``C``: those named, else the highest label plus one."""
        if self.class_names is not None:
            return len(self.class_names)
        return int(self.labels.max()) + 1 if len(self.labels) else 0

    def __len__(self) -> int:
        """Number of objects ``M``."""
        return len(self.image)

    def counts(self) -> Tensor:
        """Objects of each class in each image ``[N, C]``."""
        cells = self.image * self.num_classes + self.labels
        return torch.bincount(cells, minlength=self.num_images * self.num_classes).reshape(self.num_images, -1)

    def areas(self) -> Tensor:
        """Area of each box ``[M]`` in square pixels."""
        return (self.boxes[:, 2] - self.boxes[:, 0]) * (self.boxes[:, 3] - self.boxes[:, 1])

    def where(self, mask: Tensor) -> "Objects":
        """The objects of a mask ``[M]``; images, and what is known of them, stay."""
        return replace(self, **{name: getattr(self, name)[mask] for name in self._columns()})

    def subset(self, positions: Tensor | Sequence[int]) -> "Objects":
        """The objects of some images; the image at ``positions[j]`` becomes image ``j``."""
        positions = torch.as_tensor(positions, dtype=torch.int64)
        place = torch.full((self.num_images,), -1, dtype=torch.int64)
        place[positions] = torch.arange(len(positions))
        kept = place[self.image] >= 0
        columns = {name: getattr(self, name)[kept] for name in self._columns()} | {"image": place[self.image[kept]]}
        for name in ("image_sizes", "units"):
            column = getattr(self, name)
            columns[name] = None if column is None else column[positions]
        return replace(self, num_images=len(positions), **columns)

    def _columns(self) -> list[str]:
        """Names of the columns with a value for each object."""
        names = ("image", "boxes", "labels", "scores", "features", "crowd")
        return [name for name in names if getattr(self, name) is not None]

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _check_lengths(self) -> None:
        shapes = {"image": [], "boxes": [4], "labels": [], "scores": [], "crowd": [], "features": None}
        for field in fields(self):
            if field.name not in shapes or getattr(self, field.name) is None:
                continue
            column, rest = getattr(self, field.name), shapes[field.name]
            if len(column) != len(self.image) or (rest is not None and list(column.shape[1:]) != rest):
                wanted = [len(self.image), *(["D"] if rest is None else rest)]
                msg = f"{field.name} of objects have shape {list(column.shape)}: give one row per object, {wanted}."
                raise ValueError(msg)
        for name, rest in (("image_sizes", [2]), ("units", [])):
            column = getattr(self, name)
            if column is not None and list(column.shape) != [self.num_images, *rest]:
                msg = f"{name} have shape {list(column.shape)}: give one row per image, {[self.num_images, *rest]}."
                raise ValueError(msg)

    def _check_rows(self) -> None:
        x1, y1, x2, y2 = self.boxes.unbind(1)
        self._refuse((self.image < 0) | (self.image >= self.num_images), "image", f"0 to {self.num_images - 1}")
        classes = self.num_classes
        self._refuse((self.labels < 0) | (self.labels >= classes), "labels", f"classes 0 to {classes - 1}")
        self._refuse(~torch.isfinite(self.boxes).all(dim=1), "boxes", "finite pixels")
        self._refuse((x2 < x1) | (y2 < y1), "boxes", "corners x1 <= x2 and y1 <= y2 (xyxy)")
        if self.image_sizes is not None and len(self):
            height, width = self.image_sizes[self.image].to(torch.float32).unbind(1)
            # Half a pixel is what rounding and conversion of formats cost.
            outside = (x1 < -0.5) | (y1 < -0.5) | (x2 > width + 0.5) | (y2 > height + 0.5)
            self._refuse(outside, "boxes", "boxes inside their image (clip them)")
        if self.scores is not None:
            self._refuse(~((self.scores >= 0) & (self.scores <= 1)), "scores", "numbers from 0 to 1")
        if self.features is not None:
            # In blocks: a mask of all numbers is made by way of two copies of them.
            finite = [torch.isfinite(part).all(dim=1) for part in self.features.split(_CHECKED_ROWS)]
            self._refuse(~torch.cat(finite), "features", "finite numbers")
        if self.units is not None and not bool((self.units >= 0).all() & torch.isfinite(self.units).all()):
            msg = "units of images hold negative or infinite numbers: give the annotation units of each image."
            raise ValueError(msg)

    def _refuse(self, wrong: Tensor, name: str, accepted: str) -> None:
        if bool(wrong.any()):
            row = int(torch.nonzero(wrong)[0])
            value = getattr(self, name)[row]
            shown = value.tolist() if value.numel() <= 4 else "not finite"
            msg = f"{name} of object {row} (image {int(self.image[row])}) are {shown}: {accepted} are accepted."
            raise ValueError(msg)
