"""Gradients as two factors: everything as if they were whole."""

import numpy as np
import pytest
import torch

from lightning_coreset.ops.gradients import Gradients, GradientSimilarity


def random_gradients(size: int, classes: int = 4, width: int = 6, seed: int = 0) -> tuple[Gradients, np.ndarray]:
    """Factors, and the whole gradients in float64."""
    generator = torch.Generator().manual_seed(seed)
    factors = Gradients(torch.randn(size, classes, generator=generator), torch.randn(size, width, generator=generator))
    whole = np.einsum("nc,nh->nch", factors.residuals.double().numpy(), factors.inputs.double().numpy())
    return factors, whole.reshape(size, -1)


def test_sums_and_products_are_those_of_whole_gradients() -> None:
    factors, whole = random_gradients(50)
    weights = torch.rand(3, generator=torch.Generator().manual_seed(1))
    chosen = torch.tensor([4, 40, 7])
    assert np.allclose(factors.squares(), (whole**2).sum(axis=1), rtol=1e-5)
    assert np.allclose(factors.total().flatten(), whole.sum(axis=0))
    assert np.allclose(factors.total(chosen, weights).flatten(), weights.double().numpy() @ whole[[4, 40, 7]])
    direction = torch.randn(4, 6, generator=torch.Generator().manual_seed(2))
    assert np.allclose(factors.along(direction), whole @ direction.double().flatten().numpy(), atol=1e-4)


@pytest.mark.parametrize("size", [3, 63, 64, 200, 300])
def test_similarity_is_a_constant_less_the_distance(size: int) -> None:
    factors, whole = random_gradients(size)
    similarity = GradientSimilarity(factors, mode="dense")
    distances = np.linalg.norm(whole[:, None] - whole, axis=2)
    found = similarity.rows(torch.arange(size))
    assert np.allclose(float(similarity.constant) - found, distances, atol=1e-3)
    assert bool((found >= 0).all())
    assert bool((found.diagonal() == similarity.constant).all())


@pytest.mark.parametrize("size", [3, 64, 130, 600])
def test_streamed_rows_have_the_bits_of_dense_ones(size: int) -> None:
    factors, _ = random_gradients(size)
    dense, streamed = (GradientSimilarity(factors, mode=mode) for mode in ("dense", "streamed"))  # type: ignore[arg-type]
    for places in (torch.tensor([2]), torch.arange(size).flip(0)[:70]):
        assert torch.equal(dense.rows(places), streamed.rows(places))
    for (part, values), (other, others) in zip(dense.blocks(), streamed.blocks(), strict=True):
        assert part == other
        assert torch.equal(values, others)


def test_the_mode_follows_the_memory() -> None:
    factors, _ = random_gradients(100)
    assert GradientSimilarity(factors, memory_limit=40_000).mode == "dense"
    assert GradientSimilarity(factors, memory_limit=39_999).mode == "streamed"


def test_equal_gradients_are_at_no_distance() -> None:
    factors, _ = random_gradients(40, width=300)
    twice = Gradients(torch.cat([factors.residuals] * 2), torch.cat([factors.inputs] * 2))
    similarity = GradientSimilarity(twice, mode="dense")
    assert bool((similarity.rows(torch.arange(40))[:, 40:].diagonal() == similarity.constant).all())
    equal = twice.equal()
    assert equal is not None
    assert equal.tolist() == list(range(40)) * 2
