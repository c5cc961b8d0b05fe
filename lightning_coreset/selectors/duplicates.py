"""One candidate for each group of near duplicates."""

from typing import Any

import torch
from torch import Tensor


def copies_of(groups: Tensor | None, chosen: Tensor, banned: Tensor, order: Tensor) -> Tensor:
    """Items that are no candidates because another item of their group is.

    The candidate of a group is the first in the given order that is not forbidden; a group of which an item counts as
    chosen has none.

    Args:
        groups: Group of each item ``[N]``; None: every item is its own.
        chosen: Items that count as chosen ``[m]``.
        banned: Items that may not be picked ``[f]``.
        order: All items in the order in which they are preferred ``[N]``.

    Raises:
        ValueError: Not one group for each item.

    Example:
        >>> nothing = torch.tensor([], dtype=torch.int64)
        >>> copies_of(torch.tensor([0, 0, 2, 2]), torch.tensor([3]), nothing, torch.arange(4)).tolist()
        [1, 2]
    """
    if groups is None:
        return torch.empty(0, dtype=torch.int64)
    if list(groups.shape) != [len(order)]:
        msg = f"duplicates have shape {list(groups.shape)} for {len(order)} items: give one group for each item."
        raise ValueError(msg)
    _, group = torch.unique(groups.cpu(), return_inverse=True)
    out = torch.zeros(len(group), dtype=torch.bool)
    out[torch.cat([chosen, banned])] = True
    free = order[~out[order]]
    # Stable, so the first of a group is the first in the order.
    free = free[torch.argsort(group[free], stable=True)]
    leads = torch.ones(len(free), dtype=torch.bool)
    leads[1:] = group[free][1:] != group[free][:-1]
    leads &= ~torch.isin(group[free], group[chosen])
    return free[~leads].sort().values


def told_of_copies(groups: Tensor, copies: Tensor) -> dict[str, Any]:
    """For the manifest: groups of more than one item, the items in them, and how many were no candidates."""
    _, sizes = torch.unique(groups, return_counts=True)
    several = sizes[sizes > 1]
    return {"groups": len(several), "items": int(several.sum()), "left_out": len(copies)}
