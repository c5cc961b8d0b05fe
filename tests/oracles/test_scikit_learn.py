"""Matching pursuit against scikit-learn's, weights against scipy's, neighbours against scikit-learn's."""

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_coreset import Pool, Signals, select
from lightning_coreset.ops.gradients import Gradients
from lightning_coreset.ops.matching_pursuit import matching_pursuit
from lightning_coreset.ops.neighbors import nearest_neighbors
from tests.helpers.examples import normal_rows

linear_model = pytest.importorskip("sklearn.linear_model")
neighbors = pytest.importorskip("sklearn.neighbors")
optimize = pytest.importorskip("scipy.optimize")

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("seed", range(10))
def test_orthogonal_matching_pursuit(seed: int) -> None:
    """Gradients of one length whose best weights are positive: there the two objectives are one."""
    generator = np.random.default_rng(seed)
    atoms = generator.normal(size=(40, 60)) + 0.4
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    rows = torch.tensor(atoms, dtype=torch.float32)
    found = matching_pursuit(Gradients(rows, torch.ones(40, 1)), 6, ridge=1e-9)
    theirs = linear_model.orthogonal_mp(atoms.T, atoms.sum(axis=0), n_nonzero_coefs=6)
    assert (theirs >= 0).all()
    assert sorted(found.indices.tolist()) == np.flatnonzero(theirs).tolist()
    assert np.allclose(found.weights, theirs[found.indices], rtol=1e-3)


@pytest.mark.parametrize("seed", range(10))
def test_weights_of_real_digits_are_those_of_non_negative_least_squares(
    seed: int, digits: tuple[Tensor, Tensor]
) -> None:
    """Gradients of a linear layer on real images; scipy solves for the picks that we made."""
    places = torch.randperm(1797, generator=torch.Generator().manual_seed(seed))[:150]
    images, labels = digits[0][places] / 16, digits[1][places]
    layer = torch.randn(10, 64, generator=torch.Generator().manual_seed(seed)) / 8
    signals = Signals.from_logits(images @ layer.T, labels, images)
    found = select(Pool(signals=signals), method="grad_match", budget=40, per_class=False, ridge=0.1)
    residuals = signals.logits.double().softmax(1).numpy() - np.eye(10)[labels]
    inputs = np.hstack([images.double().numpy(), np.ones((150, 1))])
    whole = np.einsum("nc,nh->nch", residuals, inputs).reshape(150, -1)
    chosen = whole[found.indices]
    scale = np.sqrt(0.1 * (whole**2).sum(axis=1).mean())
    theirs, _ = optimize.nnls(
        np.vstack([chosen.T, scale * np.eye(40)]), np.concatenate([whole.sum(axis=0), np.zeros(40)])
    )
    sizes = (found.weights * found.manifest["weight_scale"]).double().numpy()
    assert np.allclose(sizes, theirs * 150 / theirs.sum(), atol=1e-3)


@pytest.mark.parametrize("count", [1, 10])
def test_nearest_neighbours(count: int) -> None:
    rows = torch.nn.functional.normalize(normal_rows(300, 8), dim=1)
    search = neighbors.NearestNeighbors(n_neighbors=count, algorithm="brute").fit(rows)
    distances, indices = search.kneighbors()
    found = nearest_neighbors(rows, count)
    assert np.array_equal(found.indices, indices)
    assert np.allclose(found.distances, distances, atol=1e-3)
