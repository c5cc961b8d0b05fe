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
