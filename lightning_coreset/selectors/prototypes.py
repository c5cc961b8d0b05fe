"""Prototypes: items nearest to k-means centres."""

from typing import Literal

import torch

from lightning_coreset.ops import kmeans
from lightning_coreset.ops.rows import normalize_rows, row_blocks
from lightning_coreset.selectors.base import Selector
from lightning_coreset.selectors.clusters import clusters_by_turn
from lightning_coreset.selectors.cost import Work, clustering_work
from lightning_coreset.selectors.group import Group, Picks

_LARGEST_GUESS = 100
_BLOCK_ROWS = 4_096


class Prototypes(Selector, name="prototypes"):
    """Items nearest to the centres of k-means clusters, clusters in turn, the largest first.

    Clusters that hold an ``initial`` item are passed over while others have candidates. O(N c d) time for ``c``
    clusters, O(N d) memory. Paper: Sorscher et al. 2022.

    Args:
        per_class: Cluster each class instead of the whole pool (default: the whole pool).
        clusters: How many: a number, ``"num_classes"`` (without classes round(sqrt(N / 2)), at most 100), or
            ``"budget"`` for one pick from each of as many clusters as picks; such picks are not ranked.

    Raises:
        ValueError: On selecting with another word or a number below 1.

    Example:
        >>> from lightning_coreset import select
        >>> features = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.8, 0.1], [0.0, 1.0]])
        >>> sorted(select(features, method="prototypes", budget=2, clusters="budget").indices.tolist())
        [1, 3]
    """

    def __init__(
        self, *, per_class: bool | None = None, clusters: int | Literal["num_classes", "budget"] = "num_classes"
    ) -> None:
        super().__init__(per_class=per_class)
        self.clusters = clusters
        self.ranks = clusters != "budget"

    def check(self) -> None:
        """Refuse what is no number of clusters."""
        check_clusters(self.clusters, ("num_classes", "budget"))

    def work(self, size: int, width: int, count: int, memory_limit: int) -> Work:
        """K-means."""
        return clustering_work(size, width, min(self._number(size, count, None), size))

    def select_group(self, group: Group) -> Picks:
        """K-means on unit rows, then each cluster in turn gives the candidate nearest to its centre."""
        rows = normalize_rows(group.rows)
        chosen = group.count + len(group.initial)
        clusters = min(self._number(group.size, chosen, group.num_classes), group.size)
        found = kmeans(rows, clusters, seed=group.seed)
        # In blocks: the centre of each row would be a second matrix, the difference a third.
        distances = torch.cat(
            [
                torch.linalg.vector_norm(rows[part] - found.centers[found.assignment[part]], dim=1)
                for part in row_blocks(group.size, _BLOCK_ROWS)
            ]
        )
        distances.masked_fill_(~group.candidates, torch.inf)
        taken = set(found.assignment[group.initial].tolist())
        turns = []
        for place, members in enumerate(clusters_by_turn(found.assignment, group.initial)):
            near = members[torch.argsort(distances[members], stable=True)]
            near = near[torch.isfinite(distances[near])]
            dirty = int(found.assignment[members[0]]) in taken
            turns += [(dirty, turn, place, int(row)) for turn, row in enumerate(near)]
        order = [row for _, _, _, row in sorted(turns)][: group.count]
        cluster_of = found.assignment[order].tolist()
        return Picks(torch.tensor(order), details={"cluster": cluster_of}, resolved={"clusters": clusters})

    def _number(self, size: int, chosen: int, num_classes: int | None) -> int:
        return chosen if self.clusters == "budget" else number_of_clusters(self.clusters, size, num_classes)


def check_clusters(clusters: int | str, words: tuple[str, ...]) -> None:
    """Refuse what is neither a number of clusters nor one of some words.

    Raises:
        ValueError: Names what came and what is accepted.
    """
    number = isinstance(clusters, int) and not isinstance(clusters, bool) and clusters >= 1
    if not number and clusters not in words:
        accepted = " or ".join(["a number of at least 1", *map(repr, words)])
        msg = f"clusters={clusters!r} is not accepted: give {accepted}."
        raise ValueError(msg)


def number_of_clusters(clusters: int | str, size: int, num_classes: int | None) -> int:
    """A given number, else one for each class, else round(sqrt(N / 2)), at most 100."""
    if isinstance(clusters, int):
        return clusters
    return num_classes or max(1, min(_LARGEST_GUESS, round((size / 2) ** 0.5)))
