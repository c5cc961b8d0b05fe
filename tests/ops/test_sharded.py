"""One pool over many ranks: each keeps its own rows, and the picks are those of one rank bit for bit."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_coreset.distributed import index_range
from lightning_coreset.ops import graph_cut, herding, k_center
from lightning_coreset.ops.sharded import SHARD_ROWS, Shards
from tests.helpers.examples import clouds, normal_rows, tied_rows
from tests.helpers.ranks import ThreadReducer, run_ranks

KERNELS = {"graph_cut": graph_cut, "herding": herding, "k_center": k_center}
WHICH = torch.randint(40, (333,), generator=torch.Generator().manual_seed(0))
POOLS = {
    "general position": normal_rows(700, 24),
    "ties": tied_rows(400),
    "equal rows on many ranks": normal_rows(40, 33)[WHICH],
    "clouds": clouds([90, 60, 30], spread=0.1)[0],
    "one row": torch.ones(1, 4),
}


def picks(found: Any) -> tuple[Tensor, ...]:
    return (found,) if isinstance(found, Tensor) else tuple(found)


def over(
    ranks: int, rows: Tensor, kernel: Callable[..., Any], count: int, **arguments: Any
) -> list[tuple[Tensor, ...]]:
    def choose(reducer: ThreadReducer) -> tuple[Tensor, ...]:
        own = index_range(len(rows), reducer.rank, ranks, SHARD_ROWS)
        return picks(kernel(rows[own.start : own.stop], count, reducer=reducer, **arguments))

    return run_ranks(ranks, choose)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("ranks", [2, 3, 64])
def test_any_number_of_ranks_gives_the_picks_of_one(ranks: int, name: str, pool: str) -> None:
    rows, kernel = POOLS[pool], KERNELS[name]
    count = min(60, len(rows))
    alone = picks(kernel(rows, count))
    for found in over(ranks, rows, kernel, count):
        for one, other in zip(found, alone, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("pool", ["ties", "equal rows on many ranks"])
def test_initial_and_forbidden_on_other_ranks(name: str, pool: str) -> None:
    rows, kernel = POOLS[pool], KERNELS[name]
    given = {
        "initial": torch.tensor([200, 3, 70]),
        "forbidden": torch.cat([torch.arange(4, 60), torch.tensor([201, 300])]),
    }
    alone = picks(kernel(rows, 90, **given))
    for found in over(5, rows, kernel, 90, **given):
        assert torch.equal(found[0], alone[0])


def test_all_of_a_pool() -> None:
    rows = POOLS["equal rows on many ranks"]
    for kernel in KERNELS.values():
        alone = picks(kernel(rows, len(rows)))[0]
        assert all(torch.equal(found[0], alone) for found in over(4, rows, kernel, len(rows)))


@pytest.mark.parametrize("start", [0, 150, 332])
def test_a_start_on_any_rank(start: int) -> None:
    rows = normal_rows(333, 8)
    alone = k_center(rows, 20, start=start)
    for found in over(3, rows, k_center, 20, start=start):
        assert torch.equal(found[0], alone.indices)
        assert torch.equal(found[1], alone.gains)


def test_wrong_positions_are_told_on_every_rank() -> None:
    def choose(reducer: ThreadReducer) -> Any:
        own = index_range(200, reducer.rank, 2, SHARD_ROWS)
        return graph_cut(normal_rows(200)[own.start : own.stop], 5, initial=torch.tensor([200]), reducer=reducer)

    errors = run_ranks(2, choose, keep_errors=True)
    assert [str(error) for error in errors] == [
        "initial holds 200, but positions go from 0 to 199: give positions in this pool."
    ] * 2


@pytest.mark.parametrize("ranks", [1, 2, 7])
def test_sums_do_not_depend_on_who_adds_them_up(ranks: int) -> None:
    rows = torch.nn.functional.normalize(normal_rows(500, 9))

    def total(reducer: ThreadReducer) -> Tensor:
        own = index_range(500, reducer.rank, ranks, SHARD_ROWS)
        return Shards(rows[own.start : own.stop], reducer).sum()

    found = run_ranks(ranks, total)
    assert all(torch.equal(one, found[0]) for one in found)
    assert torch.allclose(found[0], rows.double().sum(0), atol=1e-8)
    mixed = rows[torch.randperm(500, generator=torch.Generator().manual_seed(0))]
    rows = mixed
    assert torch.equal(run_ranks(ranks, total)[0], found[0])
