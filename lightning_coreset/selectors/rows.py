"""Embeddings of pool positions, as far as this rank needs them."""

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_coreset.distributed import index_range, together
from lightning_coreset.ops.reducer import Reducer
from lightning_coreset.selectors.context import SelectionContext
from lightning_coreset.selectors.expansion import Expansion


class PoolRows:
    """Embeddings of pool positions: from the pool, or embedded once for all that this rank works on.

    Args:
        wanted: Whether there are any.
        pool: What is picked from.
        context: Ranks and device, and what embeds.
        classes: Positions of each class that this rank works on; None is one group on all ranks.
        shard_rows: The one group is dealt to ranks in parts that are multiples of so many rows; None: all hold it.

    Attributes:
        width: Of the embeddings; None where there are none.
        device: Where rows are given out.
    """

    def __init__(
        self,
        wanted: bool,
        pool: Expansion,
        context: SelectionContext,
        classes: list[Tensor] | None,
        shard_rows: int | None = None,
    ) -> None:
        self._matrix: Tensor | None = None
        self._positions: Tensor | None = None
        self._sharded = shard_rows is not None
        reducer = context.reducer
        if wanted and shard_rows is not None:
            own = index_range(pool.size, reducer.rank, reducer.world_size, shard_rows)
            self._matrix = _part(own, pool, reducer) if pool.features is None else pool.features[own.start : own.stop]
        elif wanted and pool.features is not None:
            self._matrix = pool.features
        elif wanted and classes is None:
            assert pool.embed is not None
            self._matrix = embed_everything(pool.size, pool.embed, reducer)
        elif wanted:
            assert pool.embed is not None
            assert classes is not None
            with together(reducer, "embedding"):
                # A rank may be left without classes: nothing to embed then.
                if classes:
                    self._positions = torch.cat(classes).sort().values
                    self._matrix = pool.embed(self._positions)
        self.width = None if self._matrix is None else self._matrix.shape[1]
        home = torch.device("cpu") if self._matrix is None else self._matrix.device
        self.device = context.device or home

    def rows(self, positions: Tensor) -> Tensor | None:
        """Embeddings of a group's positions ``[n, d]``; of one group that is dealt to ranks, this rank's part."""
        if self._matrix is None:
            return None
        if self._positions is not None:
            positions = torch.searchsorted(self._positions, positions)
        whole = self._sharded or len(positions) == len(self._matrix)
        matrix = self._matrix if whole else self._matrix[positions.to(self._matrix.device)]
        return matrix.to(self.device)


def embed_everything(size: int, embed: Callable[[Tensor], Tensor], reducer: Reducer) -> Tensor:
    """Embeddings of a whole pool ``[N, d]``, each rank its part of them, on every rank."""
    return torch.cat(reducer.gather(_embedded(index_range(size, reducer.rank, reducer.world_size), embed, reducer)))


def _part(own: range, pool: Expansion, reducer: Reducer) -> Tensor:
    assert pool.embed is not None
    return _embedded(own, pool.embed, reducer)


def _embedded(own: range, embed: Callable[[Tensor], Tensor], reducer: Reducer) -> Tensor:
    rows = torch.empty(0, 0)
    with together(reducer, "embedding"):
        if own:
            rows = embed(torch.arange(own.start, own.stop))
    # A rank without items does not know the width of the rows that it shares with others.
    width = int(torch.cat(reducer.gather(torch.tensor([rows.shape[1]]))).max())
    return rows if own else torch.empty(0, width)
