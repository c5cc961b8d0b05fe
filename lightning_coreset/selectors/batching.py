"""Which classes are selected from together, as one padded tensor on a GPU."""

from collections.abc import Callable, Sequence

import torch


def together_on(device: torch.device) -> bool:
    """Whether many classes at once are faster than one by one: where launching costs more than adding."""
    return device.type == "cuda"


def batches_of(
    labels: Sequence[int], sizes: Sequence[int], bytes_of: Callable[[int], int | None], limit: int
) -> list[list[int]]:
    """Classes in batches: the largest first, none smaller than half of the first of its batch, none above the limit.

    Args:
        labels: The classes.
        sizes: Items of each.
        bytes_of: Memory that a class of so many items takes in a batch; None: it is selected from alone.
        limit: Bytes of a batch.

    Example:
        >>> batches_of([0, 1, 2, 3], [10, 9, 4, 8], lambda size: size * size, 250)
        [[0, 1], [3, 2]]
    """
    batches: list[list[int]] = []
    largest = room = 0
    for place in sorted(range(len(labels)), key=lambda place: (-sizes[place], labels[place])):
        needed = bytes_of(largest) if batches else None
        alone = bytes_of(sizes[place]) is None or needed is None
        if alone or 2 * sizes[place] < largest or (needed is not None and needed > room):
            batches.append([])
            largest, room = sizes[place], limit
            needed = bytes_of(largest)
        batches[-1].append(labels[place])
        room -= needed or 0
    return batches
