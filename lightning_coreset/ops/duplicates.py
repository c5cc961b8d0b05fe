"""Groups of near duplicates."""

import torch
from torch import Tensor

from lightning_coreset.ops.rows import MIN_BLOCK_ROWS, normalize_rows, row_blocks

_BLOCK_VALUES = 2**24
# Equal rows less rounding: a picture of one colour has no pattern to compare.
_FLAT = 1e-4


def duplicate_groups(thumbnails: Tensor, *, least: float = 0.995) -> Tensor:
    """Join items whose thumbnails, less their mean, have a cosine above ``least``, and whoever they are joined to.

    Args:
        thumbnails: ``[N, d]``, such as those of `lightning_coreset.data.thumbnails`.
        least: Cosine above which two items are near duplicates.

    Returns:
        The lowest member of each item's group ``[N]``. O(N^2 d) time, O(N d) memory beyond a block. Items of one colour
        are joined to none.

    Example:
        >>> duplicate_groups(torch.tensor([[0.0, 1.0, 2.0], [5.0, 0.0, 1.0], [1.0, 3.0, 5.0]])).tolist()
        [0, 1, 0]
    """
    rows = thumbnails.to(torch.float32)
    centered = rows - rows.mean(dim=1, keepdim=True)
    spread = torch.linalg.vector_norm(centered, dim=1)
    flat = spread <= _FLAT * torch.linalg.vector_norm(rows, dim=1)
    unit = normalize_rows(centered).masked_fill(flat.unsqueeze(1), 0)
    labels = torch.arange(len(rows), dtype=torch.int32)
    for part in row_blocks(len(rows), max(MIN_BLOCK_ROWS, _BLOCK_VALUES // len(rows))):
        near = unit[part] @ unit.T > least
        if int(near.sum()) > part.stop - part.start:
            labels = _joined(labels, part, near)
    return labels.to(torch.int64)


def _joined(labels: Tensor, part: slice, near: Tensor) -> Tensor:
    """Labels ``[N]`` after those of the rows of a block and of all that they are near to ``[b, N]`` are the same."""
    nobody = torch.tensor(len(labels), dtype=labels.dtype)
    while True:
        of_rows = torch.where(near, labels, nobody).amin(dim=1).minimum(labels[part])
        lowest = torch.where(near, of_rows.unsqueeze(1), nobody).amin(dim=0).minimum(labels)
        lowest[part] = lowest[part].minimum(of_rows)
        if bool((lowest == labels).all()):
            return labels
        # Whoever had the label of one that moved moves with it.
        moved = torch.arange(len(labels), dtype=labels.dtype)
        moved.scatter_reduce_(0, labels.long(), lowest, "amin")
        while bool((moved[moved.long()] != moved).any()):
            moved = moved[moved.long()]
        labels = moved[labels.long()]
