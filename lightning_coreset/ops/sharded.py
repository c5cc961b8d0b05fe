"""Greedy selection over rows that are dealt to ranks: for each pick one exchange of (value, position, row)."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_coreset.ops.reducer import Reducer
from lightning_coreset.ops.rows import Ranking, as_positions, candidate_mask, converted, row_keys

#: Ranks hold whole blocks of so many consecutive rows, so that every row keeps its place in products.
SHARD_ROWS = 64

# Entries of unit rows as multiples of 2^-36: some 10^8 of them stay exact.
_WHOLE = 2.0**36


class Pick(NamedTuple):
    """What all ranks know of a pick: its value, its position in the pool, its row ``[1, d]``."""

    value: float
    item: int
    row: Tensor


class Shards:
    """The rows of a pool of which each rank holds consecutive ones.

    Args:
        rows: Unit rows of this rank ``[n, d]``.
        reducer: The ranks.

    Attributes:
        offset: Position of this rank's first row in the pool.
        total: Rows of the pool ``N``.
    """

    def __init__(self, rows: Tensor, reducer: Reducer) -> None:
        self.rows = rows
        self.reducer = reducer
        sizes = torch.cat(reducer.gather(torch.tensor([len(rows)], device=rows.device)))
        self.offset, self.total = int(sizes[: reducer.rank].sum()), int(sizes.sum())

    def own(self, positions: Tensor) -> Tensor:
        """This rank's rows among some positions of the pool, as row numbers."""
        return positions[(positions >= self.offset) & (positions < self.offset + len(self.rows))] - self.offset

    def at(self, positions: Tensor) -> Tensor:
        """Rows at some ascending positions, on every rank ``[m, d]``."""
        return torch.cat(self.reducer.gather(self.rows[self.own(positions)]))

    def sum(self) -> Tensor:
        """Sum of all rows ``[d]``, float64; added up as whole numbers, which no order of adding changes."""
        whole = torch.zeros(self.rows.shape[1], dtype=torch.int64, device=self.rows.device)
        for part in converted(self.rows, torch.float64):
            whole += part.mul_(_WHOLE).round_().to(torch.int64).sum(dim=0)
        return torch.cat(self.reducer.gather(whole.unsqueeze(0))).sum(dim=0).to(torch.float64) / _WHOLE

    def best(self, values: Tensor, items: Tensor | None = None) -> Pick:
        """The largest value over all ranks, ties to the lowest item.

        Args:
            values: Of this rank's rows ``[n]``; -inf for those that may not be picked.
            items: The item that each row stands for ``[n]``; None is its own position.
        """
        # On the CPU in double precision: whole numbers and float32 rows arrive as they are.
        sent = torch.full((1, self.rows.shape[1] + 2), -torch.inf, dtype=torch.float64)
        if len(values):
            if items is None:
                items = torch.arange(len(values), device=values.device) + self.offset
            largest = values.max()
            tied = torch.nonzero(values == largest).flatten()
            place = tied[int(items[tied].argmin())]
            sent[0, 0], sent[0, 1] = largest.cpu(), items[place].cpu()
            sent[0, 2:] = self.rows[place].cpu()
        offers = torch.cat(self.reducer.gather(sent))
        level = torch.nonzero(offers[:, 0] == offers[:, 0].max()).flatten()
        offer = offers[level[int(offers[level, 1].argmin())]]
        row = offer[2:].to(self.rows.dtype).to(self.rows.device)
        return Pick(float(offer[0]), int(offer[1]), row.unsqueeze(0))


class Twins:
    """Equal rows, wherever they are: they share the value of the first and are picked in their order.

    A product adds up rows in other orders at other places, so equal rows on two ranks need not get equal bits.

    Args:
        shards: The rows.
        candidates: Which positions of the pool may be picked ``[N]``.
    """

    def __init__(self, shards: Shards, candidates: Tensor) -> None:
        keys = torch.cat(shards.reducer.gather(row_keys(shards.rows)))
        _, group = torch.unique(keys, return_inverse=True)
        places = torch.arange(len(keys), device=keys.device)
        self._first = torch.full_like(places, len(keys)).scatter_reduce_(0, group, places, "amin")[group].cpu()
        free = torch.nonzero(candidates).flatten().cpu()
        self._queue = free[torch.argsort(self._first[free], stable=True)].tolist()
        counts = torch.bincount(self._first[free], minlength=len(keys))
        self._end = counts.cumsum(0).tolist()
        self._next = (counts.cumsum(0) - counts).tolist()
        self._offset = shards.offset
        mine = slice(shards.offset, shards.offset + len(shards.rows))
        #: The item to pick for each of this rank's rows ``[n]``; -1 for rows that speak for nobody any more.
        self.items = torch.tensor(
            [self._queue[at] if at < end else -1 for at, end in zip(self._next[mine], self._end[mine], strict=True)],
            dtype=torch.int64,
            device=keys.device,
        )

    def take(self, item: int) -> None:
        """Pick an item: its equals go on with the next one."""
        first = int(self._first[item])
        self._next[first] += 1
        local = first - self._offset
        if 0 <= local < len(self.items):
            at = self._next[first]
            self.items[local] = self._queue[at] if at < self._end[first] else -1


def sharded_greedy(
    shards: Shards,
    count: int,
    *,
    chosen: Tensor,
    banned: Tensor,
    values: Callable[[], Tensor],
    choose: Callable[[Tensor], None],
    first: tuple[Tensor, float] | None = None,
    advance: Callable[[int], object] | None = None,
) -> Ranking:
    """Pick the row with the largest value over all ranks, tell all ranks its row, again and again.

    Args:
        shards: The rows.
        count: Number of picks ``k``.
        chosen: Positions that count as chosen ``[m]``.
        banned: Positions that may not be picked ``[f]``.
        values: Gives the values of this rank's rows as they are now ``[n]``.
        choose: Takes the row ``[1, d]`` of a pick.
        first: Values that decide the first pick ``[n]`` and the gain it then has, where these are others.
        advance: Called with the number of picks made since the last call.

    Returns:
        The same picks on every rank, as positions in the pool. One gather of ``d + 2`` numbers a pick and rank.
    """
    twins = Twins(shards, candidate_mask(shards.total, chosen, banned, count))
    indices: list[int] = []
    gains: list[float] = []
    for step in range(count):
        begins = first is not None and step == 0
        now = first[0] if first is not None and begins else values()
        pick = shards.best(now.masked_fill(twins.items < 0, -torch.inf), twins.items)
        twins.take(pick.item)
        indices.append(pick.item)
        gains.append(first[1] if first is not None and begins else pick.value)
        choose(pick.row)
        if advance is not None:
            advance(1)
    device = shards.rows.device
    return Ranking(torch.tensor(indices, device=device), torch.tensor(gains, dtype=torch.float32, device=device))


def pool_positions(shards: Shards, positions: Tensor | None, name: str) -> Tensor:
    """Positions in the whole pool, checked, ascending ``[m]``."""
    return as_positions(positions, shards.total, name, shards.rows.device).sort().values
