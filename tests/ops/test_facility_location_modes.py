"""Approximate modes of facility location: near the exact objective, and ruled by size and wish, never by memory."""

import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_coreset import CoresetError, FacilityLocation, Pool, SelectionContext, select
from lightning_coreset.ops import facility_location
from lightning_coreset.ops.facility_location import LARGEST_EXACT, MODES, plan_mode
from lightning_coreset.ops.neighbor_graph import approximate_neighbors
from lightning_coreset.ops.neighbors import nearest_neighbors
from lightning_coreset.ops.partitioned_greedy import partitioned_greedy
from lightning_coreset.ops.sparse_greedy import sparse_greedy
from tests.helpers import references
from tests.helpers.examples import clouds, normal_rows, tied_rows
from tests.helpers.ranks import run_ranks

APPROXIMATE = ("neighbours", "partitioned", "stochastic")
NONE = torch.empty(0, dtype=torch.int64)


def value(rows: Tensor, chosen: Tensor) -> float:
    unit = torch.nn.functional.normalize(rows.double())
    return float((unit @ unit[chosen].T).amax(1).clamp(min=0).sum())


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 64 items on shelves of 256, so that small pools have several."""
    module = sys.modules[partitioned_greedy.__module__]
    for name, size in (("SHELF_ITEMS", 256), ("_PART_ITEMS", 64), ("_CLUSTERS", 8), ("_CLUSTERED_ITEMS", 128)):
        monkeypatch.setattr(module, name, size)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("mode", APPROXIMATE)
@pytest.mark.parametrize("in_order", [True, False], ids=["sorted by cloud", "mixed"])
def test_the_objective_is_near_the_exact_one(mode: str, in_order: bool) -> None:
    rows, cloud = clouds([400, 300, 200, 60, 40, 20, 10, 5], width=24, seed=1, spread=0.8)
    rows = rows[cloud.argsort(stable=True)] if in_order else rows
    exact = value(rows, facility_location(rows, 40).indices)
    found = facility_location(rows, 40, mode=mode)
    assert len(found.indices.unique()) == 40
    assert value(rows, found.indices) > 0.97 * exact
    assert value(rows, torch.arange(0, len(rows), len(rows) // 40)[:40]) < 0.97 * exact


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("mode", APPROXIMATE)
def test_initial_and_forbidden(mode: str) -> None:
    rows, cloud = clouds([150, 150, 150, 150], spread=0.05, seed=3)
    initial, forbidden = torch.nonzero(cloud == 2).flatten()[:2], torch.arange(0, 300, 2)
    initial = initial[~torch.isin(initial, forbidden)][:1]
    found = facility_location(rows, 3, mode=mode, initial=initial, forbidden=forbidden)
    assert not torch.isin(found.indices, torch.cat([initial, forbidden])).any()
    # The cloud of the initial item is covered already.
    assert sorted(cloud[found.indices].tolist()) == [0, 1, 3]


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("mode", APPROXIMATE)
def test_weights_count(mode: str) -> None:
    rows, cloud = clouds([100, 100, 100], spread=0.05, seed=3)
    candidates, items = torch.ones(300), torch.ones(300)
    items[cloud == 1] = 100.0
    candidates[torch.nonzero(cloud == 1).flatten()[:50]] = 0.1
    found = facility_location(rows, 1, mode=mode, candidate_weights=candidates, item_weights=items)
    assert int(cloud[found.indices]) == 1
    assert float(candidates[found.indices]) == 1


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("mode", APPROXIMATE)
@pytest.mark.parametrize("budget", [1, 7, 130, 500])
def test_any_budget_is_met_by_distinct_items_the_same_each_time(mode: str, budget: int) -> None:
    rows = normal_rows(500, 8)
    first, again = (facility_location(rows, budget, mode=mode, seed=4) for _ in range(2))
    assert torch.equal(first.indices, again.indices)
    assert len(first.indices.unique()) == budget
    assert bool((first.gains >= 0).all())


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("budget", [1, 20, 39, 40])
def test_exclusions_in_one_place_leave_enough_to_choose_in_others(budget: int) -> None:
    free = torch.arange(700, 740)
    forbidden = torch.tensor([item for item in range(1_000) if item not in set(free.tolist())])
    found = facility_location(normal_rows(1_000, 8), budget, mode="partitioned", forbidden=forbidden)
    assert set(found.indices.tolist()) <= set(free.tolist())
    assert len(found.indices.unique()) == budget


@pytest.mark.parametrize(
    ("count", "available", "total"), [(10_000, 65_536, 10**6), (1_000, 65_536, 10**7), (5, 40, 40)]
)
def test_all_choices_fit_the_second_round(count: int, available: int, total: int) -> None:
    module = sys.modules[partitioned_greedy.__module__]
    shelves, last = divmod(total, available)
    found = shelves * module._wanted(count, available, total) + (module._wanted(count, last, total) if last else 0)
    assert min(total, 2 * count) <= found <= module._LARGEST_MERGE


@pytest.mark.parametrize("rows", [torch.zeros(70, 3), torch.ones(70, 3)])
@pytest.mark.parametrize("mode", APPROXIMATE)
def test_rows_that_say_nothing(rows: Tensor, mode: str) -> None:
    assert len(facility_location(rows, 30, mode=mode).indices.unique()) == 30


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("ranks", [2, 3, 64])
@pytest.mark.parametrize("count", [5, 120])
def test_partitions_give_the_same_over_any_number_of_ranks(ranks: int, count: int) -> None:
    rows = normal_rows(1_900, 12)
    weights = torch.rand(1_900, generator=torch.Generator().manual_seed(0))
    free = torch.arange(1_900) % 5 != 0

    def share(rank: int, world: int) -> slice:
        shelves = -(-1_900 // 256)
        return slice(256 * (shelves * rank // world), 256 * (shelves * (rank + 1) // world))

    def choose(reducer: Any, part: slice) -> Tensor:
        return partitioned_greedy(
            rows[part],
            count,
            candidates=free[part],
            initial=rows[:2],
            initial_weights=weights[:2],
            candidate_weights=weights[part],
            reducer=reducer,
        ).indices

    alone = choose(None, slice(None))
    together = run_ranks(ranks, lambda reducer: choose(reducer, share(reducer.rank, ranks)))
    assert all(torch.equal(found, alone) for found in together)


@pytest.mark.parametrize("seed", range(4))
def test_a_graph_of_all_neighbours_gives_naive_greedy(seed: int) -> None:
    rows = tied_rows(60, seed=seed)
    weights = torch.randint(0, 9, (60,), generator=torch.Generator().manual_seed(seed)) / 8
    cosine = references.cosine(rows.numpy())
    expected, gains = references.facility_location(
        cosine, 56, candidate_weights=weights.numpy(), initial=[3, 41], forbidden=[0, 7]
    )
    free = torch.ones(60, dtype=torch.bool)
    free[[3, 41, 0, 7]] = False
    found = sparse_greedy(
        nearest_neighbors(rows, 59), 56, candidates=free, initial=torch.tensor([3, 41]), candidate_weights=weights
    )
    # Through distances cosines are rounded: ties may be broken another way, sums are the same.
    assert found.gains.tolist() == pytest.approx(gains, abs=1e-4)
    assert value(rows, found.indices) == pytest.approx(value(rows, torch.tensor(expected)))


def test_items_count_for_their_neighbours_only() -> None:
    rows = torch.tensor([[1.0, 0.0], [0.99, 0.1], [0.0, 1.0], [0.1, 0.99], [0.7, 0.7]])
    free = torch.ones(5, dtype=torch.bool)
    found = sparse_greedy(nearest_neighbors(rows, 1), 5, candidates=free, initial=NONE)
    assert sorted(found.indices.tolist()) == [0, 1, 2, 3, 4]
    assert found.gains[0] < 3


@pytest.mark.parametrize("search", ["ivf", "hnsw"])
def test_an_index_finds_nearly_all_neighbours(search: Any) -> None:
    pytest.importorskip("faiss", reason="faiss is not installed")
    rows, _ = clouds([200, 150, 120, 90, 40], width=24, spread=0.7)
    exact = nearest_neighbors(rows, 10)
    found = approximate_neighbors(rows, 10, search=search)
    assert not (found.indices == torch.arange(600)[:, None]).any()
    shared = [len(set(one) & set(two)) for one, two in zip(exact.indices.tolist(), found.indices.tolist(), strict=True)]
    assert sum(shared) > 0.9 * 6_000
    assert bool((found.distances[:, 1:] >= found.distances[:, :-1]).all())


def test_small_pools_are_searched_exactly() -> None:
    rows = normal_rows(90)
    for search in ("auto", "flat"):
        found, exact = approximate_neighbors(rows, 7, search=search), nearest_neighbors(rows, 7)
        assert torch.equal(found.indices, exact.indices)


def test_an_index_without_faiss_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[approximate_neighbors.__module__], "load_faiss", lambda: None)
    with pytest.raises(
        CoresetError, match=r"needs faiss, which is not installed: `pip install lightning-coreset\[cpu\]`"
    ):
        approximate_neighbors(normal_rows(90), 7, search="ivf")


def test_size_and_wish_decide_and_memory_only_between_exact_modes() -> None:
    assert plan_mode(LARGEST_EXACT, memory_limit=1).mode == "streamed"
    assert plan_mode(LARGEST_EXACT, memory_limit=10**12).mode == "dense"
    for limit in (1, 10**15):
        assert plan_mode(LARGEST_EXACT + 1, memory_limit=limit).mode == "partitioned"
    for mode in MODES:
        assert plan_mode(10, mode, 1) == (mode, "asked for")
    with pytest.raises(ValueError, match="mode='lazy' is not accepted: give one of 'dense', 'streamed', 'neighbours'"):
        plan_mode(10, "lazy")  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["facility_location", "subzerocore"])
@pytest.mark.parametrize("mode", MODES)
def test_the_manifest_says_which_mode_ran_and_why(method: str, mode: str) -> None:
    coreset = select(normal_rows(120), method=method, budget=12, mode=mode)
    assert coreset.manifest["resolved"]["mode"] == mode
    assert coreset.manifest["resolved"]["mode_reason"] == "asked for"
    assert float(coreset.weights.sum()) == pytest.approx(12)
    assert "memory limit" in select(normal_rows(120), method=method, budget=12).manifest["resolved"]["mode_reason"]


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("method", ["facility_location", "subzerocore"])
def test_large_groups_are_partitioned_without_asking(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[facility_location.__module__], "LARGEST_EXACT", 200)
    rows, labels = clouds([300, 150], spread=0.7)
    resolved = select(rows, labels, method=method, budget=30).manifest["resolved"]
    assert resolved["mode"] == ["partitioned", "dense"]
    assert resolved["mode_reason"][0] == "more than 200 items in one group"


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("ranks", [2, 3, 64])
def test_a_partitioned_pool_over_ranks_is_embedded_once_and_weighed_alike(
    ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["lightning_coreset.selectors.facility_location"], "SHELF_ITEMS", 256)
    rows = normal_rows(1_100, 12)
    selector = FacilityLocation(mode="partitioned")
    alone = selector.select(Pool(rows), 40, initial=[7, 900], forbidden=[8])
    asked: list[list[int]] = [[] for _ in range(ranks)]

    def choose(reducer: Any) -> Any:
        def embed(positions: Tensor) -> Tensor:
            asked[reducer.rank].extend(positions.tolist())
            return rows[positions]

        context = SelectionContext(embed=embed, reducer=reducer)
        return selector.select(Pool(size=1_100), 40, initial=[7, 900], forbidden=[8], context=context)

    for found in run_ranks(ranks, choose):
        assert torch.equal(found.indices, alone.indices)
        assert torch.equal(found.weights, alone.weights)
        assert torch.equal(found.assignment, alone.assignment)
    assert sorted(item for part in asked for item in part) == list(range(1_100))
