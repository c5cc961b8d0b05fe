"""Background exchange: the foreground of an image between backgrounds of others."""

import torch
from torch import Tensor

from lightning_coreset.augmentation.planes import as_kind, with_channels


def cells_of(height: int, width: int, grid: int) -> int:
    """Cells a side: ``grid``, or as many as leave 2 pixels a cell on the shorter side.

    Example:
        >>> cells_of(28, 40, 40), cells_of(480, 640, 40)
        (14, 40)
    """
    return min(grid, min(height, width) // 2)


def borders(side: int, cells: int) -> Tensor:
    """Where cells begin and end, rounded so that no pixel is lost ``[cells + 1]``.

    Example:
        >>> borders(28, 5).tolist()
        [0, 6, 11, 17, 22, 28]
    """
    return (2 * torch.arange(cells + 1) * side + cells) // (2 * cells)


def exchange_background(
    planes: Tensor, foreground: Tensor, donors: list[tuple[Tensor, Tensor]], generator: torch.Generator
) -> Tensor:
    """An image that keeps its foreground cells and takes each other cell from the background of some donor.

    Background cells are drawn with replacement from those of all donors together and resized bilinearly to the cell
    they fill; pixels of foreground cells are the image's own, bit for bit.

    Args:
        planes: The image ``[C, H, W]``.
        foreground: Which of its cells stay ``[g, g]``, bool.
        donors: Planes and foreground of other images, of any size, type and number of channels.
        generator: Draws the cells, always from the CPU.

    Returns:
        ``[C, H, W]`` of the image's own type. O(C H W) time; the image itself where there is nothing to take.

    Example:
        >>> kept = torch.tensor([[True, False], [False, False]])
        >>> image, donor = torch.zeros(1, 4, 4), torch.ones(1, 6, 8)
        >>> exchange_background(image, kept, [(donor, kept)], torch.Generator())[0].tolist()
        [[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]]
    """
    wanted = torch.nonzero(~foreground.flatten()).flatten()
    offered = _Offered([(as_kind(with_channels(other, len(planes)), planes.dtype), mask) for other, mask in donors])
    if not len(wanted) or not len(offered):
        return planes
    drawn = torch.randint(len(offered), (len(wanted),), generator=generator)

    cells = len(foreground)
    rows, columns = borders(planes.shape[1], cells), borders(planes.shape[2], cells)
    row_of = torch.repeat_interleave(torch.arange(cells), rows.diff())
    column_of = torch.repeat_interleave(torch.arange(cells), columns.diff())
    draw_of = torch.full((cells * cells,), -1).index_copy_(0, wanted, drawn)
    drawn = draw_of[row_of[:, None] * cells + column_of]
    y, x = torch.nonzero(drawn >= 0, as_tuple=True)
    drawn = drawn[y, x]
    down = (y - rows[row_of[y]], rows.diff()[row_of[y]])
    right = (x - columns[column_of[x]], columns.diff()[column_of[x]])
    changed = planes.clone()
    changed[:, y, x] = as_kind(offered.values(drawn, down, right), planes.dtype, scale=1.0)
    return changed


class _Offered:
    """Background cells of some images, side by side."""

    def __init__(self, donors: list[tuple[Tensor, Tensor]]) -> None:
        self._pixels = torch.cat([planes.flatten(1) for planes, _ in donors], dim=1) if donors else torch.empty(0, 0)
        # Of each cell: first pixel of its image, width of its image, top, height, left, width.
        self._cells = torch.empty(0, 6, dtype=torch.int64)
        start = 0
        for planes, foreground in donors:
            _, height, width = planes.shape
            row, column = torch.nonzero(~foreground, as_tuple=True)
            down, right = borders(height, len(foreground)), borders(width, len(foreground))
            image = torch.tensor([[start, width]]).expand(len(row), 2)
            own = torch.stack([down[row], down.diff()[row], right[column], right.diff()[column]], dim=1)
            self._cells = torch.cat([self._cells, torch.cat([image, own], dim=1)])
            start += height * width

    def __len__(self) -> int:
        return len(self._cells)

    def values(self, cells: Tensor, down: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> Tensor:
        """Pixels of cells resized bilinearly ``[C, n]``, float32.

        Args:
            cells: Cell of each pixel ``[n]``.
            down: Row of each pixel in the cell it fills, and that cell's height, ``[n]`` both.
            right: The same across.
        """
        start, width, top, height, left, across = self._cells[cells].unbind(dim=1)
        upper, lower, y_share = _between(*down, height)
        near, far, x_share = _between(*right, across)
        upper, lower = start + (top + upper) * width + left, start + (top + lower) * width + left
        corners = [
            self._pixels[:, place].to(torch.float32) for place in (upper + near, upper + far, lower + near, lower + far)
        ]
        above = corners[0] + (corners[1] - corners[0]) * x_share
        below = corners[2] + (corners[3] - corners[2]) * x_share
        return above + (below - above) * y_share


def _between(place: Tensor, size: Tensor, source: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where a pixel of a side lies on a side of another length: the pixels around it, and how far from the first."""
    exact = ((place + 0.5) * (source / size) - 0.5).clamp_(min=0).minimum((source - 1).to(torch.float32))
    first = exact.floor().to(torch.int64)
    return first, (first + 1).minimum(source - 1), exact - first
