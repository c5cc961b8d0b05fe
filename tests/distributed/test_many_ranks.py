"""Many ranks in one process: two, four or sixty-four give the answer of one, and none is left waiting."""

import threading

import pytest
import torch

from lightning_coreset import Coreset, CoresetError, Pool, SelectionContext
from lightning_coreset.distributed import gather_json, together
from lightning_coreset.ops.reducer import Reducer, SerialReducer
from lightning_coreset.registry import build_selector
from lightning_coreset.selectors.group import Group, Picks
from lightning_coreset.selectors.herding import Herding
from tests.helpers.examples import METHODS, clouds, pool_of, signals_of
from tests.helpers.ranks import ThreadReducer, run_ranks

pytestmark = pytest.mark.filterwarnings("ignore:SubZeroCore looks at")

FEATURES, LABELS = clouds([40, 25, 1, 64, 31, 7, 12])
SIGNALS = signals_of(FEATURES, LABELS)


def select_with(reducer: Reducer, method: str, per_class: bool | None, *, on_demand: bool, asked: list[int]) -> Coreset:
    def embed(positions: torch.Tensor) -> torch.Tensor:
        asked.extend(positions.tolist())
        return FEATURES[positions]

    arguments = {} if method == "uniform" else {"per_class": per_class}
    return build_selector(method, arguments).select(
        pool_of(method, None if on_demand else FEATURES, LABELS, SIGNALS),
        30,
        seed=3,
        initial=[1, 90],
        forbidden=[2, 3],
        context=SelectionContext(embed=embed if on_demand else None, reducer=reducer),
    )


@pytest.mark.parametrize("on_demand", [False, True], ids=["features in the pool", "embedded on demand"])
@pytest.mark.parametrize("per_class", [True, False], ids=["by class", "whole pool"])
@pytest.mark.parametrize("ranks", [2, 4, 64])
@pytest.mark.parametrize("method", METHODS)
def test_any_number_of_ranks_gives_the_answer_of_one(method: str, ranks: int, per_class: bool, on_demand: bool) -> None:
    alone_asked: list[int] = []
    alone = select_with(SerialReducer(), method, per_class, on_demand=on_demand, asked=alone_asked)
    asked: list[list[int]] = [[] for _ in range(ranks)]
    answers = run_ranks(
        ranks, lambda reducer: select_with(reducer, method, per_class, on_demand=on_demand, asked=asked[reducer.rank])
    )
    for answer in answers:
        assert torch.equal(answer.indices, alone.indices)
        assert torch.equal(answer.weights, alone.weights)
        for one, other in ((answer.gains, alone.gains), (answer.assignment, alone.assignment)):
            assert (one is None) == (other is None)
            assert one is None or torch.equal(one, other)
        assert answer.details == alone.details
        assert answer.manifest["resolved"] == alone.manifest["resolved"]
        assert answer.manifest["seconds"] == answers[0].manifest["seconds"]
    assert sorted(item for part in asked for item in part) == sorted(alone_asked)


def test_more_ranks_than_items_embed_each_item_once() -> None:
    asked: list[list[int]] = [[] for _ in range(8)]

    def embed_and_select(reducer: ThreadReducer) -> list[int]:
        def embed(positions: torch.Tensor) -> torch.Tensor:
            asked[reducer.rank].extend(positions.tolist())
            return FEATURES[positions]

        context = SelectionContext(embed=embed, reducer=reducer)
        return build_selector("k_center", {}).select(Pool(size=5), 3, context=context).indices.tolist()

    alone = build_selector("k_center", {}).select(Pool(FEATURES[:5]), 3).indices.tolist()
    assert run_ranks(8, embed_and_select) == [alone] * 8
    assert {item for part in asked for item in part} == set(range(5))


@pytest.mark.parametrize("failing", [{0}, {3}, {1, 2}])
def test_a_rank_that_fails_makes_all_fail(failing: set[int]) -> None:
    def work(reducer: ThreadReducer) -> None:
        with together(reducer, "the test"):
            if reducer.rank in failing:
                msg = f"rank {reducer.rank} has a reason"
                raise ValueError(msg)

    for rank, error in enumerate(run_ranks(4, work, keep_errors=True)):
        if rank in failing:
            assert type(error) is ValueError
            assert str(error) == f"rank {rank} has a reason"
        else:
            assert type(error) is CoresetError
            assert str(error).startswith(f"Rank {min(failing)} failed at the test and all ranks stop: ValueError: rank")


@pytest.mark.parametrize("failing", [0, 1, 3])
@pytest.mark.parametrize("where", ["embedding", "selecting"])
def test_a_selection_that_fails_on_one_rank_stops_all(where: str, failing: int) -> None:
    def work(reducer: ThreadReducer) -> None:
        def embed(positions: torch.Tensor) -> torch.Tensor:
            if where == "embedding" and reducer.rank == failing:
                msg = "broken image"
                raise OSError(msg)
            return FEATURES[positions]

        class Breaking(Herding):
            def select_group(self, group: Group) -> Picks:
                if where == "selecting" and reducer.rank == failing:
                    msg = "broken image"
                    raise OSError(msg)
                return super().select_group(group)

        Breaking().select(Pool(labels=LABELS), 20, context=SelectionContext(embed=embed, reducer=reducer))

    errors = run_ranks(4, work, keep_errors=True, timeout=20)
    assert [type(error) for error in errors] == [OSError if rank == failing else CoresetError for rank in range(4)]
    assert all("broken image" in str(error) for error in errors)


def test_the_double_itself_tells_of_a_rank_that_does_not_come() -> None:
    def work(reducer: ThreadReducer) -> None:
        if reducer.rank != 1:
            gather_json(reducer, "here")

    errors = run_ranks(3, work, keep_errors=True, timeout=0.5)
    assert [type(error) for error in errors] == [threading.BrokenBarrierError, type(None), threading.BrokenBarrierError]


def test_the_tightest_memory_decides_for_all() -> None:
    def work(reducer: ThreadReducer) -> str:
        limit = 10**9 if reducer.rank else 1
        context = SelectionContext(reducer=reducer, memory_limit=limit)
        selector = build_selector("facility_location", {"per_class": True})
        mode: str = selector.select(Pool(FEATURES, LABELS), 20, context=context).manifest["resolved"]["mode"]
        return mode

    assert run_ranks(4, work) == ["streamed"] * 4
