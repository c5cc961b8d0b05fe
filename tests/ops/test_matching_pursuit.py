"""Matching pursuit against whole gradients, with scipy's non-negative least squares after every pick."""

import numpy as np
import pytest
import torch

from lightning_coreset.ops.gradients import Gradients
from lightning_coreset.ops.matching_pursuit import matching_pursuit
from tests.helpers import references_signals as references
from tests.ops.test_gradients import random_gradients


@pytest.mark.parametrize("ridge", [5.0, 0.5, 1e-3])
@pytest.mark.parametrize("seed", range(4))
def test_picks_and_weights_are_the_reference(seed: int, ridge: float) -> None:
    factors, whole = random_gradients(60, seed=seed)
    found = matching_pursuit(factors, 30, ridge=ridge)
    assert found.indices.tolist() == references.matching_pursuit(whole, 30, ridge)
    expected = references.ridge_weights(whole, found.indices.tolist(), ridge)
    assert np.allclose(found.weights, expected, atol=1e-5 * expected.max())


def test_initial_rows_are_weighed_and_not_returned() -> None:
    factors, whole = random_gradients(60)
    found = matching_pursuit(factors, 20, ridge=0.1, initial=torch.tensor([5, 17]))
    assert found.indices.tolist() == references.matching_pursuit(whole, 20, 0.1, initial=[5, 17])
    expected = references.ridge_weights(whole, [5, 17, *found.indices.tolist()], 0.1)[2:]
    assert np.allclose(found.weights, expected, atol=1e-5 * expected.max())


def test_weights_that_turn_negative_are_taken_away_and_may_come_back() -> None:
    """Gradients all round a circle: what was right for few is wrong for many."""
    turn = torch.linspace(0, 5.5, 40)
    factors = Gradients(torch.stack([turn.cos() + 0.3, turn.sin()], dim=1), torch.ones(40, 1))
    found = matching_pursuit(factors, 40, ridge=1e-4)
    whole = factors.residuals.double().numpy()
    expected = references.ridge_weights(whole, found.indices.tolist(), 1e-4)
    assert bool((found.weights >= 0).all())
    fitted = found.weights.numpy() @ whole[found.indices]
    assert np.linalg.norm(fitted - expected @ whole[found.indices]) < 1e-4


def test_as_many_picks_as_asked_for_even_where_nothing_is_left_to_match() -> None:
    factors = Gradients(torch.tensor([[1.0], [-1.0], [-2.0], [0.5]]), torch.ones(4, 1))
    found = matching_pursuit(factors, 4, ridge=0.1)
    assert sorted(found.indices.tolist()) == [0, 1, 2, 3]
    # The sum points down: what points up has no weight, and is picked all the same.
    assert found.indices.tolist()[:2] == [2, 1]
    assert bool((found.weights[2:] == 0).all())
    still = matching_pursuit(Gradients(torch.zeros(3, 2), torch.ones(3, 1)), 2)
    assert still.indices.tolist() == [0, 1]


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_the_scale_of_gradients_does_not_matter(factor: float) -> None:
    factors, _ = random_gradients(60)
    plain = matching_pursuit(factors, 20)
    scaled = matching_pursuit(Gradients(factors.residuals * factor, factors.inputs), 20)
    assert torch.equal(scaled.indices, plain.indices)
    assert torch.allclose(scaled.weights, plain.weights, rtol=1e-4, atol=1e-6)


def test_the_sum_is_matched_better_than_by_a_random_choice() -> None:
    factors, whole = random_gradients(200, classes=5, width=8)
    found = matching_pursuit(factors, 25, ridge=1e-3)

    def missed(chosen: list[int]) -> float:
        left = whole.sum(axis=0) - references.ridge_weights(whole, chosen, 1e-3) @ whole[chosen]
        return float(np.linalg.norm(left))

    random = [missed(np.random.default_rng(seed).permutation(200)[:25].tolist()) for seed in range(10)]
    assert missed(found.indices.tolist()) < 0.6 * min(random)


def test_what_is_no_question() -> None:
    factors, _ = random_gradients(10)
    with pytest.raises(ValueError, match="both hold 3"):
        matching_pursuit(factors, 2, initial=torch.tensor([3]), forbidden=torch.tensor([3]))
    with pytest.raises(ValueError, match="11 picks are asked for"):
        matching_pursuit(factors, 11)
