"""The methods of training signals once more in plain numpy: whole gradients, dense graphs, one item at a time."""

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from tests.helpers.references import Array, facility_location, unit_rows

Numbers = NDArray[np.int64]


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def forgetting_events(correct: Numbers, runs: Numbers) -> list[float]:
    """Answers 1, 0 or -1 (not seen) of each epoch ``[E, N]``: learnt-then-lost events, each item by itself."""
    events = []
    for answers in correct.T:
        lost = 0
        for run in np.unique(runs):
            seen = [answer for answer in answers[runs == run] if answer >= 0]
            lost += sum(before == 1 and after == 0 for before, after in pairwise(seen))
        events.append(float(lost) if 1 in answers else np.inf)
    return events


def early_mean(column: Array, runs: Numbers, epochs: int) -> Array:
    """Mean over the runs of the means of their first epochs."""
    return np.mean([column[runs == run][:epochs].mean(axis=0) for run in np.unique(runs)], axis=0)


def uncertainty(logits: Array, measure: str) -> Array:
    probabilities = np.sort(softmax(logits), axis=1)
    if measure == "least_confidence":
        return 1 - probabilities[:, -1]
    if measure == "margin":
        return probabilities[:, -2] - probabilities[:, -1]
    return -(probabilities * np.log(probabilities)).sum(axis=1)


def nearest(features: Array, neighbors: int) -> Numbers:
    """Nearest other rows of each unit row, by distance and then by index."""
    rows = unit_rows(features)
    distances = 2 - 2 * rows @ rows.T
    np.fill_diagonal(distances, np.inf)
    return np.argsort(distances, axis=1, kind="stable")[:, :neighbors]


def cal(features: Array, logits: Array, neighbors: int) -> Array:
    """Mean KL(neighbour || item)."""
    p = softmax(logits)
    return np.array(
        [
            np.mean([(p[other] * np.log(p[other] / p[item])).sum() for other in others])
            for item, others in enumerate(nearest(features, neighbors))
        ]
    )


def deepfool(logits: Array, weights: Array) -> Array:
    """Distance of each input to the nearest boundary of a linear layer."""
    found = []
    for values in logits:
        answer = int(values.argmax())
        others = [other for other in range(len(values)) if other != answer]
        found.append(min((values[answer] - values[c]) / np.linalg.norm(weights[answer] - weights[c]) for c in others))
    return np.array(found)


def gradients(logits: Array, labels: Numbers, embeddings: Array | None) -> Array:
    """Whole last-layer gradients, ``[N, C * (h + 1)]``."""
    residuals = softmax(np.asarray(logits, dtype=np.float64)) - np.eye(logits.shape[1])[labels]
    ones = np.ones((len(logits), 1))
    inputs = ones if embeddings is None else np.hstack([np.asarray(embeddings, dtype=np.float64), ones])
    return np.einsum("nc,nh->nch", residuals, inputs).reshape(len(logits), -1)


def craig(whole: Array, count: int, *, initial: Iterable[int] = ()) -> tuple[list[int], list[int]]:
    """Facility location on largest distance less distance, and the size of each pick's cluster."""
    distances = np.linalg.norm(whole[:, None] - whole, axis=2)
    picks, _ = facility_location(distances.max() - distances, count, initial=initial)
    owners = distances[:, picks].argmin(axis=1)
    return picks, np.bincount(owners, minlength=count).tolist()


def ridge_weights(whole: Array, chosen: list[int], ridge: float) -> Array:
    """argmin_{w >= 0} ||sum_all g - sum_S w g||^2 + ridge m ||w||^2, by scipy."""
    scale = np.sqrt(ridge * (whole**2).sum(axis=1).mean())
    stacked = np.vstack([whole[chosen].T, scale * np.eye(len(chosen))])
    weights, _ = nnls(stacked, np.concatenate([whole.sum(axis=0), np.zeros(len(chosen))]), maxiter=10_000)
    return weights


