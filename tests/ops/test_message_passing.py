"""Messages on a sparse graph against those on a dense one."""

import numpy as np
import pytest
import torch

from lightning_coreset.ops.message_passing import message_passing
from lightning_coreset.ops.neighbors import nearest_neighbors
from tests.helpers import references_signals as references
from tests.helpers.examples import normal_rows


@pytest.mark.parametrize(("forward", "reverse"), [(1.0, 1.0), (0.5, 0.0), (3.0, 2.0)])
@pytest.mark.parametrize("neighbors", [1, 5, 79])
def test_picks_are_the_reference(neighbors: int, forward: float, reverse: float) -> None:
    features, scores = normal_rows(80, 5), torch.rand(80, generator=torch.Generator().manual_seed(1))
    found = message_passing(scores, nearest_neighbors(features, neighbors), 50, forward=forward, reverse=reverse)
    picks, gains = references.message_passing(
        scores.double().numpy(), features.numpy(), neighbors, 50, forward=forward, reverse=reverse
    )
    assert found.indices.tolist() == picks
    assert np.allclose(found.gains, gains, atol=1e-4)


def test_a_pick_takes_from_its_neighbours() -> None:
    """Two tight clouds: the second pick is not beside the first, though it is worth more alone."""
    features = torch.tensor([[1.0, 0.0], [1.0, 0.01], [1.0, 0.02], [0.0, 1.0], [0.01, 1.0], [0.02, 1.0]])
    scores = torch.tensor([9.0, 8.9, 8.8, 5.0, 4.9, 4.8])
    assert message_passing(scores, nearest_neighbors(features, 2), 2).indices.tolist()[1] >= 3
    assert scores.topk(2).indices.tolist() == [0, 1]


def test_initial_items_take_from_theirs() -> None:
    features = torch.tensor([[1.0, 0.0], [1.0, 0.01], [1.0, 0.02], [0.0, 1.0], [0.01, 1.0], [0.02, 1.0]])
    scores = torch.tensor([9.0, 8.9, 8.8, 5.0, 4.9, 4.8])
    assert message_passing(scores, nearest_neighbors(features, 2), 1, initial=torch.tensor([2])).indices.item() >= 3


def test_an_item_without_neighbours_is_worth_what_it_is() -> None:
    alone = nearest_neighbors(torch.eye(2), 1)
    found = message_passing(torch.tensor([1.0, 2.0]), alone, 2, forward=100.0, reverse=100.0)
    assert found.indices.tolist() == [1, 0]
    assert found.gains.tolist() == [2.0, 1.0]
