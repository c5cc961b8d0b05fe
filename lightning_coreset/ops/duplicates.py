"""Groups of near duplicates."""

import torch
from torch import Tensor

from lightning_coreset.ops.rows import normalize_rows, row_blocks

_BLOCK_ROWS = 1_024
# Equal rows less rounding: a picture of one colour has no pattern to compare.
_FLAT = 1e-4


def duplicate_groups(thumbnails: Tensor, *, least: float = 0.995) -> Tensor:
    """Join items whose thumbnails, less their mean, have a cosine above ``least``, and whoever they are joined to.

    Args:
        thumbnails: ``[N, d]``, such as those of `lightning_coreset.data.thumbnails`.
        least: Cosine above which two items are near duplicates.

    Returns:
        The lowest member of each item's group ``[N]``. O(N^2 d) time, O(N d) memory. Items of one colour are joined to
        none.

    Example:
        >>> duplicate_groups(torch.tensor([[0.0, 1.0, 2.0], [5.0, 0.0, 1.0], [1.0, 3.0, 5.0]])).tolist()
        [0, 1, 0]
    """
    rows = thumbnails.to(torch.float32)
    centered = rows - rows.mean(dim=1, keepdim=True)
    spread = torch.linalg.vector_norm(centered, dim=1)
    flat = spread <= _FLAT * torch.linalg.vector_norm(rows, dim=1)
    unit = normalize_rows(centered).masked_fill(flat.unsqueeze(1), 0)
    parents = list(range(len(rows)))

    def root(item: int) -> int:
        while parents[item] != item:
            parents[item] = parents[parents[item]]
            item = parents[item]
        return item

    for part in row_blocks(len(rows), _BLOCK_ROWS):
        # Later partners only; each pair is met once.
        pairs = torch.nonzero(unit[part] @ unit[part.start :].T > least) + part.start
        for one, other in pairs[pairs[:, 0] < pairs[:, 1]].tolist():
            low, high = sorted((root(one), root(other)))
            parents[high] = low
    return torch.tensor([root(item) for item in range(len(rows))], dtype=torch.int64)
