"""Shards: files of tensors that are whole or not there, and that know whose they are."""

import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import safetensors
import torch
from safetensors.torch import load, save
from torch import Tensor

from lightning_coreset.data.fingerprint import FORMAT_VERSION
from lightning_coreset.storage import join, list_files, read_bytes, write_atomic

_SUFFIX = ".safetensors"


class ShardFolder:
    """Tensors of some items of one dataset, in shards of items that were worked on together.

    A shard holds the positions of its items, their tensors, a checksum (a flipped bit would otherwise go unnoticed)
    and the key it belongs to. Shards may come from any number of processes and ranks, in any order; a damaged or
    foreign one is reported and ignored.

    Args:
        folder: Folder or fsspec URL.
        key: What the tensors depend on.
        names: Of the tensors that every shard holds.
        again: What becomes of the items of a shard that cannot be used, for the warning.
        foreign: What a shard with another key belongs to, for the warning.

    Example:
        >>> shards = ShardFolder("memory://example-shards", "key", ("rows",), again="made again", foreign="other data")
        >>> shards.write(torch.tensor([4]), {"rows": torch.ones(1, 2)})
        >>> [tensors["rows"].tolist() for _, tensors in shards]
        [[[1.0, 1.0]]]
    """

    def __init__(self, folder: Any, key: str, names: Sequence[str], *, again: str, foreign: str) -> None:
        self.key = key
        self._names = ("positions", *names)
        self.folder = str(folder)
        self._again, self._foreign = again, foreign

    def write(self, positions: Tensor, tensors: Mapping[str, Tensor]) -> None:
        """Store the tensors of some positions ``[n]`` as one shard.

        Raises:
            OSError: The place cannot be written; no part of the shard is left.
        """
        stored = {"positions": positions.to(torch.int64).contiguous()}
        stored |= {name: tensor.contiguous() for name, tensor in tensors.items()}
        note = {"format": str(FORMAT_VERSION), "key": self.key, "checksum": checksum(stored)}
        name = f"{int(positions[0]):010d}-{note['checksum'][:16]}{_SUFFIX}"
        write_atomic(join(self.folder, name), save(stored, note))

    def __iter__(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Path and tensors of each whole shard, ``positions`` among them."""
        for path in list_files(self.folder, _SUFFIX):
            tensors = self._read(path)
            if tensors is not None:
                yield path, tensors

    def damaged(self, path: str, told: str, stacklevel: int = 3) -> None:
        """Say that a shard cannot be believed."""
        warnings.warn(f"{path} is damaged ({told}); its items are {self._again}.", stacklevel=stacklevel + 1)

    def _read(self, path: str) -> dict[str, Tensor] | None:
        try:
            data = read_bytes(path)
            size = int.from_bytes(data[:8], "little")
            found = load(data)
            note = _metadata(data[8 : 8 + size])
            tensors: dict[str, Tensor] = {name: found[name] for name in self._names}
        except (safetensors.SafetensorError, KeyError, ValueError, OSError) as error:
            self.damaged(path, str(error))
            return None
        if note.get("key") != self.key or note.get("format") != str(FORMAT_VERSION):
            warnings.warn(
                f"{path} belongs to {self._foreign} and is ignored: its items are {self._again}.", stacklevel=3
            )
            return None
        if note.get("checksum") != checksum(tensors):
            self.damaged(path, "its checksum does not fit")
            return None
        return tensors


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """A key of all bytes and shapes of a shard."""
    others = [tensors[name] for name in sorted(tensors) if name != "positions"]
    digest = hashlib.sha256("".join(f"{list(tensor.shape)}" for tensor in others).encode())
    for tensor in (tensors["positions"], *others):
        digest.update(tensor.numpy().data)
    return digest.hexdigest()


def _metadata(header: bytes) -> dict[str, str]:
    note: dict[str, str] = json.loads(header).get("__metadata__", {})
    return note
