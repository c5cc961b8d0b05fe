"""How hard classes are for a detector, in plain loops."""

from collections.abc import Sequence
from typing import Any


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / (sum(areas) - shared)


def difficulty(images: Sequence[tuple[Any, Any]], classes: int) -> list[float]:
    """One minus the mean of each object's best ``p^0.6 IoU^0.4``.

    Args:
        images: Of each image its boxes (corners, probabilities) and its objects (corners, class).
        classes: How many there are.
    """
    seen: list[list[float]] = [[] for _ in range(classes)]
    for boxes, objects in images:
        for corners, label in objects:
            found = [chances[label] ** 0.6 * overlap(corners, other) ** 0.4 for other, chances in boxes]
            seen[label].append(max(found, default=0.0))
    return [1 - sum(values) / len(values) if values else 1.0 for values in seen]
