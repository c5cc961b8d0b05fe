"""Facility location on a neighbour graph: items count for their neighbours only."""

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_coreset.ops.neighbors import Neighbors
from lightning_coreset.ops.rows import Ranking, accumulator_dtype, first_argmax
from lightning_coreset.ops.similarity import SimilarityKind


def sparse_greedy(
    graph: Neighbors,
    count: int,
    *,
    candidates: Tensor,
    initial: Tensor,
    candidate_weights: Tensor | None = None,
    item_weights: Tensor | None = None,
    similarity: SimilarityKind = "cosine",
    advance: Callable[[int], object] | None = None,
) -> Ranking:
    """Greedy on ``sum_i w_i max_{j in A, j in lists of i} d_j s_ij``; all gains are kept exact after each pick.

    Args:
        graph: Nearest other items of each item ``[N, K]``; every item is its own neighbour too.
        count: Number of picks ``k``.
        candidates: Which items may be picked ``[N]``.
        initial: Items whose coverage the first pick starts from ``[m]``.
        candidate_weights: ``d_j`` ``[N]``; None is one.
        item_weights: ``w_i`` ``[N]``; None is one.
        similarity: ``"cosine"``, clamped at 0, or ``"shifted"``.
        advance: Called with the number of picks made since the last call.

    Returns:
        Picks in order with their gains on the graph. O(N K log(N K)) time once and O(N + K^2) a pick; 24 bytes an edge.

    Example:
        >>> from lightning_coreset.ops.neighbors import nearest_neighbors
        >>> graph = nearest_neighbors(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), 1)
        >>> none, free = torch.empty(0, dtype=torch.int64), torch.ones(3, dtype=torch.bool)
        >>> sparse_greedy(graph, 2, candidates=free, initial=none).indices.tolist()
        [1, 2]
    """
    covering = _Covering(graph, candidate_weights, item_weights, similarity)
    for item in initial.tolist():
        covering.choose(item)
    excluded = ~candidates
    indices: list[int] = []
    gains: list[float] = []
    for _ in range(count):
        pick = int(first_argmax(covering.gains.masked_fill(excluded, -torch.inf)))
        indices.append(pick)
        gains.append(max(0.0, float(covering.gains[pick])))
        excluded[pick] = True
        covering.choose(pick)
        if advance is not None:
            advance(1)
    device = graph.indices.device
    return Ranking(torch.tensor(indices, device=device), torch.tensor(gains, device=device))


class _Covering:
    """Edges from items to who may represent them, read from both sides."""

    def __init__(
        self,
        graph: Neighbors,
        candidate_weights: Tensor | None,
        item_weights: Tensor | None,
        similarity: SimilarityKind,
    ) -> None:
        size = len(graph.indices)
        own = torch.arange(size, device=graph.indices.device).unsqueeze(1)
        #: Who may represent each item, itself first ``[N, K + 1]``, and what it would get from them.
        self.lists = torch.cat([own, graph.indices], dim=1)
        cosines = 1 - torch.cat([torch.zeros_like(own, dtype=torch.float32), graph.distances], dim=1).square_() / 2
        values = cosines.clamp_(min=0) if similarity == "cosine" else cosines.add_(1).div_(2)
        # Lists that an index could not fill repeat the item itself, which must count once.
        values[:, 1:].masked_fill_(graph.indices == own, 0.0)
        self.values = values if candidate_weights is None else values.mul_(candidate_weights[self.lists])
        self.item_weights = item_weights
        precise = accumulator_dtype(own.device)
        weighted = self.values.to(precise)
        weighted = weighted if item_weights is None else weighted * item_weights[:, None].to(precise)
        #: Marginal gain of each candidate ``[N]``.
        self.gains = torch.zeros(size, dtype=precise, device=own.device)
        self.gains.index_add_(0, self.lists.flatten(), weighted.flatten())
        self.covered = torch.zeros(size, device=own.device)
        self._edges = torch.argsort(self.lists.flatten(), stable=True)
        self._ends = torch.bincount(self.lists.flatten(), minlength=size).cumsum(0)

    def choose(self, item: int) -> None:
        """Add an item and take what it covers from everybody's gains."""
        start = int(self._ends[item - 1]) if item else 0
        edges = self._edges[start : int(self._ends[item])]
        reached, values = edges // self.lists.shape[1], self.values.flatten()[edges]
        better = values > self.covered[reached]
        reached, high = reached[better], values[better]
        low = self.covered[reached]
        lost = (self.values[reached] - low[:, None]).clamp_(min=0)
        lost = torch.minimum(lost, (high - low)[:, None]).to(self.gains.dtype)
        if self.item_weights is not None:
            lost *= self.item_weights[reached, None]
        self.gains.index_add_(0, self.lists[reached].flatten(), lost.flatten(), alpha=-1)
        self.covered[reached] = high
