"""Farthest-first against a dense reference."""

import sys

import pytest
import torch

from lightning_coreset.ops import k_center
from lightning_coreset.ops.rows import normalize_rows
from tests.helpers import references
from tests.helpers.examples import clouds, normal_rows, tied_rows


@pytest.mark.parametrize("size", [1, 2, 64, 128])
@pytest.mark.parametrize("start", [None, 0, -1])
def test_the_same_picks_as_the_reference_with_ties(size: int, start: int | None) -> None:
    rows = tied_rows(size, seed=size)
    start = size - 1 if start == -1 else start
    assert k_center(rows, size, start=start).indices.tolist() == references.farthest_first(
        rows.numpy(), size, start=start
    )


@pytest.mark.parametrize("start", [None, 20])
@pytest.mark.parametrize("initial", [[], [3, 60, 41]])
def test_initial_and_forbidden_as_in_the_reference(initial: list[int], start: int | None) -> None:
    rows, forbidden = tied_rows(64), [0, 7, 50, 51]
    found = k_center(rows, 50, start=start, initial=torch.tensor(initial), forbidden=torch.tensor(forbidden))
    assert found.indices.tolist() == references.farthest_first(
        rows.numpy(), 50, start=start, initial=initial, forbidden=forbidden
    )


@pytest.mark.parametrize("seed", range(5))
def test_general_position(seed: int) -> None:
    rows = normal_rows(200, 10, seed)
    assert k_center(rows, 80).indices.tolist() == references.farthest_first(rows.numpy(), 80)


def test_gains_are_distances_to_what_was_chosen_before() -> None:
    rows = normal_rows(100, 6)
    found = k_center(rows, 100)
    unit = normalize_rows(rows)
    for step in range(1, 100):
        before = torch.cdist(unit[found.indices[step]][None], unit[found.indices[:step]]).min()
        assert found.gains[step].item() == pytest.approx(before.item(), abs=1e-5)
    assert found.gains[0] == 2
    assert bool((found.gains[1:] <= found.gains[:-1]).all())


@pytest.mark.parametrize("size", [63, 65, 257, 300])
def test_equal_rows_come_last_and_in_order(size: int) -> None:
    which = torch.randint(20, (size,), generator=torch.Generator().manual_seed(size))
    found = k_center(normal_rows(20, 33)[which], size)
    distinct = len(which.unique())
    assert len(which[found.indices[:distinct]].unique()) == distinct
    assert bool((found.gains[distinct:] == 0).all())
    assert found.indices[distinct:].tolist() == sorted(set(range(size)) - set(found.indices[:distinct].tolist()))


@pytest.mark.parametrize("rows", [torch.zeros(70, 3), torch.ones(70, 3)])
def test_rows_that_say_nothing_are_picked_in_order(rows: torch.Tensor) -> None:
    assert k_center(rows, 70).indices.tolist() == list(range(70))


@pytest.mark.parametrize("start", [-1, 10, 3, 4])
def test_a_start_that_may_not_be_picked(start: int) -> None:
    with pytest.raises(ValueError, match=f"start={start} is not accepted: give a row from 0 to 9 that is neither"):
        k_center(normal_rows(10), 2, start=start, initial=torch.tensor([3]), forbidden=torch.tensor([4]))


def test_the_bar_hears_of_every_pick() -> None:
    heard: list[int] = []
    k_center(normal_rows(40), 13, advance=heard.append)
    assert sum(heard) == 13


@pytest.mark.parametrize("spread", [0.0, 0.01, 0.2, 1.0])
def test_passing_over_far_items_changes_no_bit(spread: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _ = clouds([60, 90, 30, 40], spread=spread)
    initial = torch.tensor([3, 100])
    module = sys.modules[k_center.__module__]
    looked: list[int] = []
    measure = module._distances
    monkeypatch.setattr(module, "_distances", lambda some, center: looked.append(len(some)) or measure(some, center))
    pruned = k_center(rows, 120, initial=initial)
    with_pruning = sum(looked)
    looked.clear()
    monkeypatch.setattr(module.NearestCenters, "_reachable", lambda self, center: None)
    whole = k_center(rows, 120, initial=initial)
    assert torch.equal(pruned.indices, whole.indices)
    assert torch.equal(pruned.gains, whole.gains)
    # Tight clouds are passed over but for the one that the pick is in.
    assert spread > 0.2 or with_pruning < 0.8 * sum(looked)
