"""Grids of cells: borders, children, neighbours. No pixel is lost and, without overlap, none belongs to two cells."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

#: Cells on each side, or (rows, columns).
GridSide = int | Sequence[int]


class Grid(NamedTuple):
    """Rows and columns of cells; cell ``i`` is in row ``i // columns``.

    Example:
        >>> Grid.of(4), Grid.of((2, 3)).cells
        (Grid(rows=4, columns=4), 6)
    """

    rows: int
    columns: int

    @classmethod
    def of(cls, side: GridSide) -> "Grid":
        """A grid from its side, or from (rows, columns)."""
        return cls(side, side) if isinstance(side, int) else cls(*side)

    @property
    def cells(self) -> int:
        """How many."""
        return self.rows * self.columns


def borders(length: int, parts: int) -> Tensor:
    """Where cells begin and end along a side ``[parts + 1]``: whole pixels by rounding, halves up.

    Example:
        >>> borders(10, 4).tolist()
        [0, 3, 5, 8, 10]
    """
    return (2 * torch.arange(parts + 1) * length + parts).div(2 * parts, rounding_mode="floor")


def cell_boxes(grid: Grid, height: int, width: int, overlap: float = 0.0) -> Tensor:
    """Boxes of all cells ``[cells, 4]``, x0, y0, x1, y1 in pixels.

    Args:
        grid: Rows and columns.
        height: Of the scene.
        width: Of the scene.
        overlap: Share of a cell's side by which it grows on each side, cut at the scene's border.

    Raises:
        ValueError: A grid finer than pixels.

    Example:
        >>> cell_boxes(Grid(1, 2), 4, 5).tolist()
        [[0, 0, 3, 4], [3, 0, 5, 4]]
    """
    if grid.rows > height or grid.columns > width:
        msg = (
            f"A grid of {grid.rows} x {grid.columns} cells is finer than the pixels of a scene of {height} x {width}: "
            "give coarser levels."
        )
        raise ValueError(msg)
    y, x = borders(height, grid.rows), borders(width, grid.columns)
    row, column = torch.arange(grid.cells) // grid.columns, torch.arange(grid.cells) % grid.columns
    boxes = torch.stack([x[column], y[row], x[column + 1], y[row + 1]], dim=1)
    if overlap:
        grown = ((boxes[:, 2:] - boxes[:, :2]) * overlap).round().long()
        boxes = torch.cat([boxes[:, :2] - grown, boxes[:, 2:] + grown], dim=1)
        boxes = torch.minimum(boxes.clamp(min=0), torch.tensor([width, height, width, height]))
    return boxes


def children(cells: Tensor, grid: Grid, finer: Grid) -> Tensor:
    """Cells of the finer grid inside the given ones ``[..., m * factor]``, parent by parent; -1 stays -1.

    Raises:
        ValueError: The finer grid is no multiple of the grid.

    Example:
        >>> children(torch.tensor([1]), Grid(2, 2), Grid(4, 4)).tolist()
        [2, 3, 6, 7]
    """
    check_nested(grid, finer)
    down, across = finer.rows // grid.rows, finer.columns // grid.columns
    top, left = (cells // grid.columns) * down, (cells % grid.columns) * across
    inside = (torch.arange(down).unsqueeze(1) * finer.columns + torch.arange(across)).flatten()
    found = (top * finer.columns + left).unsqueeze(-1) + inside
    return found.masked_fill(cells.unsqueeze(-1) < 0, -1).flatten(-2)


def check_nested(grid: Grid, finer: Grid) -> None:
    """Refuse a level whose cells do not lie inside those of the level before.

    Raises:
        ValueError: The finer grid is no multiple of the grid.
    """
    if finer.rows % grid.rows or finer.columns % grid.columns:
        msg = (
            f"A grid of {finer.rows} x {finer.columns} cells after one of {grid.rows} x {grid.columns} is not "
            "accepted: each grid must be a multiple of the one before."
        )
        raise ValueError(msg)


def partners(cells: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """R' of each region: its 4-neighbours among the candidates, all other candidates where it has none.

    Args:
        cells: Candidates of each image, all distinct ``[b, m]``.
        grid: Their grid.

    Returns:
        Positions in the candidates ``[b, m, j]``, and which of them count ``[b, m, j]``; ``j`` is 4, or ``m`` where a
        region has no neighbour.

    Example:
        >>> partners(torch.tensor([[0, 1, 3]]), Grid(2, 2))[0].tolist()  # up, down, left, right
        [[[0, 0, 0, 1], [0, 2, 0, 0], [1, 0, 0, 0]]]
    """
    images, count = cells.shape
    positions = torch.full((images, grid.cells), -1)
    positions.scatter_(1, cells, torch.arange(count).expand(images, count))
    row, column = cells // grid.columns, cells % grid.columns
    steps = torch.tensor([[-1, 0], [1, 0], [0, -1], [0, 1]])
    rows, columns = row.unsqueeze(2) + steps[:, 0], column.unsqueeze(2) + steps[:, 1]
    inside = (rows >= 0) & (rows < grid.rows) & (columns >= 0) & (columns < grid.columns)
    neighbours = (rows * grid.columns + columns).masked_fill(~inside, 0)
    index = positions.gather(1, neighbours.flatten(1)).view_as(neighbours)
    counts = inside & (index >= 0)
    index = index.masked_fill(~counts, 0)
    lonely = ~counts.any(dim=2)
    if not bool(lonely.any()):
        return index, counts
    among = torch.zeros(images, count, count, dtype=torch.bool)
    among.scatter_reduce_(2, index, counts, "amax")
    others = ~torch.eye(count, dtype=torch.bool)
    everyone = torch.arange(count).expand(images, count, count)
    return everyone, torch.where(lonely.unsqueeze(2), others, among)
