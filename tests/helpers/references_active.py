"""Plain numpy references for queries: slow, short, and written from the papers."""

import numpy as np


def softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def gradient_embeddings(logits: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Ash et al. 2020: the gradient of the cross-entropy with the predicted class, row by row."""
    shares = softmax(logits)
    rows = []
    for share, feature in zip(shares, features, strict=True):
        error = share.copy()
        error[share.argmax()] -= 1
        rows.append(np.outer(error, feature).ravel())
    return np.array(rows)


def plus_plus(rows: np.ndarray, priority: np.ndarray, uniform: list[float]) -> list[int]:
    """K-means++ with given uniform draws, by inversion."""
    picks = [int(priority.argmax())]
    for draw in uniform:
        squares = ((rows[:, None] - rows[picks][None]) ** 2).sum(axis=2).min(axis=1)
        squares[picks] = 0
        picks.append(int(np.searchsorted(squares.cumsum(), draw * squares.sum(), side="right")))
    return picks


def match_similarity(
    classes: list[np.ndarray], features: list[np.ndarray], scores: list[np.ndarray], one: int, other: int
) -> float:
    """PPAL: how well the boxes of one image are matched by boxes of the same class in another, weighted by score."""

    def directed(source: int, target: int) -> float:
        total = weight = 0.0
        for label, row, score in zip(classes[source], features[source], scores[source], strict=True):
            same = [
                other_row
                for other_label, other_row in zip(classes[target], features[target], strict=True)
                if other_label == label
            ]
            cosines = [row @ found / (np.linalg.norm(row) * np.linalg.norm(found)) for found in same]
            total += score * max([0.0, *cosines])
            weight += score
        return total / weight if weight else 0.0

    return (directed(one, other) + directed(other, one)) / 2
