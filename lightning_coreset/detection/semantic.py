"""Semantic masks as objects: the connected regions of each class."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_coreset.detection.rows import ImageTarget

_UNLABELLED = 255
#: Smaller regions, as a share of the image, are no units of annotation.
MIN_REGION = 5e-4


@dataclass(frozen=True)
class Regions:
    """The regions of one mask.

    Attributes:
        classes: Class of each region ``[R]``.
        boxes: Corners around it ``[R, 4]``.
        areas: Its pixels ``[R]``.
        map: Region of each pixel ``[H, W]``, -1 where there is none.
    """

    classes: Tensor
    boxes: Tensor
    areas: Tensor
    map: Tensor

    def target(self) -> ImageTarget:
        """The regions as objects of one image."""
        height, width = self.map.shape
        crowd = torch.zeros(len(self.classes), dtype=torch.bool)
        return ImageTarget(self.boxes, self.classes, crowd, (height, width))


def semantic_regions(
    mask: Any,
    *,
    ignore: int | tuple[int, ...] = _UNLABELLED,
    class_count: int | None = None,
    min_area: float = MIN_REGION,
) -> Regions:
    """The 8-connected regions of each class, in the order in which rows of pixels meet them.

    Args:
        mask: Class of each pixel ``[H, W]``, integers: a tensor, array or image.
        ignore: Values that are no class; 255 and negative ones never are.
        class_count: ``C``; the value C itself then marks unlabelled pixels, as it does in many data sets.
        min_area: Least share of the image a region must have.

    Returns:
        Regions; O(H W) time and memory, by joining the runs of equal pixels of neighbouring rows.

    Raises:
        ValueError: Not a mask of integers, or a value beyond the class list.

    Example:
        >>> regions = semantic_regions(torch.tensor([[1, 255, 0], [255, 1, 0]]))
        >>> regions.classes.tolist(), regions.boxes.tolist()
        ([1, 0], [[0.0, 0.0, 2.0, 2.0], [2.0, 0.0, 3.0, 2.0]])
    """
    values = _as_integers(mask)
    height, width = values.shape
    dropped = (values < 0) | np.isin(values, [_UNLABELLED, *np.atleast_1d(ignore).tolist()])
    if class_count is not None:
        dropped |= values == class_count
        beyond = ~dropped & (values > class_count)
        if beyond.any():
            msg = (
                f"A mask holds the value {int(values[beyond][0])} and there are {class_count} classes; 0 to "
                f"{class_count - 1}, and {class_count} or 255 for pixels without a class, are accepted: name the other "
                "values in ignore=."
            )
            raise ValueError(msg)
    values = np.where(dropped, -1, values)
    rows, starts, ends, classes = _runs(values)
    region = _joined_runs(rows, starts, ends, classes, width)
    count = int(region.max()) + 1 if len(region) else 0
    areas = np.bincount(region, ends - starts, minlength=count).astype(np.int64)
    corners = [_extreme(np.minimum, column, region, count) for column in (starts, rows)]
    corners += [_extreme(np.maximum, column, region, count) for column in (ends, rows + 1)]
    kept = areas >= min_area * height * width
    place = np.where(kept, np.cumsum(kept) - 1, -1)
    kinds = np.zeros(count, dtype=np.int64)
    kinds[region] = classes
    painted = np.full(values.size, -1, dtype=np.int64)
    # Runs lie one after another in the order of pixels.
    painted[values.reshape(-1) >= 0] = np.repeat(place[region], ends - starts)
    return Regions(
        classes=torch.from_numpy(kinds[kept]),
        boxes=torch.from_numpy(np.stack(corners, axis=1)[kept].astype(np.float32)).reshape(-1, 4),
        areas=torch.from_numpy(areas[kept]),
        map=torch.from_numpy(painted.reshape(height, width)),
    )


def _as_integers(mask: Any) -> NDArray[np.int64]:
    array = np.asarray(mask.cpu() if isinstance(mask, Tensor) else mask)
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 2 or array.dtype.kind not in "biu" or 0 in array.shape:
        msg = f"A mask is {list(array.shape)} of {array.dtype}: give the class of each pixel, integers [H, W]."
        raise ValueError(msg)
    return array.astype(np.int64)


def _runs(values: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
    """Row, first and past-last column, and class of each horizontal run, in the order of pixels."""
    changes = np.ones((values.shape[0], values.shape[1] + 1), dtype=bool)
    changes[:, 1:-1] = values[:, 1:] != values[:, :-1]
    rows, starts = np.nonzero(changes[:, :-1])
    ends = np.nonzero(changes[:, 1:])[1] + 1
    classes = values[rows, starts]
    kept = classes >= 0
    return rows[kept], starts[kept], ends[kept], classes[kept]


def _joined_runs(
    rows: NDArray[np.int64],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    classes: NDArray[np.int64],
    width: int,
) -> NDArray[np.int64]:
    """Region of each run, numbered by their first run."""
    line = width + 2
    # Runs of the next row that end after this one's start, and begin before its end, diagonals included.
    first = np.searchsorted(rows * line + ends, (rows + 1) * line + starts, side="left")
    past = np.searchsorted(rows * line + starts, (rows + 1) * line + ends, side="right")
    counts = np.maximum(past - first, 0)
    upper = np.repeat(np.arange(len(rows)), counts)
    lower = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)
    same = classes[upper] == classes[lower]
    upper, lower = upper[same], lower[same]
    parent = np.arange(len(rows))
    while True:
        # Every region takes the lowest run it touches, then paths are cut short; lengths halve each time.
        low = np.minimum(parent[upper], parent[lower])
        before = parent.copy()
        np.minimum.at(parent, parent[upper], low)
        np.minimum.at(parent, parent[lower], low)
        while not np.array_equal(parent, parent[parent]):
            parent = parent[parent]
        if np.array_equal(parent, before):
            break
    numbered: NDArray[np.int64] = np.unique(parent, return_inverse=True)[1]
    return numbered


def _extreme(kind: np.ufunc, column: NDArray[np.int64], region: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Lowest or highest value of each region ``[R]``."""
    found = np.full(count, np.iinfo(np.int64).max if kind is np.minimum else np.iinfo(np.int64).min)
    kind.at(found, region, column)
    return found
