"""Windows of a feature map: one pass over the scene at native resolution tells of all of them."""

from typing import NamedTuple

import torch
from torch import Tensor

#: Windows start at every quarter of the input's side,
STRIDES_A_SIDE = 4
#: and are one and two of its sides wide.
SCALES = (1, 2)


class WindowGrid(NamedTuple):
    """Windows of one size, row by row.

    Attributes:
        y: Where rows start ``[rows]``.
        x: Where columns start ``[columns]``.
        height: Of a window.
        width: Of a window.
        steps: How many rows and columns away the next window without overlap is.
    """

    y: Tensor
    x: Tensor
    height: int
    width: int
    steps: tuple[int, int]

    @property
    def boxes(self) -> Tensor:
        """``[rows * columns, 4]``."""
        y, x = self.y.repeat_interleave(len(self.x)), self.x.repeat(len(self.y))
        return torch.stack([x, y, x + self.width, y + self.height], dim=1)


def window_grids(size: tuple[int, int], input_size: tuple[int, int]) -> list[WindowGrid]:
    """Windows of one and two input sides; one more row and column at the far border, so that no pixel is lost.

    Example:
        >>> [len(grid.boxes) for grid in window_grids((256, 256), (32, 32))]
        [841, 625]
    """
    grids: list[WindowGrid] = []
    for scale in SCALES:
        height, width = (min(scale * side, whole) for side, whole in zip(input_size, size, strict=True))
        if scale > SCALES[0] and (height, width) == (grids[0].height, grids[0].width):
            continue
        stride = [max(1, side // STRIDES_A_SIDE) for side in input_size]
        y, x = (_starts(whole, side, step) for whole, side, step in zip(size, (height, width), stride, strict=True))
        grids.append(WindowGrid(y, x, height, width, (-(-height // stride[0]), -(-width // stride[1]))))
    return grids


def _starts(whole: int, side: int, stride: int) -> Tensor:
    starts = torch.arange(0, whole - side + 1, stride)
    return starts if starts[-1] == whole - side else torch.cat([starts, torch.tensor([whole - side])])


def pool_windows(maps: Tensor, grid: WindowGrid, size: tuple[int, int]) -> Tensor:
    """Means of a feature map over windows ``[B, windows, d]``; cells that a window cuts count in part.

    A product with the rows and one with the columns: O(d (windows rows h w)^(1/2)) or so, never a window by itself.

    Args:
        maps: ``[B, d, h, w]``.
        grid: The windows.
        size: Height and width of the scene the map is of.
    """
    down = _shares(grid.y, grid.height, size[0], maps.shape[2]).to(maps)
    across = _shares(grid.x, grid.width, size[1], maps.shape[3]).to(maps)
    pooled: Tensor = (down @ maps @ across.T).flatten(2).mT
    return pooled


def _shares(starts: Tensor, side: int, whole: int, cells: int) -> Tensor:
    """How much each cell of a side counts in each window ``[windows, cells]``, rows of sum 1."""
    edges = torch.arange(cells + 1, dtype=torch.float64) * whole / cells
    begin, end = starts.double().unsqueeze(1), (starts + side).double().unsqueeze(1)
    covered = torch.minimum(end, edges[1:]) - torch.maximum(begin, edges[:-1])
    covered = covered.clamp(min=0)
    return covered / covered.sum(dim=1, keepdim=True)


def neighbour_entropy(probabilities: Tensor, grid: WindowGrid) -> Tensor:
    """Least entropy of a window's mean with one of the four windows one side away ``[B, windows]``.

    A window that has none beside it stands alone.

    Args:
        probabilities: ``[B, windows, classes]``.
        grid: The windows.
    """
    rows, columns = len(grid.y), len(grid.x)
    field = probabilities.unflatten(1, (rows, columns))
    least = torch.full(field.shape[:3], torch.inf, dtype=field.dtype, device=field.device)
    down, across = grid.steps
    if down < rows:
        pair = _entropy((field[:, down:] + field[:, :-down]) / 2)
        least[:, down:] = torch.minimum(least[:, down:], pair)
        least[:, :-down] = torch.minimum(least[:, :-down], pair)
    if across < columns:
        pair = _entropy((field[:, :, across:] + field[:, :, :-across]) / 2)
        least[:, :, across:] = torch.minimum(least[:, :, across:], pair)
        least[:, :, :-across] = torch.minimum(least[:, :, :-across], pair)
    alone = torch.isinf(least)
    return torch.where(alone, _entropy(field), least).flatten(1)


def _entropy(probabilities: Tensor) -> Tensor:
    total: Tensor = torch.special.entr(probabilities).sum(dim=-1)
    return total


def suppress(rank: Tensor, centers: Tensor, apart: tuple[float, float], keep: int) -> Tensor:
    """The best windows no two of which are close ``[B, keep]``, best first; ties to the lowest.

    Args:
        rank: Lower is better ``[B, windows]``.
        centers: x, y of each ``[windows, 2]``.
        apart: Centres nearer than this in height and in width are one thing.
        keep: How many; fewer, -1 in their place, where no more fit.
    """
    left = rank.clone()
    kept = torch.full((len(rank), keep), -1, dtype=torch.int64, device=rank.device)
    reach = torch.tensor([apart[1], apart[0]], dtype=centers.dtype, device=centers.device)
    windows = torch.arange(rank.shape[1], device=rank.device)
    for step in range(keep):
        lowest = left.amin(dim=1, keepdim=True)
        found = torch.isfinite(lowest.squeeze(1))
        if not bool(found.any()):
            break
        pick = torch.where(left == lowest, windows, rank.shape[1]).amin(dim=1)
        kept[found, step] = pick[found]
        near = ((centers.unsqueeze(0) - centers[pick].unsqueeze(1)).abs() < reach).all(dim=2)
        left.masked_fill_(near, torch.inf)
    return kept
