"""K-means: nearest centres, means of clusters, and the same clusters with and without faiss."""

import importlib.util

import numpy as np
import pytest
import torch

from lightning_coreset.errors import CoresetError
from lightning_coreset.ops import faiss_guard, kmeans
from lightning_coreset.ops.kmeans import plus_plus_centers
from lightning_coreset.ops.random import seeded_generator
from tests.helpers import references
from tests.helpers.examples import clouds, normal_rows, tied_rows

needs_faiss = pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="faiss is not installed")
ENGINES = [pytest.param("faiss", marks=needs_faiss), "torch"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("size", [65, 300])
def test_items_belong_to_the_nearest_centre(size: int, engine: str) -> None:
    rows = normal_rows(size, 5)
    found = kmeans(rows, 7, engine=engine)
    assert found.assignment.tolist() == references.nearest_center(rows.numpy(), found.centers.numpy())
    distance = np.linalg.norm(rows.numpy() - found.centers.numpy()[found.assignment.numpy()], axis=1)
    assert found.inertia == pytest.approx((distance**2).sum(), rel=1e-5)


def test_equal_centres_go_to_the_lowest() -> None:
    # Three copies of each of four points: two centres for each point.
    rows = torch.eye(4).repeat(3, 1)
    found = kmeans(rows, 8, engine="torch")
    assert found.assignment.tolist() == references.nearest_center(rows.numpy(), found.centers.numpy())
    assert len(found.assignment.unique()) == 4
    assert found.inertia == 0


def test_centres_are_the_means_of_their_items() -> None:
    rows = normal_rows(200, 4)
    found = kmeans(rows, 6, engine="torch", iterations=100)
    for cluster in range(6):
        assert torch.allclose(found.centers[cluster], rows[found.assignment == cluster].mean(dim=0), atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_clouds_are_found(engine: str) -> None:
    rows, labels = clouds([40, 25, 60, 33], spread=0.05)
    found = kmeans(rows, 4, engine=engine)
    assert len({(int(label), int(cluster)) for label, cluster in zip(labels, found.assignment, strict=True)}) == 4


@needs_faiss
@pytest.mark.parametrize("seed", range(3))
def test_faiss_changes_nothing_on_easy_data(seed: int) -> None:
    rows, _ = clouds([40, 25, 60, 33, 50], spread=0.05, seed=seed)
    with_faiss, without = (kmeans(rows, 5, seed=seed, engine=engine) for engine in ("faiss", "torch"))
    assert torch.equal(with_faiss.assignment, without.assignment)
    assert torch.allclose(with_faiss.centers, without.centers, atol=1e-4)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_seed_gives_the_same_clusters(engine: str) -> None:
    rows = normal_rows(200, 4)
    first, again, other = (kmeans(rows, 9, seed=seed, engine=engine).centers for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_more_restarts_are_never_worse() -> None:
    rows = normal_rows(150, 3)
    once, often = (kmeans(rows, 12, restarts=restarts, engine="torch").inertia for restarts in (1, 6))
    assert often <= once


@pytest.mark.parametrize("engine", ENGINES)
def test_as_many_clusters_as_items(engine: str) -> None:
    found = kmeans(normal_rows(40, 3), 40, engine=engine)
    assert sorted(found.assignment.tolist()) == list(range(40))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("rows", [torch.zeros(30, 3), torch.ones(30, 3)])
def test_items_that_are_all_alike(rows: torch.Tensor, engine: str) -> None:
    found = kmeans(rows, 5, engine=engine)
    assert bool(torch.isfinite(found.centers).all())
    assert found.assignment.min() >= 0
    assert found.assignment.max() < 5


def test_starting_centres_are_distinct_items_while_there_are_any() -> None:
    rows = torch.cat([tied_rows(20), tied_rows(20)])
    distinct = len(rows.unique(dim=0))
    for seed in range(20):
        centers = plus_plus_centers(rows, distinct, seeded_generator(seed))
        assert len(centers.unique(dim=0)) == distinct
        assert len(plus_plus_centers(rows, 40, seeded_generator(seed))) == 40


@pytest.mark.parametrize("clusters", [0, 11])
def test_a_number_of_clusters_that_is_none(clusters: int) -> None:
    with pytest.raises(ValueError, match=f"{clusters} clusters of 10 items are not accepted: give 1 to 10"):
        kmeans(normal_rows(10), clusters)


def test_an_unknown_engine() -> None:
    with pytest.raises(ValueError, match="engine='sklearn' is not accepted: give 'auto', 'faiss' or 'torch'"):
        kmeans(normal_rows(10), 2, engine="sklearn")  # type: ignore[arg-type]


def test_without_faiss_torch_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(faiss_guard, "_is_installed", lambda name: False)
    rows = normal_rows(50, 4)
    assert torch.equal(kmeans(rows, 5).centers, kmeans(rows, 5, engine="torch").centers)
    with pytest.raises((ValueError, CoresetError), match="engine='faiss' needs faiss, which is not installed"):
        kmeans(rows, 5, engine="faiss")


def test_two_faiss_distributions_are_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss_guard, "_is_installed", lambda name: name in ("faiss-cpu", "faiss-gpu"))
    with pytest.raises(
        CoresetError, match="faiss-cpu and faiss-gpu are installed at once .*`pip uninstall -y faiss-cpu faiss-gpu`"
    ):
        kmeans(normal_rows(10), 2)
