"""Draws that are made again until they are as wanted."""

from collections.abc import Callable

import torch

from lightning_coreset.errors import CoresetError
from lightning_coreset.ops.random import seeded_generator
from lightning_coreset.selectors.group import Group, Picks
from lightning_coreset.selectors.object_rows import usable

_DRAWS = 1_000


def redrawn(
    group: Group,
    order_of: Callable[[Group, torch.Generator], list[int]],
    accepted: Callable[[Group, list[int]], bool],
    wanted: str,
) -> Picks:
    """The first of 1,000 seeded draws that is accepted.

    Args:
        group: With objects and a purse.
        order_of: Gives images in the order of one draw.
        accepted: Whether the images that fit are as wanted.
        wanted: What that is, in words.

    Raises:
        CoresetError: None of the draws is accepted.
    """
    for draw in range(_DRAWS):
        generator = group.generator() if draw == 0 else seeded_generator(group.seed, "drawn again", draw)
        taken = group.wallet.fresh().walk(order_of(group, generator))
        if accepted(group, taken):
            return Picks(torch.tensor(taken, dtype=torch.int64), resolved={"draws": draw + 1})
    msg = f"None of {_DRAWS:,} random draws {wanted}: ask for more images, or for less of them."
    raise CoresetError(msg)


def shows_all_classes(group: Group, taken: list[int]) -> bool:
    """Whether images, with those chosen before, show every class that the pool shows."""
    objects = group.shown.where(usable(group.shown))
    chosen = torch.zeros(group.size, dtype=torch.bool)
    chosen[taken] = True
    chosen[group.initial] = True
    return len(objects.labels[chosen[objects.image]].unique()) == len(objects.labels.unique())


def number_within(objects: tuple[int, int]) -> Callable[[Group, list[int]], bool]:
    """Whether images show so many objects, from the first number to the second."""

    def accepted(group: Group, taken: list[int]) -> bool:
        shown = torch.bincount(group.shown.image[usable(group.shown)], minlength=group.size)
        return objects[0] <= int(shown[taken].sum()) <= objects[1]

    return accepted
