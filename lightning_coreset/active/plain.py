"""Targets in JSON types and back: what a journal, a hand-over file and another rank can hold."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_coreset.detection.masks import counts_of, decoded, encoded, mask_of

_TENSOR, _MASKS = "__tensor__", "__masks__"


def to_plain(value: Any) -> Any:
    """A target in JSON types; tensors and arrays come back as tensors. Masks are written as run lengths.

    Args:
        value: Numbers, text, tensors, arrays, None, and lists, tuples and mappings of them.

    Raises:
        TypeError: Anything else.

    Example:
        >>> to_plain({"labels": torch.tensor([3])})
        {'labels': {'__tensor__': 'int64', 'values': [3], 'shape': [1]}}
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor | np.ndarray):
        tensor = torch.as_tensor(value).detach().cpu()
        name = str(tensor.dtype).removeprefix("torch.")
        if _are_masks(tensor):
            # A line of a journal for each pixel would be no line.
            return {_MASKS: name, "counts": [encoded(counts_of(mask)) for mask in tensor], "shape": list(tensor.shape)}
        return {_TENSOR: name, "values": tensor.flatten().tolist(), "shape": list(tensor.shape)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(part) for part in value]
    msg = (
        f"A target holds a {type(value).__name__}; numbers, text, tensors, arrays and lists and dicts of them are "
        "accepted: change it into one of them."
    )
    raise TypeError(msg)


def from_plain(value: Any) -> Any:
    """What `to_plain` was given.

    Example:
        >>> from_plain(to_plain([1, torch.ones(2)]))
        [1, tensor([1., 1.])]
    """
    if isinstance(value, dict):
        if _TENSOR in value:
            dtype: torch.dtype = getattr(torch, value[_TENSOR])
            return torch.tensor(value["values"], dtype=dtype).reshape(value["shape"])
        if _MASKS in value:
            _, height, width = value["shape"]
            masks = [mask_of(decoded(text), (height, width)) for text in value["counts"]]
            return torch.stack(masks).to(getattr(torch, value[_MASKS]))
        return {key: from_plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [from_plain(part) for part in value]
    return value


def _are_masks(tensor: Tensor) -> bool:
    """Whether a tensor ``[M, H, W]`` holds nothing but yes and no, and any pixel at all."""
    if tensor.ndim != 3 or not tensor.numel():
        return False
    return tensor.dtype == torch.bool or (tensor.dtype == torch.uint8 and int(tensor.max()) <= 1)
