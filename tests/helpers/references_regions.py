"""Eq. 3-7 of HCS once more, plainly: loops over regions and neighbours in numpy, one scene."""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def entropy(logits: Array) -> float:
    shares = np.exp(logits - logits.max())
    shares = shares / shares.sum()
    return float(-sum(p * np.log(p) for p in shares if p > 0))


def set_entropy(logits: Array, members: list[int]) -> float:
    """L of a set: entropy of the softmax of the mean logits; of no logits uniform."""
    return entropy(logits[members].mean(axis=0)) if members else float(np.log(logits.shape[1]))


def utility(logits: Array, whole: Array, area: Array, lam: float, reading: str) -> Array:
    lost = entropy(whole)
    floored = max(lost, 0.02 * np.log(len(whole)))
    found = []
    for row, share in zip(logits, area, strict=True):
        loss = entropy(row)
        sure = {
            "improve": np.exp(-loss / floored),
            "one_sided": np.exp(-max(0.0, loss - lost) / floored),
            "literal": np.exp(-abs(lost - loss) / max(lost, 1e-6)),
        }[reading]
        found.append(sure + lam * (1 - share))
    return np.array(found)


def representativeness(embeddings: Array) -> Array:
    distance = 1 - embeddings @ embeddings.T
    kernel = np.exp(-distance / np.median(distance))
    level = kernel.mean(axis=0) / kernel.mean(axis=0).sum()
    divergence = []
    for row in kernel:
        own = row / row.sum()
        divergence.append((own * np.log(own / level)).sum())
    return np.exp(-np.array(divergence) / max(divergence))


def robustness(embeddings: Array, perturbed: Array) -> Array:
    change = np.linalg.norm(embeddings - perturbed, axis=1)
    return np.exp(-change / change.max())


def neighbours(cells: list[int], columns: int) -> list[list[int]]:
    """R' of each candidate, as positions; all others where it has no neighbour."""
    found = []
    for place, cell in enumerate(cells):
        row, column = divmod(cell, columns)
        beside = [
            other for other, one in enumerate(cells) if abs(one // columns - row) + abs(one % columns - column) == 1
        ]
        found.append(beside or [other for other in range(len(cells)) if other != place])
    return found


def synergy(logits: Array, whole: Array, beside: list[list[int]], reading: str) -> Array:
    count = len(logits)
    floored = max(entropy(whole), 0.02 * np.log(len(whole)))
    everyone = list(range(count))
    all_of_them = set_entropy(logits, everyone)
    found = []
    for region in everyone:
        values = []
        for other in beside[region]:
            one = set_entropy(logits, [r for r in everyone if r != other])
            both = set_entropy(logits, [r for r in everyone if r not in (region, other)])
            if reading == "pair":
                values.append(np.exp(-set_entropy(logits, [region, other]) / floored))
            elif reading == "gain":
                values.append(1 - np.exp(-count * max(0.0, both - one) / all_of_them))
            else:
                below = all_of_them - one
                below = (-1.0 if below < 0 else 1.0) * max(abs(below), 1e-6)
                values.append(np.exp(-abs((all_of_them - both) / below)))
        found.append(np.mean(values) if values else 0.0)
    return np.array(found)
