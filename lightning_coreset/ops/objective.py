"""What a choice of items covers so far, and what one more would add: the state of every facility location greedy."""

import torch
from torch import Tensor

from lightning_coreset.ops.rows import accumulator_dtype
from lightning_coreset.ops.similarity import SimilarityRows

#: Items whose improvements are added up in float32 at a time. Fixed, so that sums over parts of a pool that begin at
#: multiples of it have the bits of the sum over the whole.
SUM_ITEMS = 4_096

# As many rows as stay in the cache of one core while four passes go over them.
_COLUMN_ROWS = 64


class FacilityLocationObjective:
    """``f(A) = sum_i w_i max(0, max_{j in A} d_j s_ij)`` with the best value of each item so far.

    Args:
        similarity: ``s_ij``, symmetric.
        candidate_weights: ``d_j`` ``[N]``; None is one.
        item_weights: ``w_i`` ``[N]``; None is one.

    Attributes:
        covered: Best value of each item so far ``[N]``.

    Example:
        >>> objective = FacilityLocationObjective(SimilarityRows(torch.eye(3), mode="dense"))
        >>> objective.all_gains().tolist()
        [1.0, 1.0, 1.0]
    """

    def __init__(
        self,
        similarity: SimilarityRows,
        candidate_weights: Tensor | None = None,
        item_weights: Tensor | None = None,
    ) -> None:
        self.similarity = similarity
        self.candidate_weights = check_weights(candidate_weights, similarity, "candidate_weights")
        self.item_weights = check_weights(item_weights, similarity, "item_weights")
        self.covered = torch.zeros(similarity.size, device=similarity.features.device)
        self._block: Tensor | None = None

    def values(self, indices: Tensor) -> Tensor:
        """What each item would get from some candidates, ``d_j s_ij`` ``[b, N]``; a copy, free to be changed."""
        rows = self.similarity.rows(indices)
        return rows if self.candidate_weights is None else rows.mul_(self.candidate_weights[indices, None])

    def gains(self, values: Tensor) -> Tensor:
        """Marginal gains of candidates from their `values` ``[b]``, float32; the same bits in every company."""
        count = len(values)
        # A sum over one long row alone is dealt to threads and gets other bits.
        values = values.expand(2, -1) if count == 1 else values
        found = [self._improvements(part) for part in values.split(len(self._scratch()))]
        return torch.cat(found)[:count]

    def all_gains(self) -> Tensor:
        """Marginal gains of all items ``[N]``; one pass over the similarities."""
        gains = torch.empty(self.similarity.size, device=self.covered.device)
        for part, values in self.similarity.blocks():
            if self.candidate_weights is None:
                gains[part] = self.gains(values)
            else:
                gains[part] = self.gains(values * self.candidate_weights[part, None])
        return gains

    def cover(self, values: Tensor) -> None:
        """Add the items behind some `values` ``[b, N]`` to the chosen ones."""
        torch.maximum(self.covered, values.amax(dim=0), out=self.covered)

    def losses(self, items: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """By how much all gains shrink when the best values of some items rise from ``low`` to ``high``.

        Args:
            items: ``[m]``.
            low: Best values before ``[m]``.
            high: Best values after ``[m]``.

        Returns:
            ``[N]``, float64. O(m N) time from a dense similarity, O(m N d) from a streamed one.
        """
        total = torch.zeros(self.similarity.size, dtype=accumulator_dtype(low.device), device=low.device)
        scratch = self._scratch()
        # Rows stand for columns: similarities are symmetric.
        parts = (column.split(_COLUMN_ROWS) for column in (items, low.unsqueeze(1), (high - low).unsqueeze(1)))
        for some, floor, rise in zip(*parts, strict=True):
            columns = self.similarity.rows(some, out=scratch[: len(some)])
            if self.candidate_weights is not None:
                columns.mul_(self.candidate_weights)
            torch.minimum(columns.sub_(floor), rise, out=columns).clamp_(min=0)
            if self.item_weights is not None:
                columns.mul_(self.item_weights[some, None])
            total += columns.sum(dim=0)
        return total

    def raised(self, items: Tensor, low: Tensor, high: Tensor) -> float:
        """What the objective gains when the best values of some items rise from ``low`` to ``high``."""
        rise = (high - low).to(accumulator_dtype(low.device))
        return float((rise if self.item_weights is None else rise * self.item_weights[items]).sum())

    def _scratch(self) -> Tensor:
        """A block that is written again and again: fresh memory costs more than the arithmetic."""
        if self._block is None:
            self._block = self.covered.new_empty(_COLUMN_ROWS, self.similarity.size)
        return self._block

    def _improvements(self, values: Tensor) -> Tensor:
        over = torch.sub(values, self.covered, out=self._scratch()[: len(values)])
        return self._sum(over.clamp_(min=0))

    def _sum(self, improvements: Tensor) -> Tensor:
        if self.item_weights is not None:
            improvements.mul_(self.item_weights)
        if improvements.shape[1] <= SUM_ITEMS:
            return improvements.sum(dim=1)
        parts = [part.sum(dim=1) for part in improvements.split(SUM_ITEMS, dim=1)]
        return torch.stack(parts).to(accumulator_dtype(improvements.device)).sum(dim=0).float()


def check_weights(weights: Tensor | None, similarity: SimilarityRows, name: str) -> Tensor | None:
    """Weights of a pool's items as float32 on its device.

    Raises:
        ValueError: A wrong shape, or a weight that is negative or not finite.
    """
    if weights is None:
        return None
    weights = torch.as_tensor(weights, dtype=torch.float32, device=similarity.features.device)
    if weights.shape != (similarity.size,) or not bool((torch.isfinite(weights) & (weights >= 0)).all()):
        msg = f"{name} have shape {list(weights.shape)}: give {similarity.size} finite weights, none negative."
        raise ValueError(msg)
    return weights
