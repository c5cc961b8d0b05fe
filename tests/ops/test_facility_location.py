"""Lazy greedy against naive greedy, dense against streamed."""

import numpy as np
import pytest
import torch

from lightning_coreset.ops import facility_location
from tests.helpers import references
from tests.helpers.examples import normal_rows, tied_rows

MODES = ("dense", "streamed")


def eighths(size: int, seed: int) -> torch.Tensor:
    """Weights that are multiples of 1/8, zero among them: products with cosines of tied rows stay exact."""
    return torch.randint(0, 9, (size,), generator=torch.Generator().manual_seed(seed)) / 8


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["cosine", "shifted"])
@pytest.mark.parametrize("size", [2, 40, 64, 65, 130])
def test_the_same_picks_and_gains_as_naive_greedy(size: int, kind: str, mode: str) -> None:
    rows = tied_rows(size, seed=size)
    expected, gains = references.facility_location(references.cosine(rows.numpy(), kind), size)
    found = facility_location(rows, size, similarity=kind, mode=mode)
    assert found.indices.tolist() == expected
    assert found.gains.tolist() == gains


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(8))
def test_weights_initial_and_forbidden_as_in_naive_greedy(seed: int, mode: str) -> None:
    rows = tied_rows(90, seed=seed)
    candidates, items = eighths(90, seed), eighths(90, seed + 100)
    initial, forbidden = torch.tensor([3, 80, 41]), torch.tensor([0, 7, 50, 51])
    expected, gains = references.facility_location(
        references.cosine(rows.numpy()),
        83,
        candidate_weights=candidates.numpy(),
        item_weights=items.numpy(),
        initial=initial.tolist(),
        forbidden=forbidden.tolist(),
    )
    found = facility_location(
        rows, 83, candidate_weights=candidates, item_weights=items, initial=initial, forbidden=forbidden, mode=mode
    )
    assert found.indices.tolist() == expected
    assert found.gains.tolist() == gains


@pytest.mark.parametrize("seed", range(5))
def test_the_same_picks_as_naive_greedy_in_general_position(seed: int) -> None:
    rows = normal_rows(150, 10, seed)
    expected, gains = references.facility_location(references.cosine(rows.numpy()), 15)
    found = facility_location(rows, 15)
    assert found.indices.tolist() == expected
    assert np.allclose(found.gains.numpy(), gains, atol=1e-4)


@pytest.mark.parametrize("size", [4, 8, 11, 63, 64, 65, 255, 256, 257, 300, 520])
@pytest.mark.parametrize("width", [5, 33])
def test_dense_and_streamed_agree_bit_for_bit(size: int, width: int) -> None:
    rows = normal_rows(size, width, seed=size)
    weights = torch.rand(size, generator=torch.Generator().manual_seed(0))
    for arguments in ({}, {"candidate_weights": weights, "initial": torch.tensor([1, 2])}, {"similarity": "shifted"}):
        dense, streamed = (facility_location(rows, size // 2, mode=mode, **arguments) for mode in MODES)
        assert torch.equal(dense.indices, streamed.indices)
        assert torch.equal(dense.gains, streamed.gains)


def test_a_memory_limit_changes_no_bit() -> None:
    rows = normal_rows(300, 20)
    roomy, tight = facility_location(rows, 60), facility_location(rows, 60, memory_limit=1)
    assert torch.equal(roomy.indices, tight.indices)
    assert torch.equal(roomy.gains, tight.gains)


@pytest.mark.parametrize("mode", MODES)
def test_equal_rows_go_to_the_lowest(mode: str) -> None:
    which = torch.randint(30, (257,), generator=torch.Generator().manual_seed(0))
    picks = facility_location(normal_rows(30, 17)[which], 150, mode=mode).indices.tolist()
    for row in range(30):
        chosen = [pick for pick in picks if which[pick] == row]
        assert chosen == torch.nonzero(which == row).flatten().tolist()[: len(chosen)]


def test_gains_never_grow() -> None:
    gains = facility_location(normal_rows(200, 12), 200).gains
    assert bool((gains[1:] <= gains[:-1]).all())
    assert gains[-1] >= 0


@pytest.mark.parametrize(
    "rows", [torch.zeros(70, 3), torch.ones(70, 3), torch.cat([torch.ones(5, 3), torch.zeros(65, 3)])]
)
def test_rows_that_say_nothing_are_picked_in_order(rows: torch.Tensor) -> None:
    assert facility_location(rows, 70).indices.tolist() == list(range(70))


def test_the_bar_hears_of_every_pick() -> None:
    heard: list[int] = []
    facility_location(normal_rows(40), 13, advance=heard.append)
    assert sum(heard) == 13


@pytest.mark.parametrize("name", ["candidate_weights", "item_weights"])
@pytest.mark.parametrize(
    "weights", [torch.ones(9), torch.full((10,), -1.0), torch.full((10,), float("nan")), torch.ones(10, 1)]
)
def test_weights_that_are_none(name: str, weights: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=rf"{name} have shape .*: give 10 finite weights, none negative"):
        facility_location(normal_rows(10), 2, **{name: weights})


@pytest.mark.parametrize("count", [0, 10])
def test_too_many_picks_or_none(count: int) -> None:
    with pytest.raises(ValueError, match="9 of 10 rows are candidates: ask for 1 to 9"):
        facility_location(normal_rows(10), count, forbidden=torch.tensor([2]))
