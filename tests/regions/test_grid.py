"""Grids lose no pixel, children lie inside their parents, neighbours are beside."""

import pytest
import torch

from lightning_coreset.regions.grid import Grid, cell_boxes, children, partners
from tests.helpers.references_regions import neighbours

SIZES = [(7, 5), (64, 64), (33, 70)]
GRIDS = [Grid(1, 1), Grid(4, 4), Grid(2, 5), Grid(5, 3)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("grid", GRIDS)
def test_every_pixel_is_in_one_cell(size: tuple[int, int], grid: Grid) -> None:
    seen = torch.zeros(size)
    for x0, y0, x1, y1 in cell_boxes(grid, *size).tolist():
        assert x1 > x0
        assert y1 > y0
        seen[y0:y1, x0:x1] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize("size", SIZES)
def test_cells_that_overlap_hold_the_plain_ones_and_stay_inside(size: tuple[int, int]) -> None:
    plain, grown = cell_boxes(Grid(3, 3), *size), cell_boxes(Grid(3, 3), *size, overlap=0.5)
    assert (grown[:, :2] <= plain[:, :2]).all()
    assert (grown[:, 2:] >= plain[:, 2:]).all()
    assert (grown[:, :2] >= 0).all()
    assert (grown[:, 2:] <= torch.tensor([size[1], size[0]])).all()
    assert (grown != plain).any()


@pytest.mark.parametrize(
    ("grid", "finer"), [(Grid(2, 2), Grid(4, 4)), (Grid(2, 3), Grid(6, 6)), (Grid(3, 3), Grid(3, 3))]
)
def test_children_are_the_cells_inside(grid: Grid, finer: Grid) -> None:
    # A size that both grids divide, so that borders agree.
    parents, cells = (cell_boxes(one, 24, 24) for one in (grid, finer))
    for parent in range(grid.cells):
        inside = {
            cell
            for cell, box in enumerate(cells)
            if (box[:2] >= parents[parent, :2]).all() and (box[2:] <= parents[parent, 2:]).all()
        }
        assert set(children(torch.tensor([parent]), grid, finer).tolist()) == inside


def test_children_of_everything_are_everything() -> None:
    assert sorted(children(torch.arange(6), Grid(2, 3), Grid(4, 9)).tolist()) == list(range(36))


def test_grids_that_do_not_nest_are_refused() -> None:
    with pytest.raises(ValueError, match="6 x 6 cells after one of 4 x 4 .* multiple"):
        children(torch.tensor([0]), Grid(4, 4), Grid(6, 6))


@pytest.mark.parametrize("cells", [[0, 1, 2, 3, 4, 5], [0, 2, 4], [5, 0], [3], [1, 4, 0]])
def test_partners_are_the_4_neighbours_among_the_candidates_or_all_others(cells: list[int]) -> None:
    index, counts = partners(torch.tensor([cells]), Grid(2, 3))
    found = [sorted(row[count].tolist()) for row, count in zip(index[0], counts[0], strict=True)]
    assert found == neighbours(cells, 3)
