"""The objects of a dataset, read without decoding a single image where the dataset allows it."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Subset
from torchvision.datasets import VOCDetection

from lightning_coreset.data.views import random_state_kept
from lightning_coreset.detection.class_names import ClassNames
from lightning_coreset.detection.coco import CocoFile
from lightning_coreset.detection.objects import Objects
from lightning_coreset.detection.rows import joined_tables, table_of
from lightning_coreset.detection.targets import coco_objects, objects_from_targets
from lightning_coreset.detection.voc import read_voc

_ATTRIBUTES = ("objects", "targets", "annotations", "labels", "_targets")
_KEYS = ("target", "targets", "annotation", "annotations", "objects")


def read_objects(
    dataset: Any, objects: Any = None, *, class_names: ClassNames = None, decode: bool = False
) -> Objects | None:
    """The objects of each image of a dataset.

    Understood without reading items: torchvision's `CocoDetection` and `VOCDetection`, plain or wrapped for v2
    transforms, attributes that hold targets, and subsets, concatenations and same-length wrappers of them in any depth.

    Args:
        dataset: A map-style dataset of ``N`` images.
        objects: The objects or targets themselves, or a callable that gets the dataset and returns them.
        class_names: Names of the classes, or names by category id.
        decode: Read every item where nothing else helps, with a warning.

    Returns:
        The objects; None where nothing tells them.

    Raises:
        ValueError: Given objects of another number of images, or targets that are refused.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> images = TensorDataset(torch.zeros(2, 3, 8, 8))
        >>> images.targets = [{"boxes": [[0, 0, 4, 4]], "labels": [0]}, {"boxes": [], "labels": []}]
        >>> read_objects(Subset(images, [1, 0])).image.tolist()
        [1]
    """
    if objects is not None:
        given = objects(dataset) if callable(objects) else objects
        found: Objects | None = objects_from_targets(given, class_names=class_names)
    else:
        found = _without_items(dataset, class_names)
        if found is None and decode:
            found = _from_items(dataset, class_names)
    if found is not None and found.num_images != len(dataset):
        msg = (
            f"objects tell of {found.num_images} images and the dataset has {len(dataset)}: give one target for each "
            "image, in the dataset's order."
        )
        raise ValueError(msg)
    return found


def read_names(dataset: Any) -> list[str] | None:
    """File names of a dataset's images, which stay the same when the dataset is put in another order.

    Returns:
        ``N`` unique names; None where the dataset does not tell them.

    Example:
        >>> read_names([0, 1]) is None
        True
    """
    names = _names(dataset)
    return None if names is None or len(set(names)) != len(dataset) else names


def read_image_ids(dataset: Any) -> list[Any] | None:
    """COCO's ids of a dataset's images; None where it has none."""
    if isinstance(dataset, Subset):
        inner = read_image_ids(dataset.dataset)
        return None if inner is None else [inner[int(place)] for place in dataset.indices]
    if _coco_of(dataset) is not None:
        return list(dataset.ids)
    inner = getattr(dataset, "dataset", None)
    return read_image_ids(inner) if _same_length(inner, dataset) else None


def read_sizes(dataset: Any) -> list[tuple[int, int]] | None:
    """Height and width of a dataset's images, from their headers or a COCO index; None where neither is at hand."""
    if isinstance(dataset, Subset):
        inner = read_sizes(dataset.dataset)
        return None if inner is None else [inner[int(place)] for place in dataset.indices]
    coco = _coco_of(dataset)
    if coco is not None:
        entries = [coco.images[image] for image in dataset.ids]
        told = all("height" in entry and "width" in entry for entry in entries)
        return [(int(entry["height"]), int(entry["width"])) for entry in entries] if told else None
    names = _names(dataset)
    if names is None or not all(Path(name).is_file() for name in names):
        return None
    sizes = []
    for name in names:
        with Image.open(name) as opened:
            sizes.append((opened.height, opened.width))
    return sizes


