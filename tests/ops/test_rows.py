"""The small rules that every kernel shares."""

import numpy as np
import pytest
import torch

from lightning_coreset.ops.random import seeded_generator
from lightning_coreset.ops.rows import (
    MIN_BLOCK_ROWS,
    as_positions,
    candidate_mask,
    first_argmax,
    first_equal_row,
    normalize_rows,
    row_blocks,
)
from tests.helpers import references
from tests.helpers.examples import normal_rows


def test_unit_rows() -> None:
    rows = normal_rows(50, 7)
    assert np.allclose(normalize_rows(rows).numpy(), references.unit_rows(rows.numpy()), atol=1e-6)


@pytest.mark.parametrize("power", [-60, -10, 1, 20, 60])
def test_a_power_of_two_for_each_row_changes_no_bit(power: int) -> None:
    rows = normal_rows(30, 9)
    factors = 2.0 ** (torch.arange(30) % 5 * power / 4).round()
    assert torch.equal(normalize_rows(rows * factors[:, None]), normalize_rows(rows))


@pytest.mark.parametrize("size", [1e-44, 1e-38, 1e-20, 1.0, 1e20, 3e38])
def test_lengths_neither_overflow_nor_vanish(size: float) -> None:
    unit = normalize_rows(torch.tensor([[size, 0.0], [size, -size]]))
    assert torch.allclose(unit, torch.tensor([[1.0, 0.0], [0.5**0.5, -(0.5**0.5)]]))


def test_rows_of_zeros_stay_zeros() -> None:
    assert normalize_rows(torch.zeros(3, 4)).tolist() == torch.zeros(3, 4).tolist()


@pytest.mark.parametrize("rows", [1, 63, 64, 65, 127, 128, 129, 150, 255, 256, 257, 300, 520])
@pytest.mark.parametrize("block", [1, 64, 100, 256, 1000])
def test_blocks_cover_all_rows_once_and_none_is_small(rows: int, block: int) -> None:
    parts = list(row_blocks(rows, block))
    assert [place for part in parts for place in range(part.start, part.stop)] == list(range(rows))
    assert len(parts) == 1 or min(part.stop - part.start for part in parts) >= MIN_BLOCK_ROWS


@pytest.mark.parametrize("dim", [0, 1])
def test_the_first_of_equal_values_is_taken(dim: int) -> None:
    values = torch.randint(0, 3, (40, 70), generator=torch.Generator().manual_seed(0)).float()
    expected = [int(np.flatnonzero(line == line.max())[0]) for line in (values if dim == 1 else values.T).numpy()]
    assert first_argmax(values, dim=dim).tolist() == expected


def test_the_first_of_values_that_are_all_minus_infinity() -> None:
    assert first_argmax(torch.full((5,), -torch.inf)).item() == 0


@pytest.mark.parametrize("size", [1, 2, 300])
def test_equal_rows_point_to_the_first_of_them(size: int) -> None:
    distinct = normal_rows(max(1, size // 3), 5)
    which = torch.randint(len(distinct), (size,), generator=torch.Generator().manual_seed(0))
    found = first_equal_row(distinct[which])
    expected = [which.tolist().index(row) for row in which.tolist()]
    assert (list(range(size)) if found is None else found.tolist()) == expected


def test_rows_that_all_differ_have_no_equals() -> None:
    assert first_equal_row(normal_rows(500, 2)) is None
    swapped = torch.tensor([[1.0, 2.0], [2.0, 1.0], [-1.0, 2.0]])
    assert first_equal_row(swapped) is None


def test_zeros_of_either_sign_are_equal() -> None:
    found = first_equal_row(torch.tensor([[0.0, 1.0], [-0.0, 1.0]]))
    assert found is not None
    assert found.tolist() == [0, 0]


def test_positions() -> None:
    cpu = torch.device("cpu")
    assert as_positions(None, 5, "initial", cpu).tolist() == []
    assert as_positions(torch.tensor([]), 5, "initial", cpu).dtype == torch.int64
    assert as_positions(torch.tensor([3, 1], dtype=torch.int32), 5, "initial", cpu).tolist() == [3, 1]
    with pytest.raises(ValueError, match="initial holds 5, but positions go from 0 to 4"):
        as_positions(torch.tensor([1, 5]), 5, "initial", cpu)
    with pytest.raises(ValueError, match=r"initial holds a position twice \(3 given, 2 distinct\)"):
        as_positions(torch.tensor([1, 2, 1]), 5, "initial", cpu)
    for wrong in (torch.tensor([1.0]), torch.tensor([True, False])):
        with pytest.raises(ValueError, match=r"initial holds torch\..* values: give positions as whole numbers"):
            as_positions(wrong, 5, "initial", cpu)


def test_candidates_are_neither_initial_nor_forbidden() -> None:
    mask = candidate_mask(6, torch.tensor([1]), torch.tensor([4, 5]), 3)
    assert mask.tolist() == [True, False, True, True, False, False]
    with pytest.raises(ValueError, match=r"initial and forbidden both hold 4 \(1 in all\)"):
        candidate_mask(6, torch.tensor([1, 4]), torch.tensor([4, 5]), 3)
    for count in (0, 4):
        with pytest.raises(ValueError, match=rf"{count} picks .* 3 of 6 rows are candidates: ask for 1 to 3"):
            candidate_mask(6, torch.tensor([1]), torch.tensor([4, 5]), count)


def test_every_part_of_a_seed_counts() -> None:
    def draw(*parts: int | str | None) -> float:
        return torch.rand(1, generator=seeded_generator(*parts), dtype=torch.float64).item()

    keys: list[tuple[int | str | None, ...]] = [
        (0,),
        (1,),
        (0, "class", 1),
        (0, "class", 2),
        (0, "class", None),
        (0, 1),
        (-1,),
    ]
    assert len({draw(*key) for key in keys}) == len(keys)
    assert draw(0, "class", 1) == draw(0, "class", 1)
