"""Facility location: every item has someone chosen who is like it. One driver over exact and approximate modes."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from lightning_coreset.ops.exact_greedy import exact_greedy, greedy_on_device
from lightning_coreset.ops.neighbor_graph import approximate_neighbors
from lightning_coreset.ops.objective import FacilityLocationObjective
from lightning_coreset.ops.partitioned_greedy import partitioned_greedy
from lightning_coreset.ops.reducer import Reducer
from lightning_coreset.ops.rows import Ranking, as_positions, candidate_mask
from lightning_coreset.ops.screening import screened_greedy, worth_screening
from lightning_coreset.ops.sharded import Shards, pool_positions
from lightning_coreset.ops.similarity import ExactMode, SimilarityKind, SimilarityRows, choose_mode
from lightning_coreset.ops.sparse_greedy import sparse_greedy
from lightning_coreset.ops.stochastic_greedy import stochastic_greedy

Mode = Literal["dense", "streamed", "neighbours", "partitioned", "stochastic"]
MODES: tuple[Mode, ...] = get_args(Mode)

#: Largest group that is selected from exactly unless ``mode=`` says otherwise.
LARGEST_EXACT = 50_000

_COVER_ROWS = 64
_FEWEST_EDGES, _MOST_EDGES = 32, 128


class Plan(NamedTuple):
    """Which mode runs, and why."""

    mode: Mode
    reason: str

    @property
    def exact(self) -> bool:
        """Whether the picks are those of naive greedy."""
        return self.mode in ("dense", "streamed")

    @property
    def similarity(self) -> ExactMode:
        """The mode of similarities beside the greedy, such as those of the picks to all items."""
        return "dense" if self.mode == "dense" else "streamed"


def plan_mode(
    size: int, mode: Mode | None = None, memory_limit: int | str | None = None, device: torch.device | str = "cpu"
) -> Plan:
    """The mode for a group of ``size`` items; free memory decides between the exact ones only.

    Raises:
        ValueError: An unknown mode.

    Example:
        >>> plan_mode(1000, memory_limit=10**6)
        Plan(mode='streamed', reason='a matrix of 4,000,000 bytes is above the memory limit')
        >>> plan_mode(10**6).mode
        'partitioned'
    """
    if mode is not None:
        if mode not in MODES:
            msg = f"mode={mode!r} is not accepted: give one of {', '.join(map(repr, MODES))}, or None to choose."
            raise ValueError(msg)
        return Plan(mode, "asked for")
    if size > LARGEST_EXACT:
        return Plan("partitioned", f"more than {LARGEST_EXACT:,} items in one group")
    exact = choose_mode(size, memory_limit, device)
    bound = "within" if exact == "dense" else "above"
    return Plan(exact, f"a matrix of {4 * size * size:,} bytes is {bound} the memory limit")


def facility_location(
    features: Tensor,
    count: int,
    *,
    candidate_weights: Tensor | None = None,
    item_weights: Tensor | None = None,
    similarity: SimilarityKind = "cosine",
    initial: Tensor | None = None,
    forbidden: Tensor | None = None,
    mode: Mode | None = None,
    seed: int = 0,
    memory_limit: int | str | None = None,
    advance: Callable[[int], object] | None = None,
) -> Ranking:
    """Greedy on ``f(A) = sum_i w_i max(0, max_{j in A} d_j s_ij)``.

    Up to 50,000 items the picks are those of naive greedy, dense or streamed, whichever fits the memory limit. Above,
    or where ``mode`` asks, an approximate mode runs; its share of the exact objective at N = 50,000 is measured in
    ``benchmarks/RESULTS.md``.

    Args:
        features: ``[N, d]``; rows are normalised here.
        count: Number of picks ``k``.
        candidate_weights: ``d_j``, how much a candidate's similarities count ``[N]``, not negative; None is one.
        item_weights: ``w_i``, how much an item's being represented counts ``[N]``, not negative; None is one.
        similarity: ``"cosine"`` (negative values count as 0) or ``"shifted"``, (1 + cosine) / 2.
        initial: Rows whose coverage the first pick starts from ``[m]``; not returned.
        forbidden: Rows that may not be picked ``[f]``; they still must be covered.
        mode: ``"dense"`` keeps the pairwise matrix, ``"streamed"`` computes rows again, with the same picks.
            ``"partitioned"`` chooses in parts, then among their choices; ``"neighbours"`` lets items count for their
            nearest neighbours only; ``"stochastic"`` looks at a random few for each pick. None: exact up to 50,000
            items, partitioned above.
        seed: Of the approximate modes; the exact ones are not random.
        memory_limit: Bytes the dense matrix may take; None is half of what is free.
        advance: Called with the number of picks made since the last call, for a progress bar.

    Returns:
        Picks in order and their gains. Dense: half a product O(N^2 d / 2) and some 1 + log k passes over it,
        ``4 N^2`` bytes. Streamed: as many products as passes, O(N) memory beyond blocks of rows. Partitioned:
        O(4096 N d + k^2 d) time, 64 MB and ``16 k^2`` bytes. Neighbours: the search for 32 to 128 neighbours, 24 bytes
        an edge. Stochastic: O(2.3 N^2 d) time.

    Raises:
        ValueError: Weights of a wrong shape or negative, overlapping or unknown positions, too many picks, an unknown
            mode.
        CoresetError: ``mode="neighbours"`` above 50,000 items without faiss.

    References:
        Minoux 1978; Mirzasoleiman et al. 2013 and 2015; apricot (Schreiber et al. 2020).

    Example:
        >>> facility_location(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), 2).indices.tolist()
        [1, 2]
    """
    plan = plan_mode(len(features), mode, memory_limit, features.device)
    given: dict[str, Any] = {
        "candidate_weights": candidate_weights,
        "item_weights": item_weights,
        "initial": initial,
        "forbidden": forbidden,
        "advance": advance,
    }
    if plan.exact:
        rows = SimilarityRows(features, kind=similarity, mode=plan.similarity)
        return facility_location_greedy(rows, count, **given)
    return approximate_greedy(
        features, count, mode=plan.mode, similarity=similarity, seed=seed, memory_limit=memory_limit, **given
    )


def approximate_greedy(
    features: Tensor,
    count: int,
    *,
    mode: Mode,
    candidate_weights: Tensor | None = None,
    item_weights: Tensor | None = None,
    similarity: SimilarityKind = "cosine",
    initial: Tensor | None = None,
    forbidden: Tensor | None = None,
    seed: int = 0,
    memory_limit: int | str | None = None,
    reducer: Reducer | None = None,
    advance: Callable[[int], object] | None = None,
) -> Ranking:
    """`facility_location` in one of its approximate modes.

    With a ``reducer`` (partitioned only) ``features`` are the whole shelves of this rank, and positions those in the
    pool.
    """
    if reducer is not None and reducer.world_size > 1:
        return _partitioned_over_ranks(
            Shards(features, reducer), count, initial, forbidden, similarity, seed, memory_limit, advance
        )
    size, device = len(features), features.device
    chosen = as_positions(initial, size, "initial", device)
    candidates = candidate_mask(size, chosen, as_positions(forbidden, size, "forbidden", device), count)
    if mode == "partitioned":
        return partitioned_greedy(
            features,
            count,
            candidates=candidates,
            initial=features[chosen],
            initial_weights=None if candidate_weights is None else candidate_weights[chosen],
            candidate_weights=candidate_weights,
            item_weights=item_weights,
            similarity=similarity,
            seed=seed,
            memory_limit=memory_limit,
            advance=advance,
        )
    if mode == "neighbours":
        edges = min(max(-(-2 * size // count), _FEWEST_EDGES), _MOST_EDGES, size - 1)
        graph = approximate_neighbors(features, edges, seed=seed)
        return sparse_greedy(
            graph,
            count,
            candidates=candidates,
            initial=chosen,
            candidate_weights=candidate_weights,
            item_weights=item_weights,
            similarity=similarity,
            advance=advance,
        )
    rows = SimilarityRows(features, kind=similarity, memory_limit=memory_limit)
    objective = _covering(FacilityLocationObjective(rows, candidate_weights, item_weights), chosen)
    return stochastic_greedy(objective, candidates, count, seed=seed, advance=advance)


def _partitioned_over_ranks(
    shards: Shards,
    count: int,
    initial: Tensor | None,
    forbidden: Tensor | None,
    similarity: SimilarityKind,
    seed: int,
    memory_limit: int | str | None,
    advance: Callable[[int], object] | None,
) -> Ranking:
    chosen, banned = (
        pool_positions(shards, given, name) for given, name in ((initial, "initial"), (forbidden, "forbidden"))
    )
    candidates = candidate_mask(shards.total, chosen, banned, count)
    return partitioned_greedy(
        shards.rows,
        count,
        candidates=candidates[shards.offset : shards.offset + len(shards.rows)],
        initial=shards.at(chosen),
        similarity=similarity,
        seed=seed,
        memory_limit=memory_limit,
        reducer=shards.reducer,
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
    screen: bool | None = None,
) -> Ranking:
    """`facility_location` from similarities that are there already.

    With ``screen`` all items are screened in bfloat16 for each pick; None: where that must be faster. The picks stay
    those of float32.
    """
    device = similarity.features.device
    chosen = as_positions(initial, similarity.size, "initial", device)
    banned = as_positions(forbidden, similarity.size, "forbidden", device)
    candidates = candidate_mask(similarity.size, chosen, banned, count)
    objective = _covering(FacilityLocationObjective(similarity, candidate_weights, item_weights), chosen)
    if worth_screening(similarity, count) if screen is None else screen:
        return screened_greedy(objective, candidates, count, advance)
    if device.type != "cpu" and similarity.mode == "dense":
        gains = objective.all_gains().masked_fill_(~candidates, -torch.inf)
        return greedy_on_device(objective, gains, count, advance)
    return exact_greedy(objective, candidates, count, advance)


def _covering(objective: FacilityLocationObjective, chosen: Tensor) -> FacilityLocationObjective:
    # An empty tensor splits into one empty part.
    for part in chosen.split(_COVER_ROWS) if len(chosen) else ():
        objective.cover(objective.values(part))
    return objective
