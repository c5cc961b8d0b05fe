"""Pairwise similarity in blocks of rows: held whole where it fits, computed again row by row where it does not."""

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from lightning_coreset.ops.memory import resolve_memory_limit
from lightning_coreset.ops.rows import MIN_BLOCK_ROWS, first_argmax, normalize_rows, row_blocks

SimilarityKind = Literal["cosine", "shifted"]
ExactMode = Literal["dense", "streamed"]

_BLOCK_ROWS = 256
_BLOCK_VALUES = 2**25


class SimilarityRows:
    """Rows of the ``[N, N]`` similarity of a set of features with itself.

    ``"dense"`` computes the product once and keeps it: O(N^2 d) time once, ``4 N^2`` bytes. ``"streamed"`` computes
    the rows that are asked for each time: O(N d) time a row, ``4 N`` bytes for each row of a block. Both give the same
    bits, so whatever is decided from them does not depend on the mode.

    Args:
        features: ``[N, d]``; rows are normalised here.
        kind: ``"cosine"`` (x_i . x_j, signed) or ``"shifted"`` ((1 + cosine) / 2).
        mode: ``"dense"``, ``"streamed"``, or None to choose by ``memory_limit``.
        memory_limit: Bytes the matrix may take; ``"auto"`` is half of what is free.

    Example:
        >>> SimilarityRows(torch.eye(3), mode="dense").rows(torch.tensor([1])).tolist()
        [[0.0, 1.0, 0.0]]
    """

    def __init__(
        self,
        features: Tensor,
        *,
        kind: SimilarityKind = "cosine",
        mode: ExactMode | None = None,
        memory_limit: int | str | None = None,
    ) -> None:
        if kind not in ("cosine", "shifted"):
            msg = f"similarity={kind!r} is not accepted: give 'cosine' or 'shifted'."
            raise ValueError(msg)
        self.features = normalize_rows(features)
        self.kind = kind
        self.size = len(features)
        self.mode = mode or choose_mode(self.size, memory_limit, features.device)
        if self.mode not in ("dense", "streamed"):
            msg = f"mode={self.mode!r} is not accepted: give 'dense', 'streamed', or None to choose by memory_limit."
            raise ValueError(msg)
        self._matrix: Tensor | None = None
        if self.mode == "dense":
            matrix = torch.empty(self.size, self.size, device=features.device)
            for part in row_blocks(self.size, _BLOCK_ROWS):
                matrix[part, part.start :] = self._product(self.features[part], self.features[part.start :])
                # The other half of a symmetric product has the same bits and is only copied.
                matrix[part.stop :, part] = matrix[part, part.stop :].T
            self._matrix = matrix

    def rows(self, indices: Tensor, out: Tensor | None = None) -> Tensor:
        """Similarities of some items to all items.

        Args:
            indices: ``[b]``.
            out: Where to write them ``[b, N]``, instead of into fresh memory.

        Returns:
            ``[b, N]``; a copy, free to be changed.
        """
        if self._matrix is not None:
            return torch.index_select(self._matrix, 0, indices, out=out)
        values = self._product(self.features[indices], self.features)
        return values if out is None else out.copy_(values)

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """All rows, a block at a time: ``(slice, [b, N])``; read only."""
        # At most 128 MB a block, or 64 rows.
        for part in row_blocks(self.size, min(_BLOCK_ROWS, _BLOCK_VALUES // self.size)):
            if self._matrix is not None:
                yield part, self._matrix[part]
            else:
                yield part, self._product(self.features[part], self.features)

    def against(self, others: Tensor) -> Tensor:
        """Similarities of other unit rows ``[m, d]`` to all items ``[m, N]``."""
        return self._product(others, self.features)

    def to_cosine(self, values: Tensor) -> Tensor:
        """Cosines behind similarities of this kind."""
        return values * 2 - 1 if self.kind == "shifted" else values

    def _product(self, asked: Tensor, others: Tensor) -> Tensor:
        values = (_filled_up(asked) @ _filled_up(others).T)[: len(asked), : len(others)]
        return values.add_(1).div_(2) if self.kind == "shifted" else values


def _filled_up(rows: Tensor) -> Tensor:
    """At least so many rows that a product has the same bits whichever other rows are in it."""
    missing = MIN_BLOCK_ROWS - len(rows)
    return rows if missing <= 0 else torch.cat([rows, rows.new_zeros(missing, rows.shape[1])])


def choose_mode(size: int, memory_limit: int | str | None, device: torch.device | str = "cpu") -> ExactMode:
    """Dense where the matrix of ``4 N^2`` bytes fits the limit, else streamed."""
    return "dense" if 4 * size * size <= resolve_memory_limit(memory_limit, device) else "streamed"


def represented_by(similarity: SimilarityRows, chosen: Tensor) -> Tensor:
    """Which of the chosen items represents each item: the most similar one, the earlier pick among equals.

    Args:
        similarity: Plain similarities of the ``N`` items, without candidate weights.
        chosen: Items chosen, in order ``[k]``.

    Returns:
        Position in ``chosen`` for each item ``[N]``. O(k N) time from a dense matrix, O(k N d) from a streamed one;
        O(N) memory beyond a block of rows.
    """
    return _owners(similarity, len(chosen), lambda part: similarity.rows(chosen[part]))


def represented_by_rows(similarity: SimilarityRows, rows: Tensor) -> Tensor:
    """`represented_by` with chosen items that are elsewhere, as unit rows in order ``[k, d]``."""
    return _owners(similarity, len(rows), lambda part: similarity.against(rows[part]))


def _owners(similarity: SimilarityRows, count: int, values_of: Callable[[slice], Tensor]) -> Tensor:
    device = similarity.features.device
    best = torch.full((similarity.size,), -torch.inf, device=device)
    owner = torch.zeros(similarity.size, dtype=torch.int64, device=device)
    for part in row_blocks(count, min(_BLOCK_ROWS, _BLOCK_VALUES // max(1, similarity.size))):
        values = values_of(part)
        top, first = values.amax(dim=0), first_argmax(values, dim=0)
        better = top > best
        owner = torch.where(better, first + part.start, owner)
        best = torch.where(better, top, best)
    return owner
