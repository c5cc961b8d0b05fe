"""Detection methods once more in plain numpy: dense, slow, one line a rule."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def class_means(features: Array, image: Array, labels: Array, size: int, classes: int) -> tuple[Array, Array]:
    """Unit mean of the objects of each image and class [N, C, d], and which images show which class [N, C]."""
    means = np.zeros((size, classes, features.shape[1]))
    shows = np.zeros((size, classes), dtype=bool)
    for i in range(size):
        for c in range(classes):
            rows = features[(image == i) & (labels == c)].astype(np.float64)
            if len(rows):
                shows[i, c] = True
                mean = rows.mean(axis=0)
                means[i, c] = mean / (np.linalg.norm(mean) or 1.0)
    return means, shows


def csod(
    means: Array,
    shows: Array,
    budget: int,
    *,
    balance: float = 3.2,
    lam: float | None = None,
    share: bool = True,
    rare_first: bool = True,
    initial: tuple[int, ...] = (),
    forbidden: tuple[int, ...] = (),
) -> tuple[list[int], list[int]]:
    """Images and the class at turn, from one dense matrix of cosines for each class."""
    size, classes = shows.shape
    cosines = [means[:, c] @ means[:, c].T for c in range(classes)]
    counts = shows.sum(axis=0)
    present = [c for c in range(classes) if counts[c]]
    turns = sorted(present, key=lambda c: (counts[c], c)) if rare_first else present
    weight = {c: balance * budget / len(present) / counts[c] if lam is None else lam for c in present}
    chosen = [{i for i in initial if shows[i, c]} for c in range(classes)]
    unchosen = [{i for i in range(size) if shows[i, c]} - chosen[c] for c in range(classes)]
    picks: list[int] = []
    at_turn: list[int] = []
    turns = list(turns)
    while turns and len(picks) < budget:
        for c in list(turns):
            if len(picks) == budget:
                break
            gains = {
                i: weight[c] * sum(cosines[c][i, j] for j in sorted(unchosen[c]))
                - sum(cosines[c][i, a] for a in sorted(chosen[c]))
                for i in sorted(unchosen[c] - set(forbidden))
            }
            if not gains:
                turns.remove(c)
                continue
            best = max(gains.values())
            pick = next(i for i, gain in gains.items() if gain >= best - 1e-6 * (1 + abs(best)))
            for other in range(classes) if share else [c]:
                if pick in unchosen[other]:
                    unchosen[other].remove(pick)
                    chosen[other].add(pick)
            if pick not in picks:
                picks.append(pick)
                at_turn.append(c)
    return picks, at_turn


def class_balance_score(counts: Array) -> float:
    """Mean of min / max over all pairs of different classes."""
    pairs = [(a, b) for place, a in enumerate(counts) for b in counts[place + 1 :]]
    return float(np.mean([min(a, b) / max(a, b) if max(a, b) else 0.0 for a, b in pairs]))


def class_balance(shown: Array, estimated: Array, prices: Array, budget: float) -> list[int]:
    """Naive greedy on sqrt counts for each unit: every gain again for every pick."""
    counts, left, picks = np.zeros(shown.shape[1]), budget, []
    while True:
        gains = (np.sqrt(counts + shown) - np.sqrt(counts)).sum(axis=1) / np.maximum(estimated, 1)
        gains[picks] = 0
        gains[prices > left + 1e-9] = 0
        pick = int(np.argmax(gains))
        if gains[pick] <= 0:
            return picks
        picks.append(pick)
        counts += shown[pick]
        left -= prices[pick]
