"""Herding against the formula, and against random for what it is meant to do."""

import pytest
import torch

from lightning_coreset.ops import herding
from lightning_coreset.ops.rows import normalize_rows
from tests.helpers import references
from tests.helpers.examples import normal_rows, tied_rows


@pytest.mark.parametrize("size", [1, 2, 64, 128])
def test_the_same_picks_as_the_formula_with_ties(size: int) -> None:
    # Sizes are powers of two, so that the mean is exact as well.
    rows = tied_rows(size, seed=size)
    assert herding(rows, size).tolist() == references.herding(rows.numpy(), size)


@pytest.mark.parametrize("seed", range(5))
def test_initial_and_forbidden_as_in_the_formula(seed: int) -> None:
    rows = tied_rows(64, seed=seed)
    initial, forbidden = torch.tensor([3, 60, 41]), torch.tensor([0, 7, 50, 51])
    expected = references.herding(rows.numpy(), 57, initial=initial.tolist(), forbidden=forbidden.tolist())
    assert herding(rows, 57, initial=initial, forbidden=forbidden).tolist() == expected


@pytest.mark.parametrize("seed", range(5))
def test_general_position(seed: int) -> None:
    rows = normal_rows(200, 10, seed)
    assert herding(rows, 60).tolist() == references.herding(rows.numpy(), 60)


@pytest.mark.parametrize("count", [1, 5, 20, 50])
def test_the_mean_of_the_picks_is_closer_than_that_of_random_items(count: int) -> None:
    rows = normalize_rows(normal_rows(400, 16))
    generator = torch.Generator().manual_seed(0)

    def gap(items: torch.Tensor) -> float:
        return (rows[items].mean(dim=0) - rows.mean(dim=0)).norm().item()

    by_chance = [gap(torch.randperm(400, generator=generator)[:count]) for _ in range(50)]
    assert gap(herding(rows, count)) <= min(by_chance)


@pytest.mark.parametrize("size", [63, 65, 255, 257, 300])
@pytest.mark.parametrize("width", [5, 33, 64])
def test_equal_rows_go_to_the_lowest(size: int, width: int) -> None:
    which = torch.randint(size // 3, (size,), generator=torch.Generator().manual_seed(size))
    picks = herding(normal_rows(size // 3, width)[which], size // 2).tolist()
    for row in range(size // 3):
        chosen = [pick for pick in picks if which[pick] == row]
        assert chosen == torch.nonzero(which == row).flatten().tolist()[: len(chosen)]


@pytest.mark.parametrize("rows", [torch.zeros(70, 3), torch.ones(70, 3)])
def test_rows_that_say_nothing_are_picked_in_order(rows: torch.Tensor) -> None:
    assert herding(rows, 70).tolist() == list(range(70))


def test_the_bar_hears_of_every_pick() -> None:
    heard: list[int] = []
    herding(normal_rows(40), 13, advance=heard.append)
    assert sum(heard) == 13
