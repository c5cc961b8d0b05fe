"""Last-layer gradients as their two factors, and distances between them, without ever forming one."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_coreset.ops.rows import MIN_BLOCK_ROWS, accumulator_dtype, first_equal_row, row_blocks
from lightning_coreset.ops.similarity import ExactMode, choose_mode

_BLOCK_ROWS = 256
# Squared distances come from a difference of numbers of this relative precision.
_ROUNDING = 1e-6


class Gradients(NamedTuple):
    """The gradients ``g_i = residuals_i inputs_i^T`` of ``N`` items, ``C x h`` numbers each, as ``C + h``.

    Attributes:
        residuals: Gradient of each item's loss with respect to its logits, ``p - y`` ``[N, C]``, float32.
        inputs: What the logits are linear in, ``[h, 1]`` for a layer with a bias ``[N, h]``, float32.

    Example:
        >>> gradients = Gradients(torch.tensor([[1.0, -1.0]]), torch.tensor([[2.0, 1.0]]))
        >>> gradients.along(gradients.total(torch.tensor([0]))).item(), gradients.squares().item()
        (10.0, 10.0)
    """

    residuals: Tensor
    inputs: Tensor

    @property
    def size(self) -> int:
        """Number of items ``N``."""
        return len(self.residuals)

    def rows(self, indices: Tensor | slice) -> "Gradients":
        """The gradients of some items."""
        return Gradients(self.residuals[indices], self.inputs[indices])

    def squares(self) -> Tensor:
        """``||g_i||^2`` ``[N]``, the product of the factors' squared lengths."""
        return self.residuals.square().sum(dim=1) * self.inputs.square().sum(dim=1)

    def total(self, indices: Tensor | None = None, weights: Tensor | None = None) -> Tensor:
        """``sum_i w_i g_i`` ``[C, h]`` over some items or all, in double precision where there is any.

        O(n C h) time for ``n`` items, O(C h) memory beyond blocks of rows.
        """
        chosen = self if indices is None else self.rows(indices)
        precise = accumulator_dtype(self.residuals.device)
        found = torch.zeros(self.residuals.shape[1], self.inputs.shape[1], dtype=precise, device=self.residuals.device)
        for part in row_blocks(chosen.size, 16 * _BLOCK_ROWS):
            residuals, inputs = chosen.rows(part)
            residuals = residuals.to(precise)
            if weights is not None:
                residuals = residuals * weights[part, None].to(residuals)
            found += residuals.T @ inputs.to(precise)
        return found

    def along(self, direction: Tensor, equal: Tensor | None = None) -> Tensor:
        """``<g_i, D>`` for one matrix ``D`` ``[C, h]``: ``[N]`` in O(N C h) time, O(N C) memory.

        Args:
            direction: ``[C, h]``.
            equal: From `equal`, so that equal gradients have equal bits.
        """
        values = ((self.inputs @ direction.to(self.inputs.dtype).T) * self.residuals).sum(dim=1)
        return values if equal is None else values[equal]

    def equal(self) -> Tensor | None:
        """For each gradient the lowest item with the same factors; None where all differ."""
        return first_equal_row(torch.cat([self.residuals, self.inputs], dim=1))


class GradientSimilarity:
    """Rows of ``c - ||g_i - g_j||``, in the shape of `SimilarityRows`: what facility location reads.

    ``<g_i, g_j>`` is the product of the factors' inner products, so a distance costs O(C + h). The constant ``c`` is
    twice the largest length, which no distance exceeds; greedy facility location takes the same picks for every ``c``
    from the largest distance on (it only moves the first gain). Distances below a thousandth of the two lengths are
    0: float32 cannot tell them from it.

    Args:
        gradients: Of ``N`` items.
        mode: ``"dense"``, ``"streamed"``, or None to choose by ``memory_limit``; the same bits.
        memory_limit: Bytes the matrix may take.

    Example:
        >>> gradients = Gradients(torch.tensor([[3.0], [0.0]]), torch.ones(2, 1))
        >>> GradientSimilarity(gradients, mode="dense").rows(torch.tensor([0])).tolist()
        [[6.0, 3.0]]
    """

    def __init__(
        self, gradients: Gradients, *, mode: ExactMode | None = None, memory_limit: int | str | None = None
    ) -> None:
        self.gradients = gradients
        self.size = gradients.size
        self.mode: ExactMode = mode or choose_mode(self.size, memory_limit, gradients.inputs.device)
        self._squares = gradients.squares()
        self.constant = 2 * self._squares.max().sqrt()
        self._matrix: Tensor | None = None
        if self.mode == "dense":
            self._matrix = torch.empty(self.size, self.size, device=gradients.inputs.device)
            for part in row_blocks(self.size, 8 * _BLOCK_ROWS):
                self._matrix[part] = self._compute(part)

    @property
    def features(self) -> Tensor:
        """The inputs, for their device."""
        return self.gradients.inputs

    def rows(self, indices: Tensor) -> Tensor:
        """Similarities of some items to all items ``[b, N]``; a copy, free to be changed."""
        return self._compute(indices) if self._matrix is None else self._matrix[indices]

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """All rows, a block at a time: ``(slice, [b, N])``; read only."""
        for part in row_blocks(self.size, _BLOCK_ROWS):
            yield part, self._compute(part) if self._matrix is None else self._matrix[part]

    def _compute(self, asked: Tensor | slice) -> Tensor:
        some, squares = self.gradients.rows(asked), self._squares[asked, None]
        inner = _inner(some.residuals, self.gradients.residuals) * _inner(some.inputs, self.gradients.inputs)
        both = squares + self._squares
        distances = both - 2 * inner
        return self.constant - distances.masked_fill_(distances <= _ROUNDING * both, 0.0).sqrt_()


def _inner(asked: Tensor, rows: Tensor) -> Tensor:
    """Inner products ``[b, N]``, from so many rows that they have the same bits whichever others are in the product."""
    missing = [max(0, MIN_BLOCK_ROWS - len(part)) for part in (asked, rows)]
    filled = [
        torch.cat([part, part.new_zeros(count, part.shape[1])]) if count else part
        for part, count in zip((asked, rows), missing, strict=True)
    ]
    return (filled[0] @ filled[1].T)[: len(asked), : len(rows)]
