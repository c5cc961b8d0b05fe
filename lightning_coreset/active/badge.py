"""BADGE: items whose hallucinated last-layer gradients are long and far from each other."""

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_coreset.active.scores import probabilities
from lightning_coreset.ops.random import seeded_generator
from lightning_coreset.ops.rows import first_argmax


def badge(logits: Tensor, features: Tensor, count: int, *, seed: int = 0) -> Tensor:
    """K-means++ draws over the gradients ``(p - onehot(argmax p)) x h`` of the last layer.

    The first pick is the longest gradient, each next one is drawn in proportion to the squared distance to the nearest
    pick. Gradients are never built: their products are products of their factors.

    Args:
        logits: ``[N, C]``.
        features: Input of the last layer ``[N, h]``.
        count: How many to pick, at most ``N``.
        seed: Of the draws.

    Returns:
        Rows in the order picked ``[count]``. O(count N (C + h)) time, O(N (C + h)) memory.

    Raises:
        ValueError: More picks than rows.

    References:
        Ash et al. 2020 (deep batch active learning by diverse, uncertain gradient lower bounds).

    Example:
        >>> badge(torch.tensor([[9.0, 0.0], [0.1, 0.0], [9.0, 0.0]]), torch.eye(3), 1).tolist()
        [1]
    """
    if not 1 <= count <= len(logits):
        msg = f"{count} picks of {len(logits)} items are not accepted: give 1 to {len(logits)}."
        raise ValueError(msg)
    shares = probabilities(logits)
    errors = shares.scatter_add(1, shares.argmax(dim=1, keepdim=True), -torch.ones_like(shares[:, :1]))
    rows = features.flatten(1).to(torch.float64)
    norms = errors.square().sum(dim=1) * rows.square().sum(dim=1)
    return plus_plus_draws(
        norms, lambda pick: _squares(errors, rows, norms, pick), count, seeded_generator(seed, "badge")
    )


def _squares(errors: Tensor, rows: Tensor, norms: Tensor, pick: int) -> Tensor:
    """Squared distance of every gradient to one of them ``[N]``."""
    product = (errors @ errors[pick]) * (rows @ rows[pick])
    return (norms + norms[pick] - 2 * product).clamp_(min=0)


def plus_plus_draws(
    priority: Tensor, squares: Callable[[int], Tensor], count: int, generator: torch.Generator
) -> Tensor:
    """K-means++: the row of the highest priority, then draws in proportion to squared distances to the nearest pick.

    Args:
        priority: ``[N]``.
        squares: Gives the squared distance of every row to one of them ``[N]``.
        count: Number of picks.
        generator: Of the draws.

    Returns:
        Distinct rows in the order picked ``[count]``; where all distances are zero, the lowest that is left.

    Example:
        >>> positions = torch.tensor([0.0, 0.0, 5.0])
        >>> generator = torch.Generator().manual_seed(0)
        >>> draws = plus_plus_draws(5 - positions, lambda pick: (positions - positions[pick]).square(), 3, generator)
        >>> draws.tolist()
        [0, 2, 1]
    """
    pick = int(first_argmax(priority))
    picks = [pick]
    free = torch.ones(len(priority), dtype=torch.bool, device=priority.device)
    nearest = torch.full_like(priority, torch.inf, dtype=torch.float64)
    while len(picks) < count:
        free[pick] = False
        nearest = nearest.minimum(squares(pick))
        # On the host, because sums on a GPU round in another order.
        reach = torch.where(free, nearest, torch.zeros_like(nearest)).cpu().cumsum(0)
        drawn = torch.rand((), dtype=torch.float64, generator=generator) * reach[-1]
        pick = int(torch.searchsorted(reach, drawn, right=True).clamp(max=len(reach) - 1))
        if not bool(free[pick]) or float(reach[-1]) == 0:
            pick = int(first_argmax(free.to(torch.float64)))
        picks.append(pick)
    return torch.tensor(picks)
