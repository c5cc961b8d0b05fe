"""Which rank does what."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_coreset.distributed import deal, index_range


@given(st.integers(0, 200), st.integers(1, 70))
@settings(max_examples=100, deadline=None)
def test_parts_cover_everything_once_and_differ_by_at_most_one(size: int, ranks: int) -> None:
    parts = [index_range(size, rank, ranks) for rank in range(ranks)]
    assert [item for part in parts for item in part] == list(range(size))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 9))
@settings(max_examples=100, deadline=None)
def test_the_largest_piece_goes_to_the_least_loaded_rank(costs: list[int], ranks: int) -> None:
    dealt = deal(torch.tensor(costs, dtype=torch.int64), ranks).tolist()
    loads = [0] * ranks
    for piece in sorted(range(len(costs)), key=lambda piece: (-costs[piece], piece)):
        assert dealt[piece] == loads.index(min(loads))
        loads[dealt[piece]] += costs[piece]
    assert not costs or max(loads) - min(loads) <= max(costs)


@pytest.mark.parametrize("ranks", [1, 2, 64])
def test_equal_pieces_are_dealt_in_turn(ranks: int) -> None:
    assert deal(torch.full((130,), 5), ranks).tolist() == [piece % ranks for piece in range(130)]
