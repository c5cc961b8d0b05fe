"""The methods once more in plain numpy: slow, dense, and clear at a glance.

Every function takes float arrays and works in float64. Ties go to the lowest index, because ``np.argmax`` does.
"""

from collections.abc import Iterable
from fractions import Fraction
from math import floor

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def unit_rows(features: Array) -> Array:
    features = np.asarray(features, dtype=np.float64)
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(length == 0, 1.0, length)


def cosine(features: Array, kind: str = "cosine") -> Array:
    rows = unit_rows(features)
    similarity = rows @ rows.T
    return (1 + similarity) / 2 if kind == "shifted" else similarity


def facility_location(
    similarity: Array,
    count: int,
    *,
    candidate_weights: Array | None = None,
    item_weights: Array | None = None,
    initial: Iterable[int] = (),
    forbidden: Iterable[int] = (),
) -> tuple[list[int], list[float]]:
    """Naive greedy on f(A) = sum_i w_i max(0, max_{j in A} d_j s_ij): every gain again for every pick."""
    size = len(similarity)
    density = np.ones(size) if candidate_weights is None else np.asarray(candidate_weights)
    weight = np.ones(size) if item_weights is None else np.asarray(item_weights)
    value = density[:, None] * similarity
    covered = np.zeros(size)
    for item in initial:
        covered = np.maximum(covered, value[item])
    out = {*initial, *forbidden}
    picks, gains = [], []
    for _ in range(count):
        gain = np.array([(weight * np.maximum(value[j] - covered, 0)).sum() for j in range(size)])
        gain[list(out)] = -np.inf
        pick = int(np.argmax(gain))
        picks.append(pick)
        gains.append(float(gain[pick]))
        covered = np.maximum(covered, value[pick])
        out.add(pick)
    return picks, gains


def facility_location_value(
    similarity: Array, chosen: Iterable[int], *, candidate_weights: Array | None = None
) -> float:
    density = np.ones(len(similarity)) if candidate_weights is None else np.asarray(candidate_weights)
    value = density[:, None] * similarity
    return float(np.maximum(value[list(chosen)].max(axis=0), 0).sum())


def graph_cut(
    similarity: Array, count: int, *, lam: float = 1.0, initial: Iterable[int] = (), forbidden: Iterable[int] = ()
) -> tuple[list[int], list[float]]:
    """Greedy on gain(j) = lam * sum_V s_ij - 2 * sum_{a in A} s_ja, from the dense matrix."""
    chosen, out = list(initial), {*initial, *forbidden}
    picks, gains = [], []
    for _ in range(count):
        gain = lam * similarity.sum(axis=1) - 2 * similarity[:, chosen].sum(axis=1)
        gain[list(out)] = -np.inf
        pick = int(np.argmax(gain))
        picks.append(pick)
        gains.append(float(gain[pick]))
        chosen.append(pick)
        out.add(pick)
    return picks, gains


def graph_cut_value(similarity: Array, chosen: list[int], *, lam: float = 1.0) -> float:
    """lam * sum_V sum_A s - sum_A sum_A s; the self-similarity of each pick counts once in the second sum."""
    return float(lam * similarity[:, chosen].sum() - similarity[np.ix_(chosen, chosen)].sum())


def herding(features: Array, count: int, *, initial: Iterable[int] = (), forbidden: Iterable[int] = ()) -> list[int]:
    """At step t the pick is argmin_j ||(t + 1) mu - sum_A x - x_j||."""
    rows = unit_rows(features)
    chosen, out = list(initial), {*initial, *forbidden}
    picks = []
    for _ in range(count):
        wanted = (len(chosen) + 1) * rows.mean(axis=0) - rows[chosen].sum(axis=0)
        distance = ((wanted - rows) ** 2).sum(axis=1)
        distance[list(out)] = np.inf
        pick = int(np.argmin(distance))
        picks.append(pick)
        chosen.append(pick)
        out.add(pick)
    return picks


