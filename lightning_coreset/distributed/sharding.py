"""Which rank does what."""

import heapq

import torch
from torch import Tensor


def deal(costs: Tensor, world_size: int) -> Tensor:
    """Give pieces of work to ranks: the largest first, each to the least loaded rank, ties to the lowest.

    Args:
        costs: Cost of each piece ``[P]``.
        world_size: Number of ranks ``R``.

    Returns:
        Rank of each piece ``[P]``; the same on every rank. O(P log P) time.

    Example:
        >>> deal(torch.tensor([5, 9, 4]), 2).tolist()
        [1, 0, 1]
    """
    ranks = torch.zeros(len(costs), dtype=torch.int64)
    loads = [(0.0, rank) for rank in range(world_size)]
    for piece in torch.argsort(costs, descending=True, stable=True).tolist():
        load, rank = heapq.heappop(loads)
        ranks[piece] = rank
        heapq.heappush(loads, (load + float(costs[piece]), rank))
    return ranks


def index_range(size: int, rank: int, world_size: int, multiple: int = 1) -> range:
    """The consecutive part of ``size`` items that a rank works on; parts differ by at most ``multiple`` items.

    Args:
        size: Items in all.
        rank: This rank.
        world_size: Number of ranks.
        multiple: Parts begin at multiples of it.

    Example:
        >>> [list(index_range(5, rank, 2)) for rank in range(2)], index_range(10, 1, 2, multiple=4)
        ([[0, 1], [2, 3, 4]], range(4, 10))
    """
    blocks = -(-size // multiple)
    start, stop = (min(size, multiple * (blocks * part // world_size)) for part in (rank, rank + 1))
    return range(start, stop)
