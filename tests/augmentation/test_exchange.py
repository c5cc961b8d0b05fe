"""Cells, masks and the exchange of backgrounds."""

import numpy as np
import pytest
import torch

from lightning_coreset.augmentation.exchange import borders, cells_of, exchange_background
from lightning_coreset.augmentation.masks import foreground_cells
from lightning_coreset.augmentation.planes import as_kind, with_channels
from tests.augmentation.images import crop
from tests.helpers import references_dq_v2


def checkerboard(cells: int) -> torch.Tensor:
    return (torch.arange(cells)[:, None] + torch.arange(cells)) % 2 == 0


@pytest.mark.parametrize("side", [2, 7, 28, 31, 224, 375])
@pytest.mark.parametrize("cells", [1, 2, 5, 14, 40])
def test_cells_cover_a_side_once_and_differ_by_one_pixel(side: int, cells: int) -> None:
    cells = min(cells, side // 2)
    found = borders(side, cells)
    assert (found[0], found[-1], len(found)) == (0, side, cells + 1)
    assert found.diff().min() >= 2 or cells == 1
    assert found.diff().max() - found.diff().min() <= 1


@pytest.mark.parametrize(
    ("size", "grid", "cells"),
    [((28, 28), 40, 14), ((32, 32), 40, 16), ((28, 100), 40, 14), ((375, 500), 40, 40), ((3, 9), 40, 1)],
)
def test_a_cell_has_at_least_two_pixels_a_side(size: tuple[int, int], grid: int, cells: int) -> None:
    assert cells_of(*size, grid) == cells


@pytest.mark.parametrize("cells", [1, 2, 5, 7, 14, 16, 40])
def test_half_of_the_cells_are_foreground_and_they_are_the_highest(cells: int) -> None:
    saliency = torch.rand(49, generator=torch.Generator().manual_seed(cells))
    found = foreground_cells(saliency, cells)
    assert found.sum() == -(-(cells**2) // 2)
    values = torch.from_numpy(references_dq_v2.bilinear(saliency.view(7, 7).numpy(), cells, cells))
    assert found.all() or values[found].min() >= values[~found].max() - 1e-6


def test_ties_go_to_the_lowest_cell() -> None:
    assert foreground_cells(torch.ones(49), 3).flatten().tolist() == [True] * 5 + [False] * 4


@pytest.mark.parametrize("donors", [[(28, 28)], [(28, 28), (40, 61)], [(30, 90), (10, 12), (64, 64)]])
@pytest.mark.parametrize(("size", "cells"), [((28, 28), 14), ((31, 45), 7), ((64, 30), 15)])
def test_every_background_cell_is_some_donors_background_cell_resized(
    size: tuple[int, int], cells: int, donors: list[tuple[int, int]]
) -> None:
    image, kept = crop(0, *size), checkerboard(cells)
    given = [(crop(place + 1, *own), checkerboard(cells_of(*own, 6))) for place, own in enumerate(donors)]
    changed = exchange_background(image, kept, given, torch.Generator().manual_seed(1))
    assert (changed.dtype, changed.shape) == (image.dtype, image.shape)
    down, right = borders(size[0], cells).tolist(), borders(size[1], cells).tolist()
    used = set()
    for row in range(cells):
        for column in range(cells):
            part = np.s_[:, down[row] : down[row + 1], right[column] : right[column + 1]]
            if kept[row, column]:
                assert torch.equal(changed[part], image[part])
                continue
            choices = references_dq_v2.background_cells(given, *changed[part].shape[1:])
            fitting = [
                place for place, choice in enumerate(choices) if np.abs(choice - changed[part].numpy()).max() <= 1
            ]
            assert fitting
            used.update(fitting)
    assert len(used) > 3


def test_cells_of_equal_size_are_copied_bit_for_bit() -> None:
    image, other, kept = crop(0), crop(1), checkerboard(14)
    changed = exchange_background(image, kept, [(other, kept)], torch.Generator())
    blocks = {tuple(block.flatten().tolist()) for block in _blocks(other)[~kept.flatten()]}
    assert all(tuple(block.flatten().tolist()) in blocks for block in _blocks(changed)[~kept.flatten()])


def _blocks(image: torch.Tensor) -> torch.Tensor:
    return image.unfold(1, 2, 2).unfold(2, 2, 2).permute(1, 2, 0, 3, 4).reshape(196, 3, 2, 2)


def test_draws_come_from_the_generator_and_reach_all_donors() -> None:
    image, kept = torch.zeros(1, 28, 28), checkerboard(14)
    donors = [(torch.full((1, 28, 28), float(value)), kept) for value in (1, 2, 3)]
    first, again, other = (
        exchange_background(image, kept, donors, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.unique().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("donors", [[], [(crop(1), torch.ones(14, 14, dtype=torch.bool))]])
def test_nothing_to_take_leaves_the_image(donors: list) -> None:
    assert torch.equal(exchange_background(crop(0), checkerboard(14), donors, torch.Generator()), crop(0))


@pytest.mark.parametrize("have", [1, 3, 4])
@pytest.mark.parametrize("wanted", [1, 3, 4])
def test_channels(have: int, wanted: int) -> None:
    image = crop(0, channels=have)
    found = with_channels(image, wanted)
    assert (found.dtype, found.shape) == (torch.uint8, (wanted, 28, 28))
    if wanted == 4 and have < 4:
        assert (found[3] == 255).all(), "opaque"
    if have == 1:
        assert torch.equal(found[:1], image)


def test_kinds_of_numbers() -> None:
    image = crop(0)
    assert torch.equal(as_kind(as_kind(image, torch.float32), torch.uint8), image)
    assert as_kind(image, torch.float32).max() <= 1