def _without_items(dataset: Any, class_names: ClassNames) -> Objects | None:
    if isinstance(dataset, Subset):
        whole = _without_items(dataset.dataset, class_names)
        return None if whole is None else whole.subset(torch.as_tensor(dataset.indices, dtype=torch.int64))
    if isinstance(dataset, ConcatDataset):
        parts = [_without_items(part, class_names) for part in dataset.datasets]
        return None if any(part is None for part in parts) else joined_tables([part for part in parts if part])
    coco = _coco_of(dataset)
    if coco is not None:
        return coco_objects(coco, list(dataset.ids), class_names=class_names)
    if isinstance(dataset, VOCDetection):
        return table_of([read_voc(path) for path in dataset.annotations], class_names=class_names)
    for name in _ATTRIBUTES:
        value = getattr(dataset, name, None)
        if isinstance(value, Objects):
            return value
        if isinstance(value, list | tuple) and len(value) == len(dataset) and any(map(_is_target, value)):
            return objects_from_targets(value, class_names=class_names)
    inner = getattr(dataset, "dataset", None)
    return _without_items(inner, class_names) if _same_length(inner, dataset) else None


def _names(dataset: Any) -> list[str] | None:
    if isinstance(dataset, Subset):
        inner = _names(dataset.dataset)
        return None if inner is None else [inner[int(place)] for place in dataset.indices]
    if isinstance(dataset, ConcatDataset):
        parts = [_names(part) for part in dataset.datasets]
        return None if any(part is None for part in parts) else [name for part in parts if part for name in part]
    coco = _coco_of(dataset)
    if coco is not None:
        return coco.names(dataset.ids)
    for name in ("images", "samples", "imgs", "files", "paths"):
        value = getattr(dataset, name, None)
        if isinstance(value, list) and len(value) == len(dataset):
            paths = [entry[0] if isinstance(entry, tuple) else entry for entry in value]
            if all(isinstance(path, str | Path) for path in paths):
                return [str(path) for path in paths]
    inner = getattr(dataset, "dataset", None)
    return _names(inner) if _same_length(inner, dataset) else None


def _coco_of(dataset: Any) -> CocoFile | None:
    """The index behind torchvision's `CocoDetection`, and whatever else keeps pycocotools' object with its ids."""
    index = getattr(getattr(dataset, "coco", None), "dataset", None)
    ids = getattr(dataset, "ids", None)
    if not isinstance(index, Mapping) or "images" not in index or ids is None or len(ids) != len(dataset):
        return None
    return CocoFile(index if "annotations" in index else {**index, "annotations": []})


def _same_length(inner: Any, dataset: Any) -> bool:
    return inner is not None and hasattr(inner, "__len__") and len(inner) == len(dataset)


def _is_target(value: Any) -> bool:
    if isinstance(value, Mapping):
        return "annotation" in value or any(key in value for key in ("boxes", "bboxes", "bbox_xyxy"))
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping) and "bbox" in value[0]


def _from_items(dataset: Any, class_names: ClassNames) -> Objects | None:
    with random_state_kept():
        if len(dataset) == 0 or _target_of(dataset[0]) is None:
            return None
    warnings.warn(
        f"The objects of {type(dataset).__name__} are read by loading all of its {len(dataset)} items: pass the "
        "targets to avoid it.",
        stacklevel=3,
    )
    with random_state_kept():
        targets = [_target_of(dataset[index]) for index in range(len(dataset))]
    return objects_from_targets(targets, class_names=class_names)


def _target_of(item: Any) -> Any | None:
    """The target of an item: its own boxes, an entry of a usual name, or what follows the image."""
    if isinstance(item, Mapping):
        if any(key in item for key in ("boxes", "bboxes", "bbox_xyxy", "mask")):
            return item["mask"] if "mask" in item and "boxes" not in item else item
        return next((item[key] for key in _KEYS if key in item), None)
    if isinstance(item, list | tuple) and len(item) > 1:
        target = item[1]
        is_empty = isinstance(target, list) and not target
        is_mask = getattr(target, "ndim", 0) == 2 or hasattr(target, "getbands")
        return target if is_empty or is_mask or isinstance(target, Mapping) or _is_target(target) else None
    return None
