"""Embeddings on disk, in shards that are whole or not there, and that know whose they are."""

import warnings
from typing import Any

import torch
from torch import Tensor

from lightning_coreset.data.shards import ShardFolder
from lightning_coreset.storage import join


class EmbeddingCache:
    """Embeddings of some items of one dataset by one extractor.

    Kept in shards, see `ShardFolder`; the items of a damaged or foreign one are embedded again.

    Args:
        folder: Folder or fsspec URL.
        key: The embedding key: dataset, extractor and transform.

    Example:
        >>> cache = EmbeddingCache("memory://example-cache", "key")
        >>> cache.write(torch.tensor([4, 2]), torch.eye(2))
        >>> rows, found = EmbeddingCache("memory://example-cache", "key").read(torch.tensor([2, 3]))
        >>> rows.tolist(), found.tolist()
        ([[0.0, 1.0], [0.0, 0.0]], [True, False])
    """

    def __init__(self, folder: Any, key: str) -> None:
        self.key = key
        self.folder = join(folder, "embeddings", key)
        self._shards = ShardFolder(
            self.folder,
            key,
            ("features",),
            again="embedded again",
            foreign="another dataset, extractor or version",
        )

    def write(self, positions: Tensor, features: Tensor) -> None:
        """Store the embeddings ``[n, d]`` of some positions ``[n]`` as one shard.

        Raises:
            OSError: The place cannot be written; no part of the shard is left.
        """
        self._shards.write(positions, {"features": features.to(torch.float32)})

    def read(self, positions: Tensor) -> tuple[Tensor | None, Tensor]:
        """The embeddings of some positions, as far as they are there.

        Args:
            positions: ``[n]``.

        Returns:
            Rows ``[n, d]``, zero where nothing is stored (None when nothing is stored at all), and which were found
            ``[n]``. O(n d) memory beyond one shard.
        """
        found = torch.zeros(len(positions), dtype=torch.bool)
        rows: Tensor | None = None
        order = torch.argsort(positions)
        wanted = positions[order]
        for path, shard in self._shards:
            stored, features = shard["positions"], shard["features"]
            if not bool(torch.isfinite(features).all()):
                self._shards.damaged(path, "it holds NaN or infinite values", stacklevel=2)
                continue
            if rows is not None and features.shape[1] != rows.shape[1]:
                warnings.warn(f"{path} holds rows of another width and is ignored.", stacklevel=2)
                continue
            places = torch.searchsorted(wanted, stored).clamp_(max=max(len(wanted) - 1, 0))
            here = wanted[places] == stored if len(wanted) else torch.zeros(len(stored), dtype=torch.bool)
            if rows is None:
                rows = torch.zeros(len(positions), features.shape[1])
            rows[order[places[here]]] = features[here]
            found[order[places[here]]] = True
        return rows, found
