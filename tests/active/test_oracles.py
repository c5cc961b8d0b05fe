"""Oracles: what they answer, and what each answer costs."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from lightning_coreset import CoresetError
from lightning_coreset.active import Answer, CallableOracle, DatasetOracle, LabelledPool, Oracle, Request
from lightning_coreset.active.asking import ask
from lightning_coreset.active.oracles import count_units, within_budget
from lightning_coreset.ops.reducer import SerialReducer
from tests.helpers.lightning_parts import digit_tensors
from tests.helpers.ranks import run_ranks


def request(dataset: Any, ids: list[int], **settings: Any) -> Request:
    return Request(ids, ids, 0, dataset, **settings)


class TestUnits:
    @pytest.mark.parametrize(
        ("target", "images", "boxes"),
        [
            (4, {"4": 1}, {"4": 1}),
            (torch.tensor(4), {"4": 1}, {"4": 1}),
            (np.int64(4), {"4": 1}, {"4": 1}),
            ("cat", {"cat": 1}, {"cat": 1}),
            ({"labels": torch.tensor([1, 1, 3]), "boxes": torch.zeros(3, 4)}, 1, {"1": 2, "3": 1}),
            ({"labels": [], "boxes": []}, 1, {}),
            ([{"category_id": 7}, {"category_id": 7}], 1, {"7": 2}),
            (torch.tensor([0.0, 1.0]), 1, {}),
        ],
    )
    def test_of_a_target(self, target: Any, images: Any, boxes: Any) -> None:
        assert count_units(target, "images") == images
        assert count_units(target, "boxes") == boxes

    def test_a_budget_is_walked_in_order_and_never_exceeded(self) -> None:
        generator = torch.Generator().manual_seed(0)
        for _ in range(50):
            prices = torch.randint(0, 9, (12,), generator=generator).tolist()
            budget = int(torch.randint(1, 40, (1,), generator=generator))
            units = dict(enumerate(prices))
            taken = within_budget(list(range(12)), units, budget)
            spent = sum(prices[place] for place in taken)
            assert spent <= budget
            left = [place for place in range(12) if place not in taken]
            assert all(prices[place] > budget - sum(prices[t] for t in taken if t < place) for place in left)


class TestDatasetOracle:
    def test_the_datasets_own_targets_need_no_overlay(self) -> None:
        images, labels = digit_tensors(20)
        answer = DatasetOracle().answer(request(TensorDataset(images, labels), [3, 0]))
        assert (answer.ids, answer.targets) == ([3, 0], {})
        assert answer.units == {3: {str(int(labels[3])): 1}, 0: {str(int(labels[0])): 1}}

    def test_another_datasets_targets_are_returned(self) -> None:
        images, labels = digit_tensors(20)
        oracle = DatasetOracle(TensorDataset(images, labels))
        assert oracle.answer(request(list(images), [3])).targets == {3: int(labels[3])}

    def test_a_dataset_without_targets(self) -> None:
        with pytest.raises(CoresetError, match=r"The items \[1\] show no target, .* give DatasetOracle\(dataset\)"):
            DatasetOracle().answer(request([torch.zeros(1)] * 3, [1]))


class TestCallableOracle:
    def test_lists_and_dicts(self) -> None:
        for function in (lambda ids: [name * 2 for name in ids], lambda ids: {name: name * 2 for name in ids}):
            assert CallableOracle(function).answer(request(None, [4, 1])).targets == {4: 8, 1: 2}

    def test_none_cannot_be_labelled_and_what_is_left_out_stays_pending(self) -> None:
        pool = LabelledPool(5)
        oracle = CallableOracle(lambda ids: {ids[0]: 7, ids[1]: None})
        ask(pool, [4, 2, 1], lambda round: oracle, round=0, dataset=None, reducer=SerialReducer())
        assert (pool.labelled, pool.skipped, pool.pending) == ([4], [2], [1])

    @pytest.mark.parametrize(
        ("function", "kind", "message"),
        [
            ("me", TypeError, "function is a str: give a callable"),
            (lambda ids: [1], ValueError, "returned 1 targets for 2 ids"),
            (lambda ids: {99: 1}, ValueError, r"returned \[99\], which were not asked for"),
        ],
    )
    def test_bad_input(self, function: Any, kind: type[Exception], message: str) -> None:
        with pytest.raises(kind, match=message):
            CallableOracle(function).answer(request(None, [1, 2]))


def test_an_oracle_of_ones_own() -> None:
    class Half(Oracle):
        """Labels every second item, at a price."""

        def answer(self, request: Request) -> Answer:
            kept = request.ids[::2]
            return Answer(kept, targets=dict.fromkeys(kept, 1), units=dict.fromkeys(kept, 3), closed=True)

    pool = LabelledPool(6)
    ask(pool, [5, 4, 3], lambda round: Half(), round=2, dataset=None, reducer=SerialReducer())
    assert (pool.labelled, pool.unlabelled, pool.units_spent, pool.round) == ([3, 5], [0, 1, 2, 4], 6, 2)


def test_the_first_rank_asks_and_all_hold_the_answer() -> None:
    asked = []

    def work(reducer: Any) -> list[Any]:
        pool = LabelledPool(6)

        def answer(ids: list[int]) -> list[Any]:
            asked.append(reducer.rank)
            return [{"boxes": torch.ones(1, 4), "labels": torch.tensor([name])} for name in ids]

        ask(pool, [5, 4], lambda round: CallableOracle(answer), round=0, dataset=None, reducer=reducer, unit="boxes")
        return [pool.history, pool.units_by_class, pool.targets[5]["boxes"].tolist()]

    answers = run_ranks(3, work)
    assert asked == [0]
    assert answers[0] == answers[1] == answers[2]
    assert answers[0][1] == {"4": 1, "5": 1}


def test_a_rank_whose_oracle_fails_takes_the_others_with_it() -> None:
    def work(reducer: Any) -> None:
        def broken(ids: list[int]) -> list[Any]:
            raise ConnectionError("the service is away")

        ask(LabelledPool(3), [1], lambda round: CallableOracle(broken), round=0, dataset=None, reducer=reducer)

    errors = run_ranks(2, work, keep_errors=True)
    assert isinstance(errors[0], ConnectionError)
    assert "Rank 0 failed at asking the oracle and all ranks stop: ConnectionError" in str(errors[1])
