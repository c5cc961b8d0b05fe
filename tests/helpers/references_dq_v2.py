"""Dataset quantization once more, plainly."""

from typing import Any

import numpy as np
import numpy.typing as npt

from tests.helpers import references

Array = npt.NDArray[Any]


def graph_cut_bins(similarity: Array, bins: int, *, lam: float = 1.0) -> list[int]:
    """Bin after bin from the dense matrix of what is left, each greedy from nothing."""
    left, found = list(range(len(similarity))), [0] * len(similarity)
    sizes = [len(part) for part in np.array_split(left, min(bins, len(left)))]
    for number, size in enumerate(sizes):
        picks, _ = references.graph_cut(similarity[np.ix_(left, left)], size, lam=lam)
        for pick in picks:
            found[left[pick]] = number
        left = [item for place, item in enumerate(left) if place not in picks]
    return found


def largest_remainder(sizes: list[int], total: int, order: list[int]) -> list[int]:
    """Shares of a total in proportion to sizes; what rounding down leaves goes to the largest remainders."""
    shares = [total * size // sum(sizes) for size in sizes]
    remainders = [total * size % sum(sizes) for size in sizes]
    for place in sorted(order, key=lambda place: -remainders[place])[: total - sum(shares)]:
        shares[place] += 1
    return shares


def bilinear(values: Array, height: int, width: int) -> Array:
    """A matrix resized bilinearly, pixel centres aligned, edges clamped; the last two dimensions."""

    def weights(source: int, target: int) -> Array:
        matrix = np.zeros((target, source))
        for place in range(target):
            exact = min(max((place + 0.5) * source / target - 0.5, 0), source - 1)
            low = int(np.floor(exact))
            matrix[place, low] += 1 - (exact - low)
            matrix[place, min(low + 1, source - 1)] += exact - low
        return matrix

    return weights(values.shape[-2], height) @ values @ weights(values.shape[-1], width).T


def background_cells(donors: list[tuple[Any, Any]], height: int, width: int) -> list[Array]:
    """Each background cell of each donor, resized."""
    found = []
    for planes, foreground in donors:
        cells = len(foreground)
        down, right = (np.floor(np.arange(cells + 1) * side / cells + 0.5).astype(int) for side in planes.shape[1:])
        for row, column in np.argwhere(~foreground.numpy()):
            cell = planes[:, down[row] : down[row + 1], right[column] : right[column + 1]].numpy().astype(float)
            found.append(bilinear(cell, height, width))
    return found
