"""Labels of a dataset, read without decoding a single image where the dataset allows it."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from lightning_coreset.data.views import TARGET_KEYS, random_state_kept

_ATTRIBUTES = ("targets", "labels", "_labels", "y")


def read_labels(
    dataset: Any,
    labels: Tensor | Sequence[int] | Callable[..., Any] | None = None,
    *,
    decode: bool = False,
) -> Tensor | None:
    """Class of each item of a dataset.

    Understood without reading items: torchvision's datasets and folders, `TensorDataset`, Hugging Face datasets, and
    subsets, concatenations and same-length wrappers of them in any depth.

    Args:
        dataset: A map-style dataset of ``N`` items.
        labels: The labels themselves ``[N]``, or a callable that gets the dataset and returns them.
        decode: Read every item where nothing else helps, with a warning.

    Returns:
        ``[N]``, int64 on the CPU; None where items have no class.

    Raises:
        ValueError: Given labels of another length or type, or a negative one.

    Example:
        >>> read_labels(Subset(TensorDataset(torch.zeros(3, 2), torch.tensor([7, 8, 9])), [2, 0])).tolist()
        [9, 7]
    """
    if labels is not None:
        given = labels(dataset) if callable(labels) else labels
        return _check_given(given, len(dataset))
    found = _without_items(dataset)
    if found is None and decode:
        found = _from_items(dataset)
    return found


def _without_items(dataset: Any) -> Tensor | None:
    if isinstance(dataset, Subset):
        whole = _without_items(dataset.dataset)
        return None if whole is None else whole[torch.as_tensor(dataset.indices, dtype=torch.int64)]
    if isinstance(dataset, ConcatDataset):
        parts = [_without_items(part) for part in dataset.datasets]
        return None if any(part is None for part in parts) else torch.cat([part for part in parts if part is not None])
    if isinstance(dataset, TensorDataset):
        return as_classes(dataset.tensors[-1], len(dataset)) if len(dataset.tensors) > 1 else None
    if isinstance(getattr(dataset, "column_names", None), list):
        column = next((name for name in TARGET_KEYS if name in dataset.column_names), None)
        return None if column is None else as_classes(dataset[column], len(dataset))
    for name in _ATTRIBUTES:
        found = as_classes(getattr(dataset, name, None), len(dataset))
        if found is not None:
            return _as_trained(found, getattr(dataset, "target_transform", None))
    for name in ("samples", "_samples"):
        samples = getattr(dataset, name, None)
        if isinstance(samples, list) and len(samples) == len(dataset) and samples and isinstance(samples[0], tuple):
            found = as_classes([sample[-1] for sample in samples], len(dataset))
            return None if found is None else _as_trained(found, getattr(dataset, "target_transform", None))
    inner = getattr(dataset, "dataset", None)
    if inner is not None and hasattr(inner, "__len__") and len(inner) == len(dataset):
        return _without_items(inner)
    return None


def as_classes(values: Any, size: int) -> Tensor | None:
    """A column as classes ``[N]``, None where it is none: another length, floats, several labels an item, negative."""
    if values is None or callable(values) or isinstance(values, str | Mapping):
        return None
    if not isinstance(values, Tensor):
        try:
            # A list first: columns of Hugging Face datasets are sequences of their own.
            values = torch.from_numpy(np.asarray(values if isinstance(values, np.ndarray) else list(values)))
        except (TypeError, ValueError):
            # Strings, ragged lists and objects are no classes.
            return None
    column: Tensor = values.detach().cpu()
    if column.ndim == 2 and column.shape[1] == 1:
        column = column.squeeze(1)
    if column.shape != (size,) or column.is_floating_point() or column.is_complex() or bool((column < 0).any()):
        return None
    return column.to(torch.int64)


def _as_trained(found: Tensor, transform: Callable[..., Any] | None) -> Tensor:
    """Labels after the dataset's ``target_transform``, where that gives classes; raw ones otherwise."""
    if transform is None:
        return found
    raw, places = torch.unique(found, return_inverse=True)
    try:
        changed = as_classes([transform(value) for value in raw.tolist()], len(raw))
    except (AttributeError, TypeError, ValueError):
        # Written for tensors or for other targets: the raw classes say the same.
        changed = None
    return found if changed is None else changed[places]


def _from_items(dataset: Any) -> Tensor | None:
    with random_state_kept():
        if _label_of(dataset[0]) is None:
            return None
    warnings.warn(
        f"The labels of {type(dataset).__name__} are read by loading all of its {len(dataset)} items: pass labels= to "
        "avoid it.",
        stacklevel=4,
    )
    with random_state_kept():
        values = [_label_of(dataset[index]) for index in range(len(dataset))]
    return None if any(value is None for value in values) else as_classes(torch.tensor(values), len(dataset))


def _label_of(item: Any) -> int | None:
    if isinstance(item, Mapping):
        value = next((item[name] for name in TARGET_KEYS if name in item), None)
    elif isinstance(item, list | tuple) and len(item) > 1:
        value = item[1]
    else:
        return None
    if isinstance(value, Tensor | np.ndarray | np.generic):
        integral = not (value.is_floating_point() if isinstance(value, Tensor) else value.dtype.kind not in "iu")
        return int(value.reshape(-1)[0] if value.ndim else value) if value.size and integral and _one(value) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _one(value: Any) -> bool:
    return int(np.prod(tuple(value.shape))) == 1


def _check_given(given: Any, size: int) -> Tensor:
    try:
        column = torch.as_tensor(given if isinstance(given, Tensor) else np.asarray(given)).detach().cpu()
    except (TypeError, ValueError) as error:
        msg = (
            f"labels are {type(given).__name__} {str(given)[:40]!r}: give integers, 0 to C-1, one for each train item."
        )
        raise ValueError(msg) from error
    if column.ndim == 2 and column.shape[1] == 1:
        column = column.squeeze(1)
    if column.shape != (size,):
        msg = f"labels have shape {list(column.shape)}, the train dataset has {size} items: give one class per item."
        raise ValueError(msg)
    if column.is_floating_point() or column.is_complex():
        msg = f"labels are {column.dtype}: give integers, 0 to C-1."
        raise ValueError(msg)
    if bool((column < 0).any()):
        item = int(torch.nonzero(column < 0)[0])
        msg = (
            f"The label of item {item} is {int(column[item])}: classes start at 0, and unlabelled items belong in the "
            "pool of an active-learning loop, not among the labels."
        )
        raise ValueError(msg)
    return column.to(torch.int64)
