"""Many classes in one tensor: what a GPU runs, checked on the CPU against one class after the other."""

import sys
from typing import Any

import pytest
import torch

from lightning_coreset import select
from lightning_coreset.ops import facility_location
from lightning_coreset.ops.batched_greedy import BatchedClasses, _Loop
from lightning_coreset.ops.neighbors import knn_radius
from lightning_coreset.ops.similarity import SimilarityRows, represented_by
from lightning_coreset.selectors.batching import batches_of
from tests.helpers.examples import clouds, normal_rows, tied_rows

SIZES = (40, 33, 64, 20, 1)


def clustered(size: int, width: int, seed: int) -> torch.Tensor:
    return clouds([size // 2, size // 4, size - size // 2 - size // 4], width=width, seed=seed, spread=0.2)[0]


def parts(make: Any = normal_rows) -> list[torch.Tensor]:
    return [make(size, 12, seed=size) for size in SIZES]


@pytest.mark.parametrize("kind", ["cosine", "shifted"])
@pytest.mark.parametrize("make", [normal_rows, tied_rows])
def test_each_class_is_picked_from_as_if_it_were_alone(make: Any, kind: Any) -> None:
    features = parts(make)
    counts = [10, 3, 20, 20, 1]
    weights = torch.randint(1, 9, (len(SIZES), 64), generator=torch.Generator().manual_seed(0)) / 8
    found = BatchedClasses(features, kind).greedy(counts, candidate_weights=weights)
    for place, rows in enumerate(features):
        alone = facility_location(
            rows, counts[place], candidate_weights=weights[place, : len(rows)], similarity=kind, mode="dense"
        )
        assert torch.equal(found[place].ranking.indices, alone.indices)
        assert torch.allclose(found[place].ranking.gains, alone.gains, atol=1e-4)
        assert torch.equal(found[place].owners, represented_by(SimilarityRows(rows, kind=kind), alone.indices))


@pytest.mark.parametrize("make", [normal_rows, tied_rows, clustered])
@pytest.mark.parametrize("weighted", [False, True])
def test_few_candidates_give_the_picks_of_all(make: Any, weighted: bool) -> None:
    """Where old gains do not suffice, which rows in general position bring about, all gains are made anew."""
    features = [make(size, 12, seed=size) for size in (400, 300, 350)]
    weights = torch.randint(1, 9, (3, 400), generator=torch.Generator().manual_seed(0)) / 8 if weighted else None
    found = BatchedClasses(features).greedy([90, 200, 5], candidate_weights=weights)
    for place, rows in enumerate(features):
        mine = None if weights is None else weights[place, : len(rows)]
        alone = facility_location(rows, len(found[place].ranking.indices), candidate_weights=mine, mode="dense")
        assert torch.equal(found[place].ranking.indices, alone.indices)


def test_initial_and_forbidden() -> None:
    features = parts()[:3]
    initial, forbidden = [torch.tensor([3, 5])] * 3, [torch.tensor([0, 1]), torch.tensor([2]), torch.empty(0).long()]
    found = BatchedClasses(features).greedy([8, 8, 8], initial=initial, forbidden=forbidden)
    for place, rows in enumerate(features):
        alone = facility_location(rows, 8, initial=initial[place], forbidden=forbidden[place])
        assert torch.equal(found[place].ranking.indices, alone.indices)


def test_radii_are_those_of_each_class() -> None:
    neighbors = [5, 1, 60, 19, 0]
    radii = BatchedClasses(parts()).radii(neighbors)
    for place, rows in enumerate(parts()[:4]):
        assert torch.allclose(radii[place, : len(rows)], knn_radius(rows, neighbors[place]), atol=1e-5)
    assert radii[4].tolist() == [0.0] * 64


@pytest.mark.parametrize("method", ["facility_location", "subzerocore"])
@pytest.mark.parametrize("memory_limit", [10**9, 40_000, 1])
@pytest.mark.filterwarnings("ignore:SubZeroCore looks at")
def test_selecting_at_once_gives_the_picks_of_one_after_the_other(
    method: str, memory_limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, labels = clouds([40, 25, 64, 31, 1, 12])
    given: dict[str, Any] = {"method": method, "budget": 60, "initial": [3, 50], "forbidden": [7], "seed": 1}
    alone = select(features, labels, memory_limit=memory_limit, **given)
    monkeypatch.setattr(sys.modules["lightning_coreset.selectors.running"], "together_on", lambda device: True)
    at_once = select(features, labels, memory_limit=memory_limit, **given)
    assert torch.equal(at_once.indices, alone.indices)
    assert torch.equal(at_once.weights, alone.weights)
    assert at_once.manifest["resolved"].get("neighbors") == alone.manifest["resolved"].get("neighbors")
    told = str(at_once.manifest["resolved"]["mode_reason"])
    assert ("classes in one tensor" in told) == (memory_limit > 1)


def test_batches_hold_every_class_once_within_the_limit() -> None:
    sizes = [50, 3, 49, 30, 24, 100, 2]
    found = batches_of(list(range(7)), sizes, lambda size: size * size, 5_500)
    assert sorted(label for batch in found for label in batch) == list(range(7))
    for batch in found:
        largest = max(sizes[label] for label in batch)
        assert len(batch) == 1 or len(batch) * largest**2 <= 5_500
        assert min(sizes[label] for label in batch) * 2 >= largest
    assert batches_of([4, 5], [9, 9], lambda size: None, 10) == [[4], [5]]


def test_the_loop_asks_the_device_for_nothing() -> None:
    meta = torch.device("meta")
    excluded = torch.zeros(2, 500, dtype=torch.bool, device=meta)
    loop = _Loop(*(torch.empty(2, *shape, device=meta) for shape in ((500, 500), (500,), (500,))), excluded)
    indices, _, trusted = loop.run(torch.empty(2, dtype=torch.int64, device=meta), 12, 64)
    assert indices.shape == (2, 12)
    assert trusted.shape == (2,)
