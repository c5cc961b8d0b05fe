"""How much to keep, and how many seats each class gets of it."""

import math
from numbers import Integral, Real

import torch
from torch import Tensor


def resolve_total(
    size: int, *, ratio: float | None = None, budget: int | None = None, available: int | None = None
) -> int:
    """Turn a ratio or a count into the number of items to keep.

    Args:
        size: Items in the pool, ``N``; a ratio is a share of these.
        ratio: Share to keep, in (0, 1]; ``floor(ratio * N + 0.5)`` items, at least one.
        budget: Number of items to keep, from 1 to ``available``.
        available: Items that may be picked: the pool without ``initial`` and ``forbidden``. Default: all.

    Raises:
        ValueError: Both or neither of ``ratio`` and ``budget``, or one out of its range.

    Example:
        >>> resolve_total(1797, ratio=0.1)
        180
        >>> resolve_total(100, budget=7)
        7
    """
    available = size if available is None else available
    if (ratio is None) == (budget is None):
        came = "neither" if ratio is None else f"both ratio={ratio!r} and budget={budget!r}"
        msg = (
            f"Exactly one of ratio and budget is accepted, got {came}: give one (from the shell, --data.ratio=null "
            "clears it)."
        )
        raise ValueError(msg)
    if ratio is not None:
        if isinstance(ratio, bool) or not isinstance(ratio, Real) or not 0 < ratio <= 1:
            msg = f"ratio={ratio!r} is not accepted: give a number above 0 and at most 1, or budget= for a count."
            raise ValueError(msg)
        total = max(1, math.floor(ratio * size + 0.5))
        asked = f"ratio={ratio!r} of {size} items is {total}"
    else:
        if isinstance(budget, bool) or not isinstance(budget, Integral) or budget < 1:
            msg = f"budget={budget!r} is not accepted: give a whole number of at least 1, or ratio= for a share."
            raise ValueError(msg)
        total = int(budget)
        asked = f"budget={budget}"
    if total > available:
        msg = (
            f"{asked}, but only {available} of {size} items may be picked (initial and forbidden are no candidates): "
            f"ask for at most {available}."
        )
        raise ValueError(msg)
    return total


def class_seats(class_sizes: Tensor, free: Tensor, total: int) -> Tensor:
    """Share a total over classes one seat at a time, so that every prefix is balanced.

    First one seat to each class that has a free item, the largest class first; then each next seat to the class with
    the largest ``N_c / (2 s_c + 1)`` (Sainte-Lague; ``s_c`` its seats so far), never above what it has free.
    Ties go to the lowest class id. Complexity O(N log N) time, O(N) memory for ``N`` free items.

    Args:
        class_sizes: Items of each class, ``N_c`` ``[C]``.
        free: Items of each class that may be picked ``[C]``.
        total: Seats to share, at most ``free.sum()``.

    Returns:
        Class of each seat in the order given out, ``[total]``.

    Raises:
        ValueError: More seats than free items.

    Example:
        >>> class_seats(torch.tensor([60, 30, 10]), torch.tensor([60, 30, 10]), 6).tolist()
        [0, 1, 2, 0, 0, 1]
    """
    if total > int(free.sum()):
        msg = f"{total} seats are asked for, but the classes have {int(free.sum())} free items: ask for fewer."
        raise ValueError(msg)
    sizes, free = class_sizes.cpu().to(torch.int64), free.cpu().to(torch.int64)
    classes = torch.repeat_interleave(torch.arange(len(sizes)), free)
    starts = torch.repeat_interleave(torch.cumsum(free, 0) - free, free)
    seat_of_class = torch.arange(len(classes)) - starts
    # Quotients of integers this small are equal in float64 exactly when the fractions are, so ties are real ties.
    priority = sizes[classes].to(torch.float64) / (2 * seat_of_class + 1)
    first_round = seat_of_class == 0
    # Stable sorts from the least to the most important key leave ties in ascending class id.
    order = torch.argsort(priority, descending=True, stable=True)
    order = order[torch.argsort(first_round[order].to(torch.int8), descending=True, stable=True)]
    return classes[order[:total]]
