"""What chosen images show: balance of the classes, sizes, and what is missing."""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightning_coreset.detection.objects import Objects

# COCO's borders between small, medium and large, in square pixels.
_SMALL, _LARGE = 32.0**2, 96.0**2


def class_balance(counts: Tensor) -> float:
    """Mean over all pairs of different classes of the smaller count over the larger; 1 is balanced.

    A pair of two absent classes counts 0. O(C log C) time.

    Args:
        counts: Objects of each class ``[C]``.

    References:
        Object-focused data selection (Popp et al. 2025).

    Example:
        >>> round(class_balance(torch.tensor([1, 2, 4])), 3)
        0.417
    """
    values = counts.double().sort().values
    if len(values) < 2:
        return 1.0
    positive = values[values > 0]
    # The smaller of a pair is the earlier one: each value divides the sum of those before it.
    before = positive.cumsum(0) - positive
    pairs = len(values) * (len(values) - 1) / 2
    return float((before / positive).sum()) / pairs


def object_report(objects: Objects, images: Tensor) -> dict[str, Any]:
    """What some images of a pool show, in JSON types.

    Args:
        objects: The whole pool's objects; crowds do not count.
        images: Positions of the chosen images ``[k]``.
    """
    # Embeddings would be copied for nothing.
    objects = replace(objects, features=None)
    if objects.crowd is not None:
        objects = objects.where(~objects.crowd)
    chosen = torch.zeros(objects.num_images, dtype=torch.bool)
    chosen[images] = True
    part = objects.where(chosen[objects.image])
    counts, pool_counts = (torch.bincount(table.labels, minlength=objects.num_classes) for table in (part, objects))
    sizes, pool_sizes = _size_shares(part), _size_shares(objects)
    shares = counts[counts > 0].double() / max(1, int(counts.sum()))
    showing = torch.bincount(objects.image, minlength=objects.num_images) > 0
    return {
        "objects": len(part),
        "per_class": counts.tolist(),
        "pool_per_class": pool_counts.tolist(),
        "class_names": None if objects.class_names is None else list(objects.class_names),
        "missing_classes": torch.nonzero((counts == 0) & (pool_counts > 0)).flatten().tolist(),
        "class_balance": round(class_balance(counts), 6),
        "class_entropy": round(float(-(shares * shares.log()).sum()), 6),
        "sizes": dict(zip(("small", "medium", "large"), [round(share, 6) for share in sizes], strict=True)),
        "sizes_kl": round(_divergence(sizes, pool_sizes), 6),
        "images_without": int(chosen.sum()) - int((chosen & showing).sum()),
        "pool_images_without": objects.num_images - int(showing.sum()),
    }


def _size_shares(objects: Objects) -> list[float]:
    areas = objects.areas()
    if not len(areas):
        return [0.0, 0.0, 0.0]
    small, large = float((areas < _SMALL).double().mean()), float((areas >= _LARGE).double().mean())
    return [small, max(0.0, 1.0 - small - large), large]


def _divergence(shares: list[float], reference: list[float]) -> float:
    return sum(p * math.log(p / q) for p, q in zip(shares, reference, strict=True) if p > 0 and q > 0)
