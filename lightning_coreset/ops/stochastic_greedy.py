"""Stochastic greedy: each pick is the best of a random few."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lightning_coreset.ops.objective import FacilityLocationObjective
from lightning_coreset.ops.random import seeded_generator
from lightning_coreset.ops.rows import Ranking, first_argmax


def stochastic_greedy(
    objective: FacilityLocationObjective,
    candidates: Tensor,
    count: int,
    *,
    seed: int = 0,
    epsilon: float = 0.1,
    advance: Callable[[int], object] | None = None,
) -> Ranking:
    """Greedy facility location that looks at ``(N / k) ln(1 / epsilon)`` random candidates for each pick.

    Args:
        objective: What is covered so far.
        candidates: Which items may be picked ``[N]``.
        count: Number of picks ``k``.
        seed: Of the draws.
        epsilon: How far below greedy's guarantee the expected objective may lie, in (0, 1).
        advance: Called with the number of picks made since the last call.

    Returns:
        Picks in order with their gains; the expected objective is at least ``1 - 1/e - epsilon`` of the optimum.
        O(N ln(1 / epsilon)) rows of similarities in all, whatever ``k``; O(N) memory beside them.

    References:
        Mirzasoleiman et al. 2015 (lazier than lazy greedy).

    Example:
        >>> from lightning_coreset.ops.similarity import SimilarityRows
        >>> objective = FacilityLocationObjective(SimilarityRows(torch.eye(4), mode="dense"))
        >>> sorted(stochastic_greedy(objective, torch.ones(4, dtype=torch.bool), 4).indices.tolist())
        [0, 1, 2, 3]
    """
    device = objective.covered.device
    generator = seeded_generator(seed, "stochastic greedy")
    left = torch.nonzero(candidates.cpu()).flatten()
    sample = max(1, math.ceil(len(left) / count * math.log(1 / epsilon)))
    indices: list[int] = []
    gains: list[Tensor] = []
    for _ in range(count):
        # Sorted, so that ties go to the lowest index and not to the first one drawn.
        places = torch.randperm(len(left), generator=generator)[:sample].sort().values
        drawn = left[places].to(device)
        fresh = torch.cat([objective.gains(objective.values(part)) for part in drawn.split(_LOOK_ROWS)])
        best = first_argmax(fresh)
        objective.cover(objective.values(drawn[best].view(1)))
        indices.append(int(drawn[best]))
        gains.append(fresh[best].view(1))
        keep = torch.ones(len(left), dtype=torch.bool)
        keep[places[int(best)]] = False
        left = left[keep]
        if advance is not None:
            advance(1)
    return Ranking(torch.tensor(indices, device=device), torch.cat(gains))


_LOOK_ROWS = 256
