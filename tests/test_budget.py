"""How much to keep, and the seats of the classes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_coreset.budget import class_seats, resolve_total
from tests.helpers import references


@pytest.mark.parametrize(
    ("size", "ratio", "total"),
    [(1797, 0.1, 180), (10, 0.25, 3), (10, 0.05, 1), (100, 0.001, 1), (7, 1.0, 7), (5, 1, 5), (1000, 0.0005, 1)],
)
def test_ratio_rounds_half_up_and_keeps_at_least_one(size: int, ratio: float, total: int) -> None:
    assert resolve_total(size, ratio=ratio) == total == references.round_half_up(ratio, size)


@pytest.mark.parametrize("number", [np.int64(7), np.int32(7), 7])
def test_whole_numbers_of_numpy_are_whole_numbers(number: int) -> None:
    total = resolve_total(100, budget=number)
    assert total == 7
    assert type(total) is int
    assert resolve_total(100, ratio=np.float32(0.5)) == 50


@pytest.mark.parametrize("ratio", [0, 0.0, -0.1, 1.0001, 2, float("nan"), float("inf"), True, "0.1"])
def test_ratio_out_of_range(ratio: float) -> None:
    with pytest.raises(ValueError, match=r"^ratio=.* above 0 and at most 1"):
        resolve_total(100, ratio=ratio)


@pytest.mark.parametrize("budget", [0, -3, 2.0, True, "7"])
def test_budget_that_is_no_count(budget: int) -> None:
    with pytest.raises(ValueError, match=r"^budget=.* whole number of at least 1"):
        resolve_total(100, budget=budget)


def test_budget_above_what_may_be_picked() -> None:
    with pytest.raises(ValueError, match=r"budget=101, but only 100 of 100 .* ask for at most 100"):
        resolve_total(100, budget=101)
    with pytest.raises(ValueError, match=r"ratio=0.9 of 100 items is 90, but only 80 of 100"):
        resolve_total(100, ratio=0.9, available=80)
    assert resolve_total(100, budget=80, available=80) == 80


def test_both_or_neither_of_ratio_and_budget() -> None:
    with pytest.raises(ValueError, match=r"Exactly one of ratio and budget .* neither.*--data.ratio=null"):
        resolve_total(100)
    with pytest.raises(ValueError, match=r"both ratio=0.1 and budget=10"):
        resolve_total(100, ratio=0.1, budget=10)


@st.composite
def class_sizes(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    sizes = draw(st.lists(st.integers(0, 30), min_size=1, max_size=8).filter(any))
    free = [draw(st.integers(0, size)) for size in sizes]
    if not any(free):
        free = sizes
    return sizes, free


@given(class_sizes())
@settings(max_examples=150, deadline=None)
def test_seats_are_those_given_out_one_at_a_time(case: tuple[list[int], list[int]]) -> None:
    sizes, free = case
    assert class_seats(torch.tensor(sizes), torch.tensor(free), sum(free)).tolist() == references.seats(
        sizes, free, sum(free)
    )


@given(class_sizes())
@settings(max_examples=50, deadline=None)
def test_fewer_seats_are_a_prefix_of_more(case: tuple[list[int], list[int]]) -> None:
    sizes, free = map(torch.tensor, case)
    everything = class_seats(sizes, free, int(free.sum()))
    for total in range(1, int(free.sum()) + 1):
        assert torch.equal(class_seats(sizes, free, total), everything[:total])


def test_equal_quotients_go_to_the_lowest_class() -> None:
    # Class 0 asks for its second seat with 90 / 3, class 1 for its first with 30, class 2 for its second with 30.
    assert class_seats(torch.tensor([90, 30, 90]), torch.tensor([90, 30, 90]), 6).tolist() == [0, 2, 1, 0, 2, 0]


def test_a_class_never_gets_more_than_it_has_free() -> None:
    seats = class_seats(torch.tensor([100, 10]), torch.tensor([2, 10]), 12)
    assert torch.bincount(seats).tolist() == [2, 10]


def test_more_seats_than_free_items() -> None:
    with pytest.raises(ValueError, match="13 seats are asked for, but the classes have 12 free"):
        class_seats(torch.tensor([100, 10]), torch.tensor([2, 10]), 13)
