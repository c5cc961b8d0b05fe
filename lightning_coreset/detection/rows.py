"""The targets of single images, before they become one table."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lightning_coreset.detection.class_names import ClassNames, classes_of_ids, classes_of_names
from lightning_coreset.detection.objects import Objects


@dataclass(frozen=True)
class ImageTarget:
    """What one image shows, as its form says it.

    Attributes:
        boxes: Corners ``[K, 4]``.
        labels: Ids ``[K]``, or names.
        crowd: Whether a box is annotated but nothing to learn from ``[K]``.
        size: Height and width, where the form tells them.
    """

    boxes: Tensor = field(default_factory=lambda: torch.empty(0, 4))
    labels: Tensor | list[str] = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    crowd: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.bool))
    size: tuple[int, int] | None = None


def table_of(
    parts: Sequence[ImageTarget],
    *,
    class_names: ClassNames = None,
    features: Any = None,
    categories: bool = False,
) -> Objects:
    """One table of the targets of ``N`` images, classes numbered 0 to C-1.

    Raises:
        ValueError: As `Objects`, and where boxes and labels of an image are of different number.
    """
    for place, part in enumerate(parts):
        if len(part.labels) != len(part.boxes) or len(part.crowd) != len(part.boxes):
            msg = (
                f"The target of image {place} has {len(part.boxes)} boxes and {len(part.labels)} labels: give one "
                "label for each box."
            )
            raise ValueError(msg)
    boxes = _joined([part.boxes.detach().cpu().to(torch.float32).reshape(-1, 4) for part in parts], (0, 4))
    labels, names = _classes([part.labels for part in parts], class_names, categories)
    x1, y1, x2, y2 = boxes.unbind(1)
    empty = (x2 == x1) | (y2 == y1)
    crowd = _joined([part.crowd.cpu() for part in parts], (0,)).bool() | empty
    # Images without boxes may not tell their size: they cannot have one outside.
    sizes = [part.size or (1 << 30, 1 << 30) for part in parts]
    objects = Objects(
        image=torch.repeat_interleave(
            torch.arange(len(parts)), torch.tensor([len(part.boxes) for part in parts], dtype=torch.int64)
        ),
        boxes=boxes,
        labels=labels,
        num_images=len(parts),
        features=features,
        crowd=crowd if bool(crowd.any()) else None,
        image_sizes=torch.tensor(sizes).reshape(-1, 2),
        class_names=names,
    )
    known = all(part.size is not None for part in parts)
    return objects if known else replace(objects, image_sizes=None)


def joined_tables(parts: Sequence[Objects]) -> Objects:
    """The images of several tables one after another; classes that have a name are matched by it."""
    names = _names_of_all(parts)
    offsets = torch.tensor([0, *[part.num_images for part in parts]]).cumsum(0)
    columns: dict[str, Any] = {}
    for name in ("boxes", "scores", "features", "image_sizes", "units"):
        values = [getattr(part, name) for part in parts]
        columns[name] = None if any(value is None for value in values) else torch.cat(values)
    crowds = [torch.zeros(len(part), dtype=torch.bool) if part.crowd is None else part.crowd for part in parts]
    return Objects(
        image=torch.cat([part.image + int(offset) for part, offset in zip(parts, offsets, strict=False)]),
        labels=torch.cat([_renumbered(part, names) for part in parts]),
        num_images=int(offsets[-1]),
        crowd=torch.cat(crowds) if any(part.crowd is not None for part in parts) else None,
        class_names=names,
        **columns,
    )


def _names_of_all(parts: Sequence[Objects]) -> list[str] | None:
    named = [list(part.class_names) for part in parts if part.class_names is not None]
    if not named:
        return None
    if len(named) < len(parts):
        msg = "Some datasets name their classes and others do not: give all of them class names."
        raise ValueError(msg)
    return list(dict.fromkeys(name for names in named for name in names))


def _renumbered(part: Objects, names: list[str] | None) -> Tensor:
    if names is None or part.class_names is None:
        return part.labels
    return torch.tensor([names.index(name) for name in part.class_names], dtype=torch.int64)[part.labels]


def _classes(
    labels: Sequence[Tensor | list[str]], class_names: ClassNames, categories: bool
) -> tuple[Tensor, list[str] | None]:
    if any(isinstance(part, list) for part in labels):
        found, names = classes_of_names([name for part in labels for name in part], class_names)
        return torch.tensor(found, dtype=torch.int64), names
    ids = _joined([part.cpu() for part in labels if isinstance(part, Tensor)], (0,))
    if ids.is_floating_point() and len(ids):
        msg = f"labels of objects are {ids.dtype}: give integers, 0 to C-1."
        raise ValueError(msg)
    return classes_of_ids(ids, class_names, categories=categories)


def _joined(columns: Sequence[Tensor], empty: tuple[int, ...]) -> Tensor:
    filled = [column for column in columns if len(column)]
    return torch.cat(filled) if filled else torch.empty(empty)
