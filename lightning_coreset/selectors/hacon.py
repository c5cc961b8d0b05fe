"""HaCON: items that lie between two clusters."""

import torch

from lightning_coreset.ops import kmeans
from lightning_coreset.ops.rows import normalize_rows, row_blocks
from lightning_coreset.selectors.base import Selector
from lightning_coreset.selectors.clusters import clusters_by_turn
from lightning_coreset.selectors.cost import Work, clustering_work
from lightning_coreset.selectors.group import Group, Picks
from lightning_coreset.selectors.prototypes import check_clusters, number_of_clusters

_BLOCK_ROWS = 1_024


class HaCON(Selector, name="hacon"):
    """Hard-to-contrast items: those of each cluster that a second centre is nearly as close to, clusters in turn.

    The clusters of `Prototypes`; items ascending by distance to the second nearest centre less that to the nearest.
    O(N c d) time for ``c`` clusters, O(N d) memory. Paper: Chen et al. 2023 (CSVAL).

    Args:
        per_class: Cluster each class instead of the whole pool (default: the whole pool).
        clusters: How many: a number, or ``"num_classes"`` (without classes round(sqrt(N / 2)), at most 100).

    Raises:
        ValueError: On selecting with another word or a number below 1.

    Example:
        >>> from lightning_coreset import select
        >>> features = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.1, 0.9], [0.0, 1.0]])
        >>> select(features, method="hacon", budget=1, clusters=2).indices.tolist()
        [1]
    """

    def __init__(self, *, per_class: bool | None = None, clusters: int | str = "num_classes") -> None:
        super().__init__(per_class=per_class)
        self.clusters = clusters

    def check(self) -> None:
        """Refuse what is no number of clusters."""
        check_clusters(self.clusters, ("num_classes",))

    def work(self, size: int, width: int, count: int, memory_limit: int) -> Work:
        """K-means, then distances in double precision."""
        clusters = min(number_of_clusters(self.clusters, size, None), size)
        work = clustering_work(size, width, clusters)
        return work._replace(bytes=work.bytes + 4 * 8 * min(size, _BLOCK_ROWS) * (width + clusters))

    def select_group(self, group: Group) -> Picks:
        """K-means on unit rows, then each cluster in turn gives the candidate nearest to its border."""
        rows = normalize_rows(group.rows)
        clusters = min(number_of_clusters(self.clusters, group.size, group.num_classes), group.size)
        found = kmeans(rows, clusters, seed=group.seed)
        margin = torch.zeros(group.size, dtype=torch.float64)
        if clusters > 1:
            for part in row_blocks(group.size, _BLOCK_ROWS):
                away = torch.cdist(rows[part].double(), found.centers.double()).cpu()
                two = away.topk(2, dim=1, largest=False).values
                margin[part] = two[:, 1] - two[:, 0]
        assignment, candidates = found.assignment.cpu(), group.candidates.cpu()
        taken = set(assignment[group.initial.cpu()].tolist())
        turns = []
        for place, members in enumerate(clusters_by_turn(assignment, group.initial.cpu())):
            near = members[torch.argsort(margin[members], stable=True)]
            near = near[candidates[near]]
            dirty = int(assignment[members[0]]) in taken
            turns += [(dirty, turn, place, int(row)) for turn, row in enumerate(near)]
        order = [row for _, _, _, row in sorted(turns)][: group.count]
        return Picks(
            torch.tensor(order), details={"cluster": assignment[order].tolist()}, resolved={"clusters": clusters}
        )
