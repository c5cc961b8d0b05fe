"""Graph cut as a selector."""

from lightning_coreset.ops import graph_cut
from lightning_coreset.ops.sharded import SHARD_ROWS
from lightning_coreset.selectors.base import Selector
from lightning_coreset.selectors.cost import Work, greedy_work
from lightning_coreset.selectors.group import Group, Picks


class GraphCut(Selector, name="graph_cut"):
    """Items that are like the pool and unlike each other.

    O(k N d) time, O(N d) memory, no pairwise matrix. Papers: Iyer and Bilmes 2013; Dataset Quantization (Zhou et al.
    2023).

    Args:
        per_class: Select in each class (default), or in the whole pool.
        lam: Weight of representing the pool; 2 and above keep gains positive longer.

    Raises:
        ValueError: On selecting with a ``lam`` that is not positive.

    Example:
        >>> import torch
        >>> from lightning_coreset import select
        >>> select(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), method="graph_cut", budget=2).indices.tolist()
        [1, 2]
    """

    per_class_default = True

    def __init__(self, *, per_class: bool | None = None, lam: float = 1.0) -> None:
        super().__init__(per_class=per_class)
        self.lam = lam

    def check(self) -> None:
        """Refuse a weight that is not positive."""
        if not self.lam > 0:
            msg = f"lam={self.lam!r} is not accepted: give a positive number."
            raise ValueError(msg)

    def shard_rows(self, size: int) -> int | None:
        """Ranks hold their own rows and exchange one for each pick."""
        return SHARD_ROWS

    def work(self, size: int, width: int, count: int, memory_limit: int) -> Work:
        """A product with a vector for each pick."""
        return greedy_work(size, width, count)

    def select_group(self, group: Group) -> Picks:
        """See `lightning_coreset.ops.graph_cut`."""
        indices, gains = graph_cut(
            group.rows,
            group.count,
            lam=self.lam,
            initial=group.initial,
            forbidden=group.forbidden,
            reducer=group.reducer,
            advance=group.advance,
        )
        return Picks(indices, gains)