def farthest_first(
    features: Array,
    count: int,
    *,
    start: int | None = None,
    initial: Iterable[int] = (),
    forbidden: Iterable[int] = (),
) -> list[int]:
    """Each pick is the candidate farthest from its nearest chosen item."""
    rows = unit_rows(features)
    chosen, out = list(initial), {*initial, *forbidden}
    picks: list[int] = []
    while len(picks) < count:
        if not chosen:
            distance = -np.linalg.norm(rows - rows.mean(axis=0), axis=1)
        else:
            distance = np.linalg.norm(rows[:, None] - rows[chosen], axis=2).min(axis=1)
        distance[list(out)] = -np.inf
        pick = int(np.argmax(distance)) if picks or start is None else start
        picks.append(pick)
        chosen.append(pick)
        out.add(pick)
    return picks


def nearest_center(features: Array, centers: Array) -> list[int]:
    """K-means assignment: the nearest centre, the lowest one among equals."""
    squared = ((np.asarray(features)[:, None] - np.asarray(centers)) ** 2).sum(axis=2)
    return [int(place) for place in squared.argmin(axis=1)]


def knn_radius(features: Array, neighbors: int) -> Array:
    """Distance to the k-th nearest other row, of rows as they come."""
    rows = np.asarray(features, dtype=np.float64)
    distance = np.linalg.norm(rows[:, None] - rows, axis=2)
    np.fill_diagonal(distance, np.inf)
    return np.sort(distance, axis=1)[:, neighbors - 1]


def coverage(features: Array, chosen: Iterable[int], neighbors: int) -> float:
    """Share of items whose closed ball out to the k-th nearest other item holds a chosen item, itself included."""
    rows = unit_rows(features)
    distance = np.linalg.norm(rows[:, None] - rows, axis=2)
    radius = knn_radius(rows, neighbors)
    return float((distance[:, list(chosen)] <= radius[:, None] + 1e-12).any(axis=1).mean())


def seats(class_sizes: list[int], free: list[int], total: int) -> list[int]:
    """Seats given out one at a time, in exact fractions."""
    taken = [0] * len(class_sizes)
    order = []
    for _ in range(total):
        open_classes = [c for c in range(len(free)) if taken[c] < free[c]]
        first_round = [c for c in open_classes if taken[c] == 0]
        if first_round:
            winner = max(first_round, key=lambda c: (class_sizes[c], -c))
        else:
            winner = max(open_classes, key=lambda c: (Fraction(class_sizes[c], 2 * taken[c] + 1), -c))
        taken[winner] += 1
        order.append(winner)
    return order


def round_half_up(ratio: float, size: int) -> int:
    return max(1, floor(ratio * size + 0.5))


def neighbors_for_coverage(size: int, chosen: int, coverage: Fraction, *, first_factor: int = 1) -> int:
    """Smallest K >= 1 with 1 - prod_{t=first..K} (N - M - t) / (N - t) >= coverage, in exact fractions."""
    missed = Fraction(1)
    for factor in range(first_factor, size):
        missed *= Fraction(size - chosen - factor, size - factor)
        if factor >= 1 and 1 - missed >= coverage:
            return factor
    raise AssertionError


def density_weights(radii: Array, *, one_sided: bool = False) -> Array:
    """exp(-(r - mu)^2 / (2 sigma^2)) with population mean and deviation."""
    radii = np.asarray(radii, dtype=np.float64)
    weights = np.exp(-((radii - radii.mean()) ** 2) / (2 * radii.var()))
    return np.where(radii < radii.mean(), 1.0, weights) if one_sided else weights


def represented_by(similarity: Array, chosen: list[int]) -> list[int]:
    """Position in ``chosen`` of the most similar pick of each item, the earlier pick among equals."""
    return [int(place) for place in similarity[:, chosen].argmax(axis=1)]
