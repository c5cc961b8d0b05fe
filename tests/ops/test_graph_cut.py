"""Graph cut without a pairwise matrix against graph cut with one."""

import numpy as np
import pytest
import torch

from lightning_coreset.ops import graph_cut
from tests.helpers import references
from tests.helpers.examples import normal_rows, tied_rows


@pytest.mark.parametrize("lam", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("size", [1, 2, 50, 130])
def test_the_same_picks_and_gains_as_from_the_dense_matrix(size: int, lam: float) -> None:
    rows = tied_rows(size, seed=size)
    expected, gains = references.graph_cut(references.cosine(rows.numpy()), size, lam=lam)
    found = graph_cut(rows, size, lam=lam)
    assert found.indices.tolist() == expected
    assert found.gains.tolist() == gains


@pytest.mark.parametrize("seed", range(5))
def test_initial_and_forbidden_as_from_the_dense_matrix(seed: int) -> None:
    rows = tied_rows(90, seed=seed)
    initial, forbidden = torch.tensor([3, 80, 41]), torch.tensor([0, 7, 50, 51])
    expected, gains = references.graph_cut(
        references.cosine(rows.numpy()), 83, initial=initial.tolist(), forbidden=forbidden.tolist()
    )
    found = graph_cut(rows, 83, initial=initial, forbidden=forbidden)
    assert found.indices.tolist() == expected
    assert found.gains.tolist() == gains


@pytest.mark.parametrize("seed", range(5))
def test_general_position(seed: int) -> None:
    rows = normal_rows(300, 10, seed)
    expected, gains = references.graph_cut(references.cosine(rows.numpy()), 100)
    found = graph_cut(rows, 100)
    assert found.indices.tolist() == expected
    assert np.allclose(found.gains.numpy(), gains, atol=1e-4)


def test_negative_gains_do_not_end_the_selection() -> None:
    found = graph_cut(normal_rows(60, 4), 60)
    assert found.gains[-1] < 0
    assert sorted(found.indices.tolist()) == list(range(60))


@pytest.mark.parametrize("size", [63, 65, 255, 257, 300])
@pytest.mark.parametrize("width", [5, 33, 64])
def test_equal_rows_go_to_the_lowest(size: int, width: int) -> None:
    which = torch.randint(size // 3, (size,), generator=torch.Generator().manual_seed(size))
    picks = graph_cut(normal_rows(size // 3, width)[which], size // 2).indices.tolist()
    for row in range(size // 3):
        chosen = [pick for pick in picks if which[pick] == row]
        assert chosen == torch.nonzero(which == row).flatten().tolist()[: len(chosen)]


@pytest.mark.parametrize("rows", [torch.zeros(70, 3), torch.ones(70, 3)])
def test_rows_that_say_nothing_are_picked_in_order(rows: torch.Tensor) -> None:
    assert graph_cut(rows, 70).indices.tolist() == list(range(70))


def test_the_bar_hears_of_every_pick() -> None:
    heard: list[int] = []
    graph_cut(normal_rows(40), 13, advance=heard.append)
    assert sum(heard) == 13
