"""ZCore: items that cover random subspaces and have few like them."""

from lightning_coreset.ops.subspaces import subspace_scores
from lightning_coreset.selectors.base import Selector
from lightning_coreset.selectors.checks import check_whole
from lightning_coreset.selectors.cost import Work
from lightning_coreset.selectors.group import Group, Picks
from lightning_coreset.selectors.scored import highest_first

_FEWEST_SAMPLES = 10_000


class ZCore(Selector, name="zcore"):
    """Items with the highest coverage of random subspaces less redundancy; looks at no label.

    `lightning_coreset.ops.subspaces` says how. ``initial`` items cover what they are nearest to and take from their
    neighbours as any other. O(samples N) time; O(N d) memory. Paper: Griffin et al. 2024, whose public code draws from
    the global random state.

    Args:
        per_class: Score each class alone instead of the whole pool (default: the whole pool).
        samples: Random points; None draws as many as there are items, at least 10,000.
        dimensions: Columns of a subspace; all where there are fewer.
        neighbors: Items that share a loss; all others where there are fewer.

    Raises:
        ValueError: On selecting with a number below 1.

    Example:
        >>> import torch
        >>> from lightning_coreset import select
        >>> select(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0]]), method="zcore", budget=2).indices.tolist()
        [1, 0]
    """

    def __init__(
        self,
        *,
        per_class: bool | None = None,
        samples: int | None = None,
        dimensions: int = 2,
        neighbors: int = 1000,
    ) -> None:
        super().__init__(per_class=per_class)
        self.samples = samples
        self.dimensions = dimensions
        self.neighbors = neighbors

    def check(self) -> None:
        """Refuse numbers below 1."""
        check_whole(dimensions=self.dimensions, neighbors=self.neighbors)
        if self.samples is not None:
            check_whole(samples=self.samples)

    def work(self, size: int, width: int, count: int, memory_limit: int) -> Work:
        """Distances of all items to 64 points at a time, some of them sorted, and unit rows in both directions."""
        samples = self.samples or max(_FEWEST_SAMPLES, size)
        return Work(100.0 * samples * size * self.dimensions, 8 * size * width + 64 * 64 * size)

    def select_group(self, group: Group) -> Picks:
        """See `lightning_coreset.ops.subspaces`."""
        samples = self.samples or max(_FEWEST_SAMPLES, group.size)
        scores = subspace_scores(
            group.rows, group.generator(), samples=samples, dimensions=self.dimensions, neighbors=self.neighbors
        )
        return Picks(highest_first(scores, group)[: group.count], resolved={"samples": samples})
