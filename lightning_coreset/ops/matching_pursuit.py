"""Matching pursuit on gradients: few items whose weighted sum is the sum of all."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_coreset.ops.gradients import Gradients
from lightning_coreset.ops.rows import as_positions, candidate_mask, first_argmax

_ROUNDING = 1e-9


class Matching(NamedTuple):
    """Picks of a matching pursuit.

    Attributes:
        indices: Rows chosen, in order ``[k]``.
        gains: Projection of what was left of the sum on each pick's gradient when it was chosen ``[k]``, float32.
        weights: Weight of each pick after the last step ``[k]``, float64, none negative.
    """

    indices: Tensor
    gains: Tensor
    weights: Tensor


def matching_pursuit(
    gradients: Gradients,
    count: int,
    *,
    ridge: float = 0.5,
    initial: Tensor | None = None,
    forbidden: Tensor | None = None,
    advance: Callable[[int], object] | None = None,
) -> Matching:
    """Orthogonal matching pursuit of ``b = sum_i g_i`` with non-negative weights and a ridge.

    Each step takes the candidate with the largest ``<g_j, b - sum_S w_s g_s>``, then weighs all of ``S`` again:
    ``argmin_{w >= 0} ||b - sum_S w_s g_s||^2 + ridge m ||w||^2`` with ``m`` the mean of ``||g_i||^2``, so that the
    scale of the gradients changes nothing. When nothing points along the residual any more, the picks go on in the same
    order and have weight 0: always ``count`` items.

    Args:
        gradients: Of ``N`` items.
        count: Number of picks ``k``.
        ridge: Above 0; what makes the weights unique.
        initial: Rows that are weighed from the start ``[m]``; not returned.
        forbidden: Rows that may not be picked ``[f]``; they stay in the sum.
        advance: Called with the number of picks made since the last call, for a progress bar.

    Returns:
        Picks, projections and weights. O(k N C h + k^3) time; ``8 (k + m)^2`` bytes and O(k (C + h)) more. The host
        decides which weights are 0, so on CUDA each step waits for the device.

    Raises:
        ValueError: Overlapping or unknown positions, or more picks than candidates.

    References:
        GRAD-MATCH (Killamsetty et al. 2021); Lawson and Hanson 1974 for the weights.

    Example:
        >>> gradients = Gradients(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.ones(3, 1))
        >>> found = matching_pursuit(gradients, 2, ridge=1e-6)
        >>> found.indices.tolist(), found.weights.round(decimals=3).tolist()
        ([0, 2], [2.0, 1.0])
    """
    device = gradients.residuals.device
    chosen = as_positions(initial, gradients.size, "initial", device)
    banned = as_positions(forbidden, gradients.size, "forbidden", device)
    candidates = candidate_mask(gradients.size, chosen, banned, count)
    equal = gradients.equal()
    support = _Support(gradients, count + len(chosen), ridge)
    for item in chosen.tolist():
        support.add(item)

    indices, gains = [], []
    for _ in range(count):
        projections = gradients.along(support.left.to(device), equal).masked_fill_(~candidates, -torch.inf)
        pick = int(first_argmax(projections))
        indices.append(pick)
        gains.append(float(projections[pick]))
        candidates[pick] = False
        support.add(pick)
        if advance is not None:
            advance(1)
    return Matching(
        torch.tensor(indices, device=device), torch.tensor(gains, device=device), support.weights[-count:].to(device)
    )


class _Support:
    """The items weighed so far, and the inverse of ``G + ridge`` over those of positive weight.

    The inverse is bordered when an item gets a weight and its Schur complement taken when one loses it, O(k^2) each;
    the ridge bounds what rounding can do to it.
    """

    def __init__(self, gradients: Gradients, most: int, ridge: float) -> None:
        classes, width = gradients.residuals.shape[1], gradients.inputs.shape[1]
        # Where all gradients are 0 any ridge will do.
        self._ridge = ridge * (float(gradients.squares().cpu().double().mean()) or 1.0)
        self._gradients = gradients
        self._total = gradients.total().cpu().double()
        #: What the weighted gradients leave of the sum ``[C, h]``, float64.
        self.left = self._total
        self._residuals = torch.zeros(most, classes, dtype=torch.float64)
        self._inputs = torch.zeros(most, width, dtype=torch.float64)
        self._wanted = torch.zeros(most, dtype=torch.float64)
        self._inverse = torch.zeros(most, most, dtype=torch.float64)
        self._size = 0
        self._all_weights = torch.zeros(most, dtype=torch.float64)
        # Places in the support whose weights are positive, in the order of the inverse.
        self._positive: list[int] = []

    @property
    def weights(self) -> Tensor:
        """Weights in the order in which rows came in, float64."""
        return self._all_weights[: self._size]

    def add(self, item: int) -> None:
        """Take one more row in and weigh all again."""
        place = self._size
        self._size += 1
        self._residuals[place] = self._gradients.residuals[item].to(self._residuals)
        self._inputs[place] = self._gradients.inputs[item].to(self._inputs)
        self._wanted[place] = self._residuals[place] @ self._total @ self._inputs[place]
        tried: set[int] = set()
        # An item whose weight was taken away may deserve it again, once a step: rounding must not make a circle.
        while (entering := self._deserving(tried)) is not None:
            tried.add(entering)
            self._enter(entering)
            self._solve()
            weighted = self._residuals[: self._size] * self.weights[:, None]
            self.left = self._total - weighted.T @ self._inputs[: self._size]

    def _deserving(self, tried: set[int]) -> int | None:
        """The place without a weight along whose gradient most is left."""
        idle = [place for place in torch.nonzero(self.weights == 0).flatten().tolist() if place not in tried]
        if not idle:
            return None
        along = ((self._inputs[idle] @ self.left.T) * self._residuals[idle]).sum(dim=1)
        best = int(first_argmax(along))
        return idle[best] if along[best] > _ROUNDING * self._wanted[: self._size].abs().max() else None

    def _enter(self, place: int) -> None:
        size, known = len(self._positive), self._positive
        inner = (self._residuals[known] @ self._residuals[place]) * (self._inputs[known] @ self._inputs[place])
        corner = self._residuals[place].square().sum() * self._inputs[place].square().sum() + self._ridge
        inverse = self._inverse[:size, :size]
        moved = inverse @ inner
        height = corner - inner @ moved
        inverse.addr_(moved, moved, alpha=float(1 / height))
        self._inverse[:size, size] = self._inverse[size, :size] = -moved / height
        self._inverse[size, size] = 1 / height
        self._positive.append(place)

    def _leave(self, row: int) -> None:
        size = len(self._positive)
        column = self._inverse[:size, row].clone()
        self._inverse[:size, :size].addr_(column, column, alpha=-float(1 / column[row]))
        kept = [other for other in range(size) if other != row]
        # The rows behind move up by one; a copy, because source and target overlap.
        self._inverse[row : size - 1, :size] = self._inverse[row + 1 : size, :size].clone()
        self._inverse[: size - 1, row : size - 1] = self._inverse[: size - 1, row + 1 : size].clone()
        self._positive = [self._positive[other] for other in kept]

    def _solve(self) -> None:
        """Least squares over the positive places; those that it makes negative leave (Lawson and Hanson)."""
        while self._positive:
            size = len(self._positive)
            wanted = self._inverse[:size, :size] @ self._wanted[self._positive]
            if bool((wanted > 0).all()):
                self._all_weights[self._positive] = wanted
                return
            weights = self._all_weights[self._positive]
            lowered = wanted <= 0
            steps = weights[lowered] / (weights[lowered] - wanted[lowered])
            weights = weights + steps.nan_to_num(0.0).min() * (wanted - weights)
            floor = _ROUNDING * weights.abs().max()
            leaving = torch.nonzero(lowered & (weights <= floor)).flatten().tolist()
            self._all_weights[self._positive] = weights.clamp(min=0)
            for row in reversed(leaving):
                self._all_weights[self._positive[row]] = 0.0
                self._leave(row)
