"""The few local patterns that stand for an image's feature map."""

import torch
from torch import Tensor

from lightning_coreset.ops.kmeans import kmeans
from lightning_coreset.ops.rows import normalize_rows


def local_patterns(maps: Tensor, *, patterns: int = 5, strongest: int = 200, seed: int = 0) -> Tensor:
    """K-means centres of the strongest vectors of each feature map, one after another.

    Args:
        maps: ``[B, C, H, W]``.
        patterns: Centres of each map; a map with fewer distinct vectors repeats them.
        strongest: Vectors of each map that are looked at, by their length, ties to the lower place.
        seed: Of the k-means++ draws.

    Returns:
        ``[B, patterns * C]``. O(B strongest patterns C) time.

    References:
        FreeSel (Xie et al. 2023).

    Example:
        >>> local_patterns(torch.rand(2, 8, 4, 4), patterns=3).shape
        torch.Size([2, 24])
    """
    found = []
    for vectors in maps.detach().float().cpu().flatten(2).transpose(1, 2):
        order = torch.argsort(torch.linalg.vector_norm(vectors, dim=1), descending=True, stable=True)
        rows = normalize_rows(vectors[order[:strongest]])
        centers = kmeans(rows, min(patterns, len(rows)), seed=seed, engine="torch").centers
        found.append(centers[torch.arange(patterns) % len(centers)].flatten())
    return torch.stack(found).to(maps.device)
