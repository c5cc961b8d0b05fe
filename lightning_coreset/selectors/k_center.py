"""K-center as a selector."""

from lightning_coreset.ops import k_center
from lightning_coreset.ops.sharded import SHARD_ROWS
from lightning_coreset.selectors.base import Selector
from lightning_coreset.selectors.cost import Work, center_work
from lightning_coreset.selectors.group import Group, Picks


class KCenter(Selector, name="k_center"):
    """Farthest-first items: no item of the pool far from all of them.

    O(k N d) time, O(N d) memory. Papers: Gonzalez 1985; core-set (Sener and Savarese 2018).

    Args:
        per_class: Select in each class instead of the whole pool (default: the whole pool).
        start: Position of the first pick; None takes the item nearest to the mean, or goes on from ``initial``.

    Raises:
        ValueError: On selecting with ``start`` beside ``per_class=True``, or a start that may not be picked.

    Example:
        >>> import torch
        >>> from lightning_coreset import select
        >>> select(torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]), method="k_center", budget=2, start=0).indices
        tensor([0, 2])
    """

    def __init__(self, *, per_class: bool | None = None, start: int | None = None) -> None:
        super().__init__(per_class=per_class)
        self.start = start

    def check(self) -> None:
        """Refuse a start in each class."""
        if self.per_class and self.start is not None:
            msg = (
                f"start={self.start} beside per_class=True is not accepted: one item cannot start every class; "
                "leave one out."
            )
            raise ValueError(msg)

    def shard_rows(self, size: int) -> int | None:
        """Ranks hold their own rows and exchange one for each pick."""
        return SHARD_ROWS

    def work(self, size: int, width: int, count: int, memory_limit: int) -> Work:
        """Distances to each pick."""
        return center_work(size, width, count)

    def select_group(self, group: Group) -> Picks:
        """See `lightning_coreset.ops.k_center`."""
        indices, gains = k_center(
            group.rows,
            group.count,
            start=self.start,
            initial=group.initial,
            forbidden=group.forbidden,
            reducer=group.reducer,
            advance=group.advance,
        )
        return Picks(indices, gains)
