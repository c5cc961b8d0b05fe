"""Keys that say whether two datasets, embeddings or selections are the same."""

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from lightning_coreset.data.loaders import refuse_iterable
from lightning_coreset.data.views import EvaluationView, identity, random_state_kept

#: Raised whenever what is stored, or how keys are made, changes its meaning.
FORMAT_VERSION = 1

_SAMPLES = 8


def stable_key(*parts: Any) -> str:
    """One key of JSON values, the same in every process.

    Example:
        >>> stable_key("a", 1) == stable_key("a", 1), stable_key("a", 1) == stable_key("a", 2)
        (True, False)
    """
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def without_addresses(told: str) -> str:
    """A repr with no memory address in it: those differ between two processes that hold the same."""
    return re.sub(r" at 0x[0-9a-f]+", "", told)


def tensor_key(tensor: Tensor) -> str:
    """A key of a tensor's type, shape and bytes."""
    digest = hashlib.sha256(f"{tensor.dtype}{list(tensor.shape)}".encode())
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def module_key(module: nn.Module) -> str:
    """A key of a module's class, parameters and buffers: new weights give another key."""
    digest = hashlib.sha256(
        without_addresses(f"{type(module).__module__}.{type(module).__qualname__}{module}").encode()
    )
    for name, value in module.state_dict().items():
        digest.update(f"{name}{tensor_key(value) if isinstance(value, Tensor) else repr(value)}".encode())
    return digest.hexdigest()


def callable_key(transform: Callable[..., Any] | None) -> str | None:
    """What a function does, as far as it says: its repr without memory addresses, and the code of plain functions."""
    if transform is None:
        return None
    code = getattr(transform, "__code__", None)
    told = (
        repr(transform) if code is None else f"{transform!r} {code.co_code.hex()} {code.co_consts!r} {code.co_names!r}"
    )
    return without_addresses(told)


def dataset_fingerprint(dataset: Any, labels: Tensor | None) -> str:
    """The dataset key: length, labels and 8 evenly spread items.

    Items are read without their image transform, so that the key does not depend on what embeds them. Items that
    differ between two reads are left out, with a warning.

    Args:
        dataset: A map-style dataset of ``N`` items.
        labels: Class of each item ``[N]``, or None.

    Raises:
        UnsupportedSourceError: An iterable dataset.
    """
    refuse_iterable(dataset)
    size, keys = item_keys(dataset)
    if keys is None:
        warn_random_items(dataset)
    return stable_key(FORMAT_VERSION, size, None if labels is None else tensor_key(labels), keys or [])


def item_keys(dataset: Any) -> tuple[int, list[Any] | None]:
    """The length of a dataset and keys of 8 evenly spread items; None for those where two reads differ.

    Example:
        >>> item_keys([3, 4])
        (2, [3, 4])
    """
    size = len(dataset)
    view = EvaluationView(dataset, identity)
    places = sorted({size * place // _SAMPLES for place in range(_SAMPLES)})
    with random_state_kept():
        first, second = ([_item_key(view[place]) for place in places] for _ in range(2))
    return size, first if first == second else None


def warn_random_items(dataset: Any) -> None:
    """Say that items differ between two reads, and what to do."""
    warnings.warn(
        f"Two reads of one item of {type(dataset).__name__} differ: it augments at random where no transform attribute "
        "shows it, so embeddings are of augmented images: pass a dataset that does not augment, or give its transform "
        "as the attribute .transform.",
        stacklevel=2,
    )


def _item_key(item: Any) -> Any:
    """What an item holds, in JSON types; labels are keyed apart."""
    if isinstance(item, Image.Image):
        return [item.mode, tensor_key(torch.from_numpy(np.array(item)))]
    if isinstance(item, np.ndarray) and item.dtype.kind in "biuf":
        return [str(item.dtype), hashlib.sha256(np.ascontiguousarray(item).data).hexdigest(), list(item.shape)]
    if isinstance(item, Tensor):
        return tensor_key(item)
    if isinstance(item, Mapping):
        return {str(key): _item_key(value) for key, value in item.items()}
    if isinstance(item, list | tuple):
        return [_item_key(value) for value in item]
    return item if isinstance(item, bool | int | float | str | None) else type(item).__name__
