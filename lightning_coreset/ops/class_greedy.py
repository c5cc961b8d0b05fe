"""Greedy balance of classes by counts alone."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_coreset.ops.rows import first_argmax
from lightning_coreset.ops.spending import Purse


class Balanced(NamedTuple):
    """Images in the order chosen.

    Attributes:
        images: ``[k]``.
        classes: The class that gained most by each ``[k]``.
        gains: What each pick gained for each unit ``[k]``, float32.
    """

    images: Tensor
    classes: Tensor
    gains: Tensor


def class_greedy(
    images: Tensor,
    classes: Tensor,
    counts: Tensor,
    units: Tensor,
    purse: Purse,
    candidates: Tensor,
    *,
    started: Tensor,
    advance: Callable[[int], object] | None = None,
) -> Balanced:
    """Pick ``argmax_i sum_c (sqrt(n_c + h_ic) - sqrt(n_c)) / max(u_i, 1)`` while an image that gains fits.

    Args:
        images: Image of each pair of an image and a class that it shows ``[P]``, ascending.
        classes: Class of each pair ``[P]``.
        counts: Objects of the class in the image, ``h`` ``[P]``.
        units: Expected units of each image, ``u`` ``[N]``.
        purse: What each image costs, and the budget.
        candidates: Images that may be picked, as a mask ``[N]``.
        started: Objects of each class that are there already ``[C]``.
        advance: Called with the number of picks made since the last call, for a progress bar.

    Returns:
        Picks in order, ties to the lowest image. O(k P) time, O(P) memory.

    Example:
        >>> images, classes, counts = torch.tensor([0, 1, 2]), torch.tensor([0, 0, 1]), torch.tensor([2, 1, 1])
        >>> purse, candidates = Purse(torch.ones(3), 2), torch.ones(3) > 0
        >>> class_greedy(images, classes, counts, counts, purse, candidates, started=torch.zeros(2)).images.tolist()
        [1, 2]
    """
    shown, total = counts.double(), started.double().clone()
    dearness = units.double().clamp(min=1)
    open_images = candidates.clone()
    ends = torch.bincount(images, minlength=len(units)).cumsum(0).tolist()
    picked: list[tuple[int, int, float]] = []
    while True:
        before = total[classes]
        parts = torch.sqrt(before + shown) - torch.sqrt(before)
        gains = torch.zeros(len(units), dtype=torch.float64).index_add_(0, images, parts) / dearness
        gains.masked_fill_(~(open_images & purse.fitting()), 0)
        pick = int(first_argmax(gains))
        gain = float(gains[pick])
        if gain <= 0:
            break
        purse.take(pick)
        open_images[pick] = False
        own = slice(ends[pick - 1] if pick else 0, ends[pick])
        picked.append((pick, int(classes[own][first_argmax(parts[own])]), gain))
        total.index_add_(0, classes[own], shown[own])
        if advance is not None:
            advance(1)
    columns = list(zip(*picked, strict=True)) or [(), (), ()]
    return Balanced(
        torch.tensor(columns[0], dtype=torch.int64),
        torch.tensor(columns[1], dtype=torch.int64),
        torch.tensor(columns[2], dtype=torch.float32),
    )
