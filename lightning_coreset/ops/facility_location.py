"""Facility location: every item has someone chosen who is like it. Exact lazy greedy, dense or streamed."""

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_coreset.ops.exact_greedy import exact_greedy, greedy_on_device
from lightning_coreset.ops.objective import FacilityLocationObjective
from lightning_coreset.ops.rows import Ranking, as_positions, candidate_mask
from lightning_coreset.ops.similarity import ExactMode, SimilarityKind, SimilarityRows

_COVER_ROWS = 64


def facility_location(
    features: Tensor,
    count: int,
    *,
    candidate_weights: Tensor | None = None,
    item_weights: Tensor | None = None,
    similarity: SimilarityKind = "cosine",
    initial: Tensor | None = None,
    forbidden: Tensor | None = None,
    mode: ExactMode | None = None,
    memory_limit: int | str | None = None,
    advance: Callable[[int], object] | None = None,
) -> Ranking:
    """Greedy on ``f(A) = sum_i w_i max(0, max_{j in A} d_j s_ij)``, the same picks as naive greedy.

    Args:
        features: ``[N, d]``; rows are normalised here.
        count: Number of picks ``k``.
        candidate_weights: ``d_j``, how much a candidate's similarities count ``[N]``, not negative; None is one.
        item_weights: ``w_i``, how much an item's being represented counts ``[N]``, not negative; None is one.
        similarity: ``"cosine"`` (negative values count as 0) or ``"shifted"``, (1 + cosine) / 2.
        initial: Rows whose coverage the first pick starts from ``[m]``; not returned.
        forbidden: Rows that may not be picked ``[f]``; they still must be covered.
        mode: ``"dense"`` keeps the pairwise matrix, ``"streamed"`` computes rows again; None chooses by
            ``memory_limit``. The picks are the same.
        memory_limit: Bytes the dense matrix may take; None is half of what is free.
        advance: Called with the number of picks made since the last call, for a progress bar.

    Returns:
        Picks in order and their gains. Dense: one product O(N^2 d), then O(N) for each candidate looked at again,
        ``4 N^2`` bytes. Streamed: O(N d) for each candidate looked at again, O(N) memory beyond blocks of rows.

    Raises:
        ValueError: Weights of a wrong shape or negative, overlapping or unknown positions, too many picks.

    References:
        Minoux 1978 (lazy greedy); apricot (Schreiber et al. 2020).

    Example:
        >>> facility_location(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), 2).indices.tolist()
        [1, 2]
    """
    rows = SimilarityRows(features, kind=similarity, mode=mode, memory_limit=memory_limit)
    return facility_location_greedy(
        rows,
        count,
        candidate_weights=candidate_weights,
        item_weights=item_weights,
        initial=initial,
        forbidden=forbidden,
        advance=advance,
    )


def facility_location_greedy(
    similarity: SimilarityRows,
    count: int,
    *,
    candidate_weights: Tensor | None = None,
    item_weights: Tensor | None = None,
    initial: Tensor | None = None,
    forbidden: Tensor | None = None,
    advance: Callable[[int], object] | None = None,
) -> Ranking:
    """`facility_location` from similarities that are there already."""
    device = similarity.features.device
    chosen = as_positions(initial, similarity.size, "initial", device)
    banned = as_positions(forbidden, similarity.size, "forbidden", device)
    candidates = candidate_mask(similarity.size, chosen, banned, count)
    objective = FacilityLocationObjective(similarity, candidate_weights, item_weights)
    # An empty tensor splits into one empty part.
    for part in chosen.split(_COVER_ROWS) if len(chosen) else ():
        objective.cover(objective.values(part))
    if device.type != "cpu" and similarity.mode == "dense":
        gains = objective.all_gains().masked_fill_(~candidates, -torch.inf)
        return greedy_on_device(objective, gains, count, advance)
    return exact_greedy(objective, candidates, count, advance)
