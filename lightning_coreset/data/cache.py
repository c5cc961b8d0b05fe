"""Embeddings on disk, in shards that are whole or not there, and that know whose they are."""

import hashlib
import json
import warnings
from typing import Any

import safetensors
import torch
from safetensors.torch import load, save
from torch import Tensor

from lightning_coreset.data.fingerprint import FORMAT_VERSION
from lightning_coreset.storage import join, list_files, read_bytes, write_atomic

_SUFFIX = ".safetensors"


class EmbeddingCache:
    """Embeddings of some items of one dataset by one extractor.

    A shard holds the positions and embeddings of the items that were embedded together, a checksum (a flipped bit
    would otherwise go unnoticed) and the key it belongs to. Shards may come from any number of processes and ranks, in
    any order; a damaged or foreign one is reported and ignored, so that its items are embedded again.

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

    def write(self, positions: Tensor, features: Tensor) -> None:
        """Store the embeddings ``[n, d]`` of some positions ``[n]`` as one shard.

        Raises:
            OSError: The place cannot be written; no part of the shard is left.
        """
        positions = positions.to(torch.int64).contiguous()
        features = features.to(torch.float32).contiguous()
        note = {"format": str(FORMAT_VERSION), "key": self.key, "checksum": _checksum(positions, features)}
        name = f"{int(positions[0]):010d}-{note['checksum'][:16]}{_SUFFIX}"
        write_atomic(join(self.folder, name), save({"positions": positions, "features": features}, note))

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
        for path in list_files(self.folder, _SUFFIX):
            shard = self._read_shard(path)
            if shard is None:
                continue
            stored, features = shard
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

    def _read_shard(self, path: str) -> tuple[Tensor, Tensor] | None:
        try:
            data = read_bytes(path)
            size = int.from_bytes(data[:8], "little")
            tensors = load(data)
            note = _metadata(data[8 : 8 + size])
            positions, features = tensors["positions"], tensors["features"]
        except (safetensors.SafetensorError, KeyError, ValueError, OSError) as error:
            warnings.warn(f"{path} is damaged ({error}); its items are embedded again.", stacklevel=3)
            return None
        if note.get("key") != self.key or note.get("format") != str(FORMAT_VERSION):
            warnings.warn(
                f"{path} belongs to another dataset, extractor or version and is ignored: its items are embedded "
                "again.",
                stacklevel=3,
            )
            return None
        whole = note.get("checksum") == _checksum(positions, features)
        if not whole or not bool(torch.isfinite(features).all()):
            told = "it holds NaN or infinite values" if whole else "its checksum does not fit"
            warnings.warn(f"{path} is damaged ({told}); its items are embedded again.", stacklevel=3)
            return None
        return positions, features


def _metadata(header: bytes) -> dict[str, str]:
    note: dict[str, str] = json.loads(header).get("__metadata__", {})
    return note


def _checksum(positions: Tensor, features: Tensor) -> str:
    digest = hashlib.sha256(f"{list(features.shape)}".encode())
    digest.update(positions.numpy().data)
    digest.update(features.numpy().data)
    return digest.hexdigest()
