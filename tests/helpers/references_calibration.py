"""Matching and thresholds once more in plain Python: slow and clear at a glance."""

from collections.abc import Sequence

Box = Sequence[float]


def overlap(first: Box, second: Box) -> float:
    """Intersection over union."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return width * height / (sum(areas) - width * height)


def inside(box: Box, crowd: Box) -> float:
    """Share of a box that lies in a crowd."""
    width = min(box[2], crowd[2]) - max(box[0], crowd[0])
    height = min(box[3], crowd[3]) - max(box[1], crowd[1])
    return max(width, 0) * max(height, 0) / ((box[2] - box[0]) * (box[3] - box[1]))


def matches(
    proposals: Sequence[tuple[int, int, Box, float]], truth: Sequence[tuple[int, int, Box, bool]], least: float = 0.5
) -> list[tuple[float, bool]]:
    """Score and hit of (image, label, box, score) against (image, label, box, crowd), best first, crowds left out."""
    taken: set[int] = set()
    found = []
    for image, label, box, score in sorted(proposals, key=lambda one: -one[3]):
        best, value = -1, 0.0
        on_crowd = False
        for place, (where, kind, other, crowd) in enumerate(truth):
            if (where, kind) != (image, label):
                continue
            if crowd:
                on_crowd |= inside(box, other) >= least
            elif place not in taken and overlap(box, other) > value:
                best, value = place, overlap(box, other)
        if value >= least:
            taken.add(best)
            found.append((score, True))
        elif not on_crowd:
            found.append((score, False))
    return found


def precision_threshold(found: Sequence[tuple[float, bool]], wrong: float, enough: int) -> float | None:
    """The lowest threshold that holds, as do all stricter ones that keep enough; None where there is none."""

    def kept(threshold: float) -> list[bool]:
        return [hit for score, hit in found if score >= threshold]

    def holds(threshold: float) -> bool:
        hits = kept(threshold)
        return (len(hits) - sum(hits)) / len(hits) <= wrong

    thresholds = sorted({score for score, _ in found})
    counted = [one for one in thresholds if len(kept(one)) >= enough] or thresholds
    for threshold in counted:
        stricter = [one for one in thresholds if one > threshold and len(kept(one)) >= enough]
        if holds(threshold) and all(map(holds, stricter)):
            return threshold
    return None


def f1_threshold(found: Sequence[tuple[float, bool]], objects: int) -> float:
    """The threshold with the highest F1, the higher one of equals."""

    def value(threshold: float) -> float:
        hits = [hit for score, hit in found if score >= threshold]
        return 2 * sum(hits) / (len(hits) + objects)

    return max({score for score, _ in found}, key=lambda one: (value(one), one))