def matching_pursuit(whole: Array, count: int, ridge: float, *, initial: Iterable[int] = ()) -> list[int]:
    """Orthogonal matching pursuit, the weights by scipy after every pick."""
    chosen = list(initial)
    picks = []
    for _ in range(count):
        fitted = ridge_weights(whole, chosen, ridge) @ whole[chosen] if chosen else 0.0
        along = whole @ (whole.sum(axis=0) - fitted)
        along[chosen] = -np.inf
        picks.append(int(np.argmax(along)))
        chosen.append(picks[-1])
    return picks


def glister(
    logits: Array, labels: Numbers, embeddings: Array, held: list[int], count: int, *, block: int, rate: float
) -> list[int]:
    """Blocks of the highest gains, the held-out gradient computed anew from a layer that was really moved."""
    inputs = np.hstack([embeddings, np.ones((len(embeddings), 1))])
    whole = gradients(logits, labels, embeddings).reshape(len(logits), logits.shape[1], -1)
    layer = np.zeros(whole.shape[1:])
    eta = rate / (inputs**2).sum(axis=1).mean()
    picks: list[int] = []
    while len(picks) < count:
        held_logits = logits[held] + inputs[held] @ layer.T
        watched = gradients(held_logits, labels[held], embeddings[held]).sum(axis=0)
        gain = whole.reshape(len(whole), -1) @ watched
        gain[picks + held] = -np.inf
        best = np.argsort(-gain, kind="stable")[: min(block, count - len(picks))]
        picks += best.tolist()
        layer -= eta * whole[best].sum(axis=0)
    return picks


def shared_strata(sizes: list[int], budget: int) -> list[int]:
    """The paper's loop: the smallest stratum gives what it has, at most an equal part of what is left to give."""
    given = [0] * len(sizes)
    waiting = sorted((stratum for stratum, size in enumerate(sizes) if size), key=lambda s: (sizes[s], -s))
    while waiting:
        stratum = waiting[0]
        given[stratum] = min(sizes[stratum], (budget - sum(given)) // len(waiting))
        waiting = waiting[1:]
    return given


def message_passing(
    scores: Array, features: Array, neighbors: int, count: int, *, forward: float, reverse: float
) -> tuple[list[int], list[float]]:
    """Messages on a dense adjacency matrix."""
    rows = unit_rows(features)
    squares = np.maximum(0, 2 - 2 * rows @ rows.T)
    beside = np.zeros_like(squares, dtype=bool)
    for item, others in enumerate(nearest(features, neighbors)):
        beside[item, others] = beside[others, item] = True
    worth = scores + (np.where(beside, np.exp(-forward * squares), 0) * scores).sum(axis=1)
    free = np.ones(len(scores), dtype=bool)
    picks, gains = [], []
    for _ in range(count):
        pick = int(np.argmax(np.where(free, worth, -np.inf)))
        picks.append(pick)
        gains.append(float(worth[pick]))
        worth = worth - np.where(beside[pick], np.exp(-reverse * squares[pick]), 0) * worth[pick]
        free[pick] = False
    return picks, gains


def subspace_scores(features: Array, draws: list[tuple[list[int], list[float]]], neighbors: int) -> Array:
    """Coverage less redundancy; ``draws`` holds the columns and the shares of probability of each point."""
    rows = unit_rows(features)
    low, high = rows.min(axis=0), rows.max(axis=0)
    peak = np.sort(rows, axis=0)[(len(rows) - 1) // 2]
    scores = np.zeros(len(rows))
    for columns, shares in draws:
        point = []
        for column, share in zip(columns, shares, strict=True):
            a, b, c = low[column], high[column], peak[column]
            if share * (b - a) < c - a:
                point.append(a + np.sqrt(share * (b - a) * (c - a)))
            else:
                point.append(b - np.sqrt((1 - share) * (b - a) * (b - c)))
        best = int(np.abs(rows[:, columns] - point).sum(axis=1).argmin())
        scores[best] += 1
        away = np.abs(rows[:, columns] - rows[best, columns]).sum(axis=1)
        away[best] = np.inf
        others = np.argsort(away, kind="stable")[:neighbors]
        if away[others[0]] == 0:
            scores[others[0]] -= 1
        else:
            losses = away[others] ** -4.0
            scores[others] -= losses / losses.sum()
    return scores
