"""Bins of a group, and uniform shares of them."""

import heapq

import torch
from torch import Tensor

from lightning_coreset.ops.random import seeded_generator
from lightning_coreset.selectors.group import Group


def dealt(size: int, bins: int, generator: torch.Generator) -> Tensor:
    """A random bin for each of some items ``[size]``, sizes equal up to one."""
    places = torch.arange(size) * min(bins, size) // size
    return torch.empty(size, dtype=torch.int64).index_copy_(0, torch.randperm(size, generator=generator), places)


def draw(group: Group, bins: Tensor) -> Tensor:
    """Rows of a group, drawn from its bins in proportion to their sizes ``[count]``.

    Each next seat goes to the bin that is furthest below its share, which gives all bins their shares by largest
    remainder; ``initial`` rows hold seats already, and an empty bin gives its seat to the next.
    """
    candidates = group.candidates.cpu()
    sizes = torch.bincount(bins)
    held = torch.bincount(bins[group.initial.cpu()], minlength=len(sizes))
    total = group.count + len(group.initial)
    ties = torch.randperm(len(sizes), generator=seeded_generator(group.seed, "class", group.label, "ties"))
    rank = torch.argsort(ties).tolist()
    # Whole numbers: equal remainders are ties, and no rounding decides.
    missing = (total * sizes - group.size * held).tolist()
    queue = [(-missing[number], rank[number], number) for number in range(len(sizes)) if sizes[number]]
    heapq.heapify(queue)
    waiting: dict[int, list[int]] = {}
    picks: list[int] = []
    while len(picks) < group.count:
        behind, tie, number = heapq.heappop(queue)
        if number not in waiting:
            members = torch.nonzero(bins == number).flatten()
            generator = seeded_generator(group.seed, "class", group.label, "bin", number)
            mixed = members[torch.randperm(len(members), generator=generator)]
            waiting[number] = mixed[candidates[mixed]].flip(0).tolist()
        if waiting[number]:
            picks.append(waiting[number].pop())
            heapq.heappush(queue, (behind + group.size, tie, number))
    return torch.tensor(picks, dtype=torch.int64)
