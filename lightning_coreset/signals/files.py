"""Tensors in one file that is whole or not there, knows what it is, and notices a flipped bit."""

import hashlib
import json
from typing import Any

import safetensors
from safetensors.torch import load, save
from torch import Tensor

from lightning_coreset.errors import CoresetError
from lightning_coreset.storage import read_bytes, write_atomic

SUFFIX = ".safetensors"


def write_tensors(path: Any, tensors: dict[str, Tensor], note: dict[str, str]) -> None:
    """Write tensors and a note about them, atomically.

    Raises:
        OSError: The place cannot be written; what was there before is untouched.
    """
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    write_atomic(path, save(tensors, note | {"checksum": _checksum(tensors)}))


def read_tensors(path: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file and the note about them.

    Raises:
        CoresetError: No such file, or one that is damaged or was not written by `write_tensors`.
    """
    try:
        data = read_bytes(path)
        tensors = load(data)
        note = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
    except (safetensors.SafetensorError, ValueError, OSError) as error:
        msg = f"{path} cannot be read ({error}): give a whole file that this package wrote."
        raise CoresetError(msg) from error
    if note.get("checksum") != _checksum(tensors):
        msg = f"{path} is damaged or foreign (its checksum does not fit): record or save it again."
        raise CoresetError(msg)
    return tensors, note


def _checksum(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name}{tensors[name].dtype}{list(tensors[name].shape)}".encode())
        digest.update(tensors[name].numpy().data)
    return digest.hexdigest()
