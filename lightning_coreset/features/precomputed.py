"""Embeddings that are there already: a tensor, or a file of them."""

from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lightning_coreset.data.fingerprint import stable_key, tensor_key
from lightning_coreset.pool import check_features

SUFFIXES = (".npy", ".npz", ".safetensors")
_NAMES = ("features", "embeddings")


class PrecomputedFeatures:
    """Embeddings ``[N, d]`` of a whole train dataset, in its order.

    Args:
        source: A tensor or array, or the path of a ``.npy``, ``.npz`` or ``.safetensors`` file; the latter two hold
            one array, or one named "features" or "embeddings". Files are read on first use.

    Example:
        >>> import torch
        >>> PrecomputedFeatures(torch.eye(3)).matrix(3).shape
        torch.Size([3, 3])
    """

    def __init__(self, source: Any) -> None:
        self._source = source
        self._matrix: Tensor | None = None

    @property
    def key(self) -> str:
        """A key of the embeddings themselves."""
        return stable_key("precomputed", tensor_key(self._load()))

    def check(self, size: int) -> None:
        """Refuse embeddings of another number of items.

        Raises:
            ValueError: Another number of rows, or a value that is not finite.
        """
        rows = len(self._load())
        if rows != size:
            msg = (
                f"features= holds embeddings of {rows} items and the train dataset has {size}: they belong to another "
                "dataset, give one row per train item in the dataset's order."
            )
            raise ValueError(msg)

    def matrix(self, size: int | None = None) -> Tensor:
        """The embeddings ``[size, d]``, float32 on the CPU; all of them where no size is given.

        Raises:
            ValueError: Another number of rows, or a value that is not finite.
        """
        if size is not None:
            self.check(size)
        return self._load()

    def _load(self) -> Tensor:
        if self._matrix is None:
            is_path = isinstance(self._source, str | Path)
            self._matrix = check_features(_read(Path(self._source)) if is_path else self._source).cpu()
        return self._matrix


def _read(path: Path) -> Any:
    if not path.exists():
        msg = f"features={str(path)!r} does not exist: give the path of a {', '.join(SUFFIXES)} file."
        raise ValueError(msg)
    try:
        arrays = _arrays(path)
    except (BadZipFile, EOFError, OSError, SafetensorError, TypeError, ValueError) as error:
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        msg = (
            f"features={str(path)!r} cannot be read ({told}); numbers in a whole {', '.join(SUFFIXES)} file are "
            "accepted, and no pickled objects: write it again."
        )
        raise ValueError(msg) from error
    return _one(arrays, path)


def _arrays(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        return dict(load_file(path))
    found = np.load(path, allow_pickle=False)
    if path.suffix == ".npy":
        return {"features": found}
    with found:
        return {name: found[name] for name in found.files}


def _one(arrays: dict[str, Any], path: Path) -> Any:
    named = [arrays[name] for name in _NAMES if name in arrays] or list(arrays.values())
    if len(named) != 1:
        msg = f"{path} holds {len(arrays)} arrays ({', '.join(arrays)}): name the embeddings 'features', or keep one."
        raise ValueError(msg)
    return named[0]
