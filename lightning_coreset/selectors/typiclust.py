"""TypiClust: the most typical item of each of as many clusters as picks."""

import torch
from torch import Tensor

from lightning_coreset.ops import kmeans
from lightning_coreset.ops.neighbors import mean_neighbor_distance
from lightning_coreset.ops.rows import normalize_rows
from lightning_coreset.selectors.base import Selector
from lightning_coreset.selectors.clusters import clusters_by_turn
from lightning_coreset.selectors.cost import Work, clustering_work
from lightning_coreset.selectors.group import Group, Picks


class TypiClust(Selector, name="typiclust"):
    """The densest item of each k-means cluster, with one cluster for each pick and each ``initial`` item.

    Density is 1 / mean distance to the nearest ``min(neighbors, size - 1)`` items of the same cluster. Clusters
    without an initial item come first, larger before smaller; a cluster without a candidate gives its seat to the
    next densest item there is. O(N k d) time, O(N d) memory. Paper: Hacohen et al. 2022.

    Args:
        per_class: Cluster each class instead of the whole pool (default: the whole pool).
        neighbors: How many neighbours make the density.

    Raises:
        ValueError: On selecting with ``neighbors`` below 1.

    Example:
        >>> from lightning_coreset import select
        >>> features = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.8, 0.3], [0.0, 1.0]])
        >>> select(features, method="typiclust", budget=2).indices.tolist()
        [1, 3]
    """

    ranks = False

    def __init__(self, *, per_class: bool | None = None, neighbors: int = 20) -> None:
        super().__init__(per_class=per_class)
        self.neighbors = neighbors

    def check(self) -> None:
        """Refuse a density of no neighbours."""
        if isinstance(self.neighbors, bool) or not isinstance(self.neighbors, int) or self.neighbors < 1:
            msg = f"neighbors={self.neighbors!r} is not accepted: give a whole number of at least 1."
            raise ValueError(msg)

    def work(self, size: int, width: int, count: int, memory_limit: int) -> Work:
        """K-means."""
        return clustering_work(size, width, min(count, size))

    def select_group(self, group: Group) -> Picks:
        """One pick from each cluster, then the densest of what is left."""
        rows = normalize_rows(group.rows)
        clusters = min(group.count + len(group.initial), group.size)
        assignment = kmeans(rows, clusters, seed=group.seed).assignment
        turns = clusters_by_turn(assignment, group.initial)
        sparsity = torch.full((group.size,), torch.inf, device=rows.device)
        for members in turns:
            if len(members) > 1:
                sparsity[members] = mean_neighbor_distance(rows[members], min(self.neighbors, len(members) - 1))
        order = self._order(sparsity, turns, group.candidates)[: group.count]
        cluster_of = assignment[order].tolist()
        return Picks(torch.tensor(order), details={"cluster": cluster_of}, resolved={"clusters": clusters})

    def _order(self, sparsity: Tensor, turns: list[Tensor], candidates: Tensor) -> list[int]:
        firsts = []
        for members in turns:
            allowed = members[candidates[members]]
            if len(allowed):
                firsts.append(int(allowed[torch.argsort(sparsity[allowed], stable=True)[0]]))
        first = set(firsts)
        rest = torch.argsort(sparsity, stable=True)
        return firsts + [row for row in rest[candidates[rest]].tolist() if row not in first]
