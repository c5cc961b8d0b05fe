"""Budgets in units for methods that know of none: their order is followed while images fit."""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_coreset.ops.spending import Purse
from lightning_coreset.selectors.merge import Merged
from lightning_coreset.selectors.running import Answer, Request, run

if TYPE_CHECKING:
    from lightning_coreset.selectors.base import Selector


def run_in_units(selector: "Selector", request: Request, candidates: Tensor, purse: Purse) -> Answer:
    """Follow a method's order and take the images that fit.

    The order is that of a selection of budget / mean units images, then what selections of twice as many add to it,
    and so on: for methods whose smaller selections are prefixes of larger ones that is the order of all images, and no
    method has to put a whole pool in order to spend a small part of it.

    Args:
        selector: The method.
        request: What it picks from.
        candidates: Images of the pool that may be picked, as a mask ``[N]``.
        purse: What each image of the pool costs, and the budget.
    """
    parents = torch.arange(request.wide.size) if request.wide.parents is None else request.wide.parents
    mean, available = float(purse.charges.mean()), int(candidates.sum())
    purse = Purse(purse.charges[parents], purse.total, purse.overshoot)
    count = max(1, min(available, round(purse.total / mean))) if mean > 0 else available
    rest = candidates[parents].clone()
    taken: list[tuple[Answer, int]] = []
    while True:
        answer = run(selector, request, count)
        order = answer.merged.indices.tolist()
        fresh = [place for place, image in enumerate(order) if rest[image]]
        rest[answer.merged.indices] = False
        kept = set(purse.walk([order[place] for place in fresh]))
        taken += [(answer, place) for place in fresh if order[place] in kept]
        if count >= available or purse.left <= 0 or not bool((purse.fitting() & rest & (purse.charges > 0)).any()):
            break
        count = min(available, 2 * count)
    joined = _joined(taken)
    if selector.weighted and len(joined.indices):
        # What an image stands for hangs on the others that were taken.
        others = candidates.clone()
        others[parents[joined.indices]] = False
        banned = torch.cat([request.banned, request.wide.with_children(torch.nonzero(others).flatten())]).unique()
        return run(selector, replace(request, banned=banned), len(joined.indices))
    return replace(answer, merged=joined)


def _joined(taken: list[tuple[Answer, int]]) -> Merged:
    """The images taken from the answers of several runs, with their gains and details."""
    merged = [(answer.merged, place) for answer, place in taken]
    gains = [found.gains[place] for found, place in merged if found.gains is not None]
    names = dict.fromkeys(name for found, _ in merged for name in found.details)
    return Merged(
        indices=torch.tensor([int(found.indices[place]) for found, place in merged], dtype=torch.int64),
        weights=torch.ones(len(merged)),
        gains=torch.stack(gains) if gains and len(gains) == len(merged) else None,
        assignment=None,
        details={
            name: [found.details[name][place] if name in found.details else None for found, place in merged]
            for name in names
        },
    )
