"""Images with objects in an order in which classes take turns."""

from collections.abc import Callable
from fractions import Fraction
from math import floor

import torch
from torch import Tensor

from lightning_coreset.selectors.detection import candidates_of
from lightning_coreset.selectors.group import Group
from lightning_coreset.selectors.object_rows import usable


def turns_of(quota: str, most_objects: bool) -> Callable[[Group, torch.Generator], list[int]]:
    """Gives images in the order of class turns; by quotas of the budget first where ``quota`` is ``"ratio"``."""

    def order_of(group: Group, generator: torch.Generator) -> list[int]:
        objects = group.shown.where(usable(group.shown))
        shows = torch.zeros(group.size, objects.num_classes, dtype=torch.bool)
        shows[objects.image, objects.labels] = True
        order = torch.randperm(group.size, generator=generator)
        if most_objects:
            fullness = torch.bincount(objects.image, minlength=group.size)
            order = torch.argsort(fullness, descending=True, stable=True)
        order = order[candidates_of(group)[order]]
        queues = [order[shows[order, label]].tolist() for label in range(objects.num_classes)]
        taken: dict[int, None] = {}
        if quota == "ratio":
            mean = float(group.wallet.charges.mean())
            images = group.wallet.total / mean if mean > 0 else group.count
            _in_turn(queues, _quotas(shows.sum(dim=0), min(int(images + 0.5), len(order))), taken)
        _in_turn(queues, [len(queue) for queue in queues], taken)
        return list(taken)

    return order_of


def _in_turn(queues: list[list[int]], quotas: list[int], taken: dict[int, None]) -> None:
    """Let each class take its next image that is not taken, until quotas are full or nothing is left."""
    places, given = [0] * len(queues), [0] * len(queues)
    waiting = [label for label, number in enumerate(quotas) if number]
    while waiting:
        for label in list(waiting):
            queue = queues[label]
            while places[label] < len(queue) and queue[places[label]] in taken:
                places[label] += 1
            if places[label] == len(queue) or given[label] == quotas[label]:
                waiting.remove(label)
                continue
            taken[queue[places[label]]] = None
            given[label] += 1


def _quotas(showing: Tensor, total: int) -> list[int]:
    """Shares of a total in proportion, by largest remainder, ties to the lowest class."""
    counts = showing.tolist()
    exact = [Fraction(total * count, max(1, sum(counts))) for count in counts]
    quotas = [floor(share) for share in exact]
    by_remainder = sorted(range(len(counts)), key=lambda label: (quotas[label] - exact[label], label))
    for label in by_remainder[: total - sum(quotas)]:
        quotas[label] += 1
    return quotas
