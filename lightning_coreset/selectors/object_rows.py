"""Rows of objects, as detection methods compare them."""

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_coreset.detection import Objects
from lightning_coreset.ops.rows import normalize_rows


class ObjectRows(NamedTuple):
    """Embeddings of objects, or of what an image shows of a class, ascending in class, then image.

    Attributes:
        features: ``[R, d]``.
        images: ``[R]``.
        classes: ``[R]``.
    """

    features: Tensor
    images: Tensor
    classes: Tensor


def usable(objects: Objects) -> Tensor:
    """Which objects can be learnt from, as a mask ``[M]``: neither crowds nor boxes without area."""
    mask = objects.areas() > 0
    return mask if objects.crowd is None else mask & ~objects.crowd


def check_object_features(name: str, objects: Objects) -> None:
    """Refuse objects without embeddings.

    Raises:
        ValueError: Names the method and what it misses.
    """
    if objects.features is None:
        msg = f"{name!r} compares objects and these have no features: give Objects(features=...), one row for each box."
        raise ValueError(msg)


def kept(objects: Objects, mask: Tensor) -> Objects:
    """The objects of a mask ``[M]``, without a copy where it holds all."""
    return objects if bool(mask.all()) else objects.where(mask)


def rows_of(objects: Objects) -> ObjectRows:
    """One row for each object, as it is."""
    assert objects.features is not None
    order = torch.argsort(objects.labels * objects.num_images + objects.image, stable=True)
    return ObjectRows(objects.features[order], objects.image[order], objects.labels[order])


def means_of(objects: Objects, *, normalize_objects: bool = False) -> ObjectRows:
    """One unit row for each image and class that it shows: the mean of its objects; O(M d) time, O(R d) memory.

    Args:
        objects: With features.
        normalize_objects: Give each object the same say, however long its embedding.
    """
    rows = rows_of(objects)
    features = normalize_rows(rows.features) if normalize_objects else rows.features
    cells, place, sizes = torch.unique(
        rows.classes * objects.num_images + rows.images, return_inverse=True, return_counts=True
    )
    # The length goes anyway, so a sum is as good as a mean. Rows of a cell stand together, which keeps the order fixed.
    sums = torch.zeros(len(cells), features.shape[1]).index_add_(0, place, features).div_(sizes.unsqueeze(1))
    return ObjectRows(normalize_rows(sums), cells % objects.num_images, cells // objects.num_images)


def capped(rows: ObjectRows, kept: Tensor) -> ObjectRows:
    """The rows of a mask ``[R]``."""
    return ObjectRows(rows.features[kept], rows.images[kept], rows.classes[kept])
