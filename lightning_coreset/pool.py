"""The question: the items one may pick from, validated once on entry."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

_CHECKED_ROWS = 16_384


class Pool:
    """Embeddings and labels of the items one may pick from.

    Everything is checked here, once, so that no selector has to: shapes, finite values, integer labels in range.

    Args:
        features: Embeddings ``[N, d]``, array or tensor; kept as float32 on the device they come on.
        labels: Class of each item, integers ``[N]``; None for an unlabelled pool.
        num_classes: Number of classes ``C``. Given: labels outside 0..C-1 and empty classes are errors. Not given:
            ``C = max + 1``, gaps are allowed and get no seat.
        objects: `Objects` of ``N`` images, for methods that select images by what they show.
        signals: `Signals` of ``N`` items; without ``labels`` theirs count.
        images: A map-style dataset of ``N`` images, for methods that look at or change them.
        ids: ``N`` unique str or int names for hand-over; selections are always positions.
        size: ``N`` where nothing else tells it.

    Raises:
        ValueError: A wrong shape, a value that is not finite (the first such item is named), labels that are negative,
            out of range or of another length, an empty class, ids that repeat.

    Example:
        >>> pool = Pool(torch.eye(4), torch.tensor([0, 0, 1, 1]))
        >>> pool.size, pool.num_classes, pool.class_counts.tolist()
        (4, 2, [2, 2])
    """

    def __init__(
        self,
        features: Any | None = None,
        labels: Any | None = None,
        *,
        num_classes: int | None = None,
        objects: Any | None = None,
        signals: Any | None = None,
        images: Any | None = None,
        ids: Sequence[str] | Sequence[int] | None = None,
        size: int | None = None,
    ) -> None:
        self.features: Tensor | None = None if features is None else check_features(features)
        self.objects, self.signals, self.images = objects, signals, images
        labels = signals.labels if labels is None and signals is not None else labels
        lengths = {
            "features": _length(self.features),
            "ids": _length(ids),
            "images": _length(images),
            "labels": _length(labels),
            "objects": None if objects is None else int(objects.num_images),
            "signals": _length(signals),
            "size": size,
        }
        self.size: int = _common_size({name: length for name, length in lengths.items() if length is not None})
        self.labels: Tensor | None = None if labels is None else check_labels(labels, self.size)
        if num_classes is not None and (isinstance(num_classes, bool) or num_classes < 1):
            msg = f"num_classes={num_classes!r} is not accepted: give a whole number of at least 1, or leave it out."
            raise ValueError(msg)
        self._fixed_classes = num_classes is not None
        self.num_classes: int | None = num_classes
        if self.labels is not None:
            self.num_classes = _check_classes(self.labels, num_classes)
        self.ids: list[str] | list[int] | None = None if ids is None else list(ids)  # type: ignore[assignment]
        if self.ids is not None and len(set(self.ids)) != self.size:
            msg = f"ids hold {len(set(self.ids))} distinct names for {self.size} items: give one unique name per item."
            raise ValueError(msg)

    @property
    def class_counts(self) -> Tensor | None:
        """Items of each class ``[C]``; None without labels."""
        if self.labels is None or self.num_classes is None:
            return None
        return torch.bincount(self.labels, minlength=self.num_classes)

    def __len__(self) -> int:
        """Number of items ``N``."""
        return self.size


def check_features(features: Any) -> Tensor:
    """Embeddings as a finite float32 matrix ``[N, d]``, without a copy where they are one already.

    Raises:
        ValueError: Not a matrix with rows and columns, or a value that is not finite (the first such item is named).
    """
    matrix = _as_numbers(features, "features", "one row of numbers per item, [N, d]").detach()
    if matrix.ndim != 2 or 0 in matrix.shape:
        msg = (
            f"features have shape {list(matrix.shape)}: give one row per item, [N, d] (flatten(1) makes rows of "
            "images)."
        )
        raise ValueError(msg)
    if matrix.is_complex():
        msg = "features are complex numbers: give real ones, [N, d]."
        raise ValueError(msg)
    matrix = matrix.to(torch.float32)
    # Blocks, because the mask of a whole matrix of millions of rows would cost a quarter of the matrix itself.
    for start in range(0, len(matrix), _CHECKED_ROWS):
        block = matrix[start : start + _CHECKED_ROWS]
        # NaN and infinity never leave a sum, which is read ten times as fast as each value is looked at.
        if bool(torch.isfinite(block.sum())):
            continue
        finite = torch.isfinite(block).all(dim=1)
        if not bool(finite.all()):
            item = start + int(torch.nonzero(~finite)[0])
            msg = f"The features of item {item} hold NaN or infinite values: remove the item or mend what embeds it."
            raise ValueError(msg)
    return matrix


def check_labels(labels: Any, size: int) -> Tensor:
    """Labels as non-negative integers ``[N]`` on the CPU.

    Raises:
        ValueError: Another length, other types than integers, or a negative label (the first is named).
    """
    vector = _as_numbers(labels, "labels", "integers, 0 to C-1").detach().cpu()
    if vector.ndim != 1 or len(vector) != size:
        msg = f"labels have shape {list(vector.shape)} for {size} items: give one class per item, [{size}]."
        raise ValueError(msg)
    if vector.is_floating_point() or vector.is_complex():
        msg = f"labels are {vector.dtype}: give integers, 0 to C-1 (labels.long() where they are whole numbers)."
        raise ValueError(msg)
    vector = vector.to(torch.int64)
    if bool((vector < 0).any()):
        item = int(torch.nonzero(vector < 0)[0])
        msg = (
            f"The label of item {item} is {int(vector[item])}: classes start at 0, and unlabelled items do not belong "
            "here (leave labels out to select without them, or keep such items in the pool of an active-learning loop)."
        )
        raise ValueError(msg)
    return vector


def _as_numbers(column: Any, name: str, accepted: str) -> Tensor:
    if isinstance(column, Tensor):
        return column
    array = np.asarray(column)
    if array.dtype.kind not in "biufc":
        msg = f"{name} are {array.dtype}: give {accepted}."
        raise ValueError(msg)
    return torch.as_tensor(array)


def _check_classes(labels: Tensor, num_classes: int | None) -> int:
    found = int(labels.max()) + 1
    if num_classes is None:
        return found
    if found > num_classes:
        item = int(torch.nonzero(labels >= num_classes)[0])
        msg = (
            f"The label of item {item} is {int(labels[item])}, but num_classes={num_classes} accepts 0 to "
            f"{num_classes - 1}: mend the labels or raise num_classes."
        )
        raise ValueError(msg)
    empty = torch.nonzero(torch.bincount(labels, minlength=num_classes) == 0).flatten().tolist()
    if empty:
        msg = (
            f"Class {empty[0]} has no items ({len(empty)} of {num_classes} classes are empty): leave num_classes "
            "out to "
            "allow gaps, or mend the labels."
        )
        raise ValueError(msg)
    return num_classes


def _length(column: Any | None) -> int | None:
    return None if column is None else len(column)


def _common_size(lengths: dict[str, int]) -> int:
    if not lengths:
        msg = "A pool needs features, labels, ids or size to know how many items it has: got none of them."
        raise ValueError(msg)
    # Labels of another length get their own message, with the shape that came.
    known = {length for name, length in lengths.items() if name != "labels"} or {lengths["labels"]}
    if len(known) > 1 or min(known) < 1:
        msg = f"A pool needs one positive number of items, got {lengths}: give columns of the same length."
        raise ValueError(msg)
    return known.pop()
