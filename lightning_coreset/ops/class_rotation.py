"""Graph cut in several classes that take turns and share their images."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_coreset.ops.rows import accumulator_dtype, column_sum, converted, first_argmax, first_equal_row
from lightning_coreset.ops.spending import Purse

# Two images that are left in a class are equally typical of it, and rounding must not decide between them.
_EQUAL = 1e-6


class Rotation(NamedTuple):
    """Images in the order chosen.

    Attributes:
        images: Distinct images ``[k]``.
        classes: The class at turn for each ``[k]``.
        gains: Its gain at that turn ``[k]``, float32.
    """

    images: Tensor
    classes: Tensor
    gains: Tensor


def class_rotation(
    rows: Tensor,
    images: Tensor,
    classes: Tensor,
    turns: Sequence[int],
    lam: Tensor,
    purse: Purse,
    *,
    share: bool = True,
    initial: Tensor | None = None,
    forbidden: Tensor | None = None,
    advance: Callable[[int], object] | None = None,
) -> Rotation:
    """Classes take turns, each picks the image with ``lam_c * sum_{j unchosen} s_ij - sum_{a chosen} s_ia``.

    Both sums run over the rows of the class, and ``s`` is the dot product of unit rows. A sum of similarities is one
    matrix-vector product, so a pick moves the gains of a class by ``-(1 + lam_c)`` times one such product and there is
    no pairwise matrix. Gains that differ by less than a millionth are equal, and equal ones go to the lowest image.

    Args:
        rows: Unit rows ``[R, d]`` on the CPU, one or more for each image and class, ascending in class, then image.
        images: Image of each row ``[R]``, 0 to N-1.
        classes: Class of each row ``[R]``, 0 to C-1.
        turns: The classes in the order of their turns; those with no image left are passed over.
        lam: Weight of the unchosen against the chosen for each class ``[C]``.
        purse: What each of the ``N`` images costs, and how much there is.
        share: A chosen image leaves the unchosen rows of every class that it shows; False: only of the class at turn,
            which may then spend a turn on an image that is in already.
        initial: Images that count as chosen in every class ``[m]``; not returned.
        forbidden: Images that may not be picked ``[f]``; they stay in the sums.
        advance: Called with the number of images chosen since the last call, for a progress bar.

    Returns:
        Images until the purse is empty or all classes are exhausted. O(n_c d) time a pick for each class it shows,
        O(R) memory beside the rows.

    References:
        Coreset selection for object detection (Lee et al. 2024), Algorithm 1.

    Example:
        >>> rows = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
        >>> images, classes = torch.tensor([0, 1, 2, 1, 3]), torch.tensor([0, 0, 0, 1, 1])
        >>> found = class_rotation(rows, images, classes, [0, 1], torch.ones(2), Purse(torch.ones(4), 2))
        >>> found.images.tolist(), found.classes.tolist()
        ([1, 3], [0, 1])
    """
    size = len(purse.charges)
    used = torch.zeros(size, dtype=torch.bool)
    chosen = torch.zeros(size, dtype=torch.bool)
    banned = torch.zeros(size, dtype=torch.bool)
    if forbidden is not None:
        banned[forbidden] = True
    counts = torch.bincount(classes, minlength=len(lam)).tolist()
    parts = dict(enumerate(zip(rows.split(counts), images.split(counts), lam.tolist(), strict=True)))
    lists = {label: _ClassRows(*parts[label]) for label in turns}
    shown = _classes_of(images, classes, size)
    if initial is not None and len(initial):
        used[initial] = chosen[initial] = True
        for found in lists.values():
            found.choose(chosen)
    picked: list[tuple[int, int, float]] = []
    waiting = [label for label in turns if counts[label]]
    while waiting and purse.left > 0:
        for label in list(waiting):
            if purse.left <= 0:
                break
            # An image that is in already costs nothing more.
            allowed = (purse.fitting() | used) & ~banned
            best = lists[label].best(allowed)
            if best is None:
                waiting.remove(label)
                continue
            image, gain = best
            for other in shown(image) if share else [label]:
                if other in lists:
                    lists[other].choose_image(image)
            if bool(used[image]):
                continue
            used[image] = True
            purse.take(image)
            picked.append((image, label, gain))
            if advance is not None:
                advance(1)
    columns = list(zip(*picked, strict=True)) or [(), (), ()]
    return Rotation(
        torch.tensor(columns[0], dtype=torch.int64),
        torch.tensor(columns[1], dtype=torch.int64),
        torch.tensor(columns[2], dtype=torch.float32),
    )


class _ClassRows:
    """The rows of one class with their gains."""

    def __init__(self, rows: Tensor, images: Tensor, lam: float) -> None:
        self._rows, self._images, self._lam = rows, images, lam
        self._equal = first_equal_row(rows) if len(rows) else None
        self._open = torch.ones(len(rows), dtype=torch.bool)
        total = column_sum(rows)
        gains = torch.cat([part @ total for part in converted(rows, total.dtype)]) * lam if len(rows) else total[:0]
        self._gains = gains if self._equal is None else gains[self._equal]

    def best(self, allowed: Tensor) -> tuple[int, float] | None:
        """The unchosen image with the highest gain among those allowed, and its gain."""
        mask = self._open & allowed[self._images]
        if not bool(mask.any()):
            return None
        gains = self._gains.masked_fill(~mask, -torch.inf)
        best = gains.max()
        row = int(first_argmax((gains >= best - _EQUAL * (1 + best.abs())).to(torch.int8)))
        return int(self._images[row]), float(gains[row])

    def choose_image(self, image: int) -> None:
        """Move the rows of one image from the unchosen to the chosen."""
        start, stop = torch.searchsorted(self._images, torch.tensor([image, image + 1])).tolist()
        if start < stop and bool(self._open[start]):
            self._move(slice(start, stop))

    def choose(self, chosen: Tensor) -> None:
        """Move the rows of all images of a mask ``[N]``."""
        mask = chosen[self._images]
        if bool(mask.any()):
            self._move(mask)

    def _move(self, which: slice | Tensor) -> None:
        self._open[which] = False
        moved = self._rows[which].sum(dim=0, dtype=accumulator_dtype(self._rows.device)).to(self._rows.dtype)
        away = torch.mv(self._rows, moved)
        self._gains.sub_(away if self._equal is None else away[self._equal], alpha=1 + self._lam)


def _classes_of(images: Tensor, classes: Tensor, size: int) -> Callable[[int], list[int]]:
    """Gives the classes that an image shows, ascending."""
    order = torch.argsort(images, stable=True)
    ends = torch.bincount(images, minlength=size).cumsum(0).tolist()
    labels = classes[order].tolist()

    def of(image: int) -> list[int]:
        return sorted(set(labels[ends[image - 1] if image else 0 : ends[image]]))

    return of
