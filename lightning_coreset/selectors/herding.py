"""Herding as a selector."""

from lightning_coreset.ops import herding
from lightning_coreset.ops.sharded import SHARD_ROWS
from lightning_coreset.selectors.base import Selector
from lightning_coreset.selectors.cost import Work, greedy_work
from lightning_coreset.selectors.group import Group, Picks


class Herding(Selector, name="herding"):
    """Items whose running mean follows the class mean.

    O(k N d) time, O(N d) memory. Papers: Welling 2009; iCaRL (Rebuffi et al. 2017).

    Args:
        per_class: Follow the mean of each class (default), or of the whole pool.

    Example:
        >>> import torch
        >>> from lightning_coreset import select
        >>> select(torch.tensor([[1.0, 0.0], [0.7, 0.7], [0.0, 1.0]]), method="herding", budget=1).indices.tolist()
        [1]
    """

    per_class_default = True

    def shard_rows(self, size: int) -> int | None:
        """Ranks hold their own rows and exchange one for each pick."""
        return SHARD_ROWS

    def work(self, size: int, width: int, count: int, memory_limit: int) -> Work:
        """A product with a vector for each pick."""
        return greedy_work(size, width, count, copies=2)

    def select_group(self, group: Group) -> Picks:
        """See `lightning_coreset.ops.herding`."""
        return Picks(
            herding(
                group.rows,
                group.count,
                initial=group.initial,
                forbidden=group.forbidden,
                reducer=group.reducer,
                advance=group.advance,
            )
        )
