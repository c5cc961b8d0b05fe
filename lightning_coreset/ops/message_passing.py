"""Messages between neighbours: an item counts for those beside it, until one of them is chosen."""

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_coreset.ops.neighbors import Neighbors
from lightning_coreset.ops.rows import Ranking, accumulator_dtype, as_positions, candidate_mask, first_argmax


def message_passing(
    scores: Tensor,
    neighbors: Neighbors,
    count: int,
    *,
    forward: float = 1.0,
    reverse: float = 1.0,
    initial: Tensor | None = None,
    forbidden: Tensor | None = None,
    advance: Callable[[int], object] | None = None,
) -> Ranking:
    """Greedy on scores that neighbours pass on and picks take away.

    On the undirected graph that joins two items when one is in the other's list, each item first gathers
    ``s_i + sum_j exp(-forward d_ij^2) s_j``. Then the largest is picked and its neighbours lose
    ``exp(-reverse d_ij^2)`` times what it had, again and again.

    Args:
        scores: How much an item is worth alone ``[N]``, not negative.
        neighbors: The sparse graph, see `lightning_coreset.ops.neighbors.nearest_neighbors`; ``N`` lists of ``m``.
        count: Number of picks ``k``.
        forward: How fast worth fades on the way to a neighbour.
        reverse: How fast the loss fades; 0 takes all of a pick's worth from each neighbour.
        initial: Rows whose neighbours lose first, the richest before the others ``[i]``; not returned.
        forbidden: Rows that may not be picked ``[f]``; they pass on their worth.
        advance: Called with the number of picks made since the last call, for a progress bar.

    Returns:
        Picks and what each had. O(N m) time for the messages and O(N) for each pick; O(N m) memory.

    Raises:
        ValueError: Overlapping or unknown positions, or more picks than candidates.

    References:
        D2 pruning (Maharana et al. 2023).

    Example:
        >>> from lightning_coreset.ops.neighbors import nearest_neighbors
        >>> rows = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-0.1, 1.0]])
        >>> message_passing(torch.tensor([3.0, 2.0, 1.0, 0.5]), nearest_neighbors(rows, 1), 2).indices.tolist()
        [0, 2]
    """
    size, device = len(scores), scores.device
    chosen = as_positions(initial, size, "initial", device)
    banned = as_positions(forbidden, size, "forbidden", device)
    candidates = candidate_mask(size, chosen, banned, count)
    starts, others, squares = _undirected(neighbors)
    worth = scores.to(accumulator_dtype(device))
    lengths = starts.diff()
    owners = torch.repeat_interleave(torch.arange(size, device=device), lengths)
    passed = torch.exp(-forward * squares).to(worth) * worth[others]
    worth = worth.index_add(0, owners, passed)
    lost = torch.exp(-reverse * squares).to(worth)
    bounds = starts.tolist()

    def pick_from(allowed: Tensor) -> tuple[int, float]:
        pick = int(first_argmax(worth.masked_fill(~allowed, -torch.inf)))
        value = float(worth[pick])
        beside = slice(bounds[pick], bounds[pick + 1])
        worth[others[beside]] -= lost[beside] * value
        allowed[pick] = False
        return pick, value

    waiting = torch.zeros(size, dtype=torch.bool, device=device)
    waiting[chosen] = True
    for _ in range(len(chosen)):
        pick_from(waiting)
    picks = []
    for _ in range(count):
        picks.append(pick_from(candidates))
        if advance is not None:
            advance(1)
    indices, gains = zip(*picks, strict=True)
    return Ranking(torch.tensor(indices, device=device), torch.tensor(gains, device=device))


def _undirected(neighbors: Neighbors) -> tuple[Tensor, Tensor, Tensor]:
    """Where each item's edges start ``[N + 1]``, the other ends ``[E]`` ascending, squared distances ``[E]``."""
    size, width = neighbors.indices.shape
    owners = torch.arange(size, device=neighbors.indices.device).repeat_interleave(width)
    ends, squares = neighbors.indices.flatten(), neighbors.distances.flatten().square()
    # Both ways round, and an edge that both lists hold once.
    keys = torch.cat([owners * size + ends, ends * size + owners])
    unique, places = torch.unique(keys, return_inverse=True)
    kept = torch.empty(len(unique), device=squares.device).index_copy_(0, places, squares.repeat(2))
    counts = torch.bincount(unique // size, minlength=size)
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return starts, unique % size, kept
