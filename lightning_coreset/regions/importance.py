"""The four terms of a region's importance (Eq. 3-7), each in the printed reading and in those that work."""

import math

import torch
from torch import Tensor

from lightning_coreset.regions.losses import LITERAL_FLOOR, RegionSets

_SMALLEST_RATIO = 1e-6


def utility(loss: Tensor, whole: Tensor, floored: Tensor, area: Tensor, lam: float, reading: str = "improve") -> Tensor:
    """S_ut: how sure the model is of a region, and how small the region is.

    ``improve`` exp(-L(r) / l0); ``one_sided`` exp(-max(0, L(r) - L(X)) / l0); ``literal`` (Eq. 3)
    exp(-|L(X) - L(r)| / L(X)), which prefers regions on which the model is as lost as on the whole view; each
    + lam (1 - area).

    Args:
        loss: L(r) ``[..., m]``.
        whole: L(X) ``[..., 1]``.
        floored: l0, L(X) held above a share of the largest entropy ``[..., 1]``.
        area: Share of the scene ``[..., m]``.
        lam: Weight of the area.
        reading: One of the three.

    Returns:
        ``[..., m]``.

    Example:
        >>> one = torch.ones(1)
        >>> utility(torch.tensor([0.0, 1.0]), one, one, torch.tensor([0.5, 0.5]), 0.0, "literal").round(decimals=2)
        tensor([0.3700, 1.0000])
    """
    if reading == "literal":
        sure = (-(whole - loss).abs() / whole.clamp(min=LITERAL_FLOOR)).exp()
    elif reading == "one_sided":
        sure = (-(loss - whole).clamp(min=0) / floored).exp()
    else:
        sure = (-loss / floored).exp()
    return sure + lam * (1 - area)


def representativeness(embeddings: Tensor) -> Tensor:
    """S_re (Eq. 4): whether a region's likeness to the others is that of the whole level.

    k_uv = exp(-(1 - e_u.e_v) / h), h the median of 1 - e_u.e_v over all pairs; p_r is row r of k and p_X the mean row,
    each scaled to sum 1; exp(-KL(p_r || p_X) / largest KL). All in logarithms. O(m^2 d) time, O(m^2) memory an image.

    Args:
        embeddings: Unit rows ``[b, m, d]``.

    Returns:
        ``[b, m]``; ones where all regions are alike.
    """
    distance = 1 - embeddings @ embeddings.mT
    bandwidth = distance.flatten(1).quantile(0.5, dim=1) if distance[0].numel() < 2**24 else _median(distance)
    tiny = torch.finfo(distance.dtype).eps
    logarithm = -distance / bandwidth.clamp(min=tiny)[:, None, None]
    own = logarithm.log_softmax(dim=2)
    level = logarithm.logsumexp(dim=1).log_softmax(dim=1).unsqueeze(1)
    divergence = (own.exp() * (own - level)).sum(dim=2).clamp(min=0)
    return _falling(divergence)


def _median(distance: Tensor) -> Tensor:
    # quantile refuses more than 2^24 values.
    ordered = distance.flatten(1).sort(dim=1).values
    middle = ordered.shape[1] // 2
    return (ordered[:, middle - 1 + ordered.shape[1] % 2] + ordered[:, middle]) / 2


def robustness(embeddings: Tensor, perturbed: Tensor) -> Tensor:
    """S_ro (Eq. 5): exp(-||e_r - e'_r|| / largest change), how little noise changes a region.

    Args:
        embeddings: Unit rows ``[b, m, d]``.
        perturbed: The same of the perturbed crops ``[b, m, d]``.

    Returns:
        ``[b, m]``; ones where nothing changes.
    """
    return _falling((embeddings - perturbed).norm(dim=2))


def _falling(values: Tensor) -> Tensor:
    largest = values.amax(dim=1, keepdim=True)
    return (-values / largest.masked_fill(largest == 0, 1)).exp()


def synergy(sets: RegionSets, others: Tensor, counts: Tensor, floored: Tensor, reading: str = "pair") -> Tensor:
    """S_sy: what a region is worth together with its neighbours.

    Means over r' in R' of: ``pair`` exp(-L({r, r'}) / l0); ``gain``
    1 - exp(-m max(0, L(V - {r, r'}) - L(V - {r'})) / L(V)); ``literal`` (Eq. 6)
    exp(-|(L(V) - L(V - {r, r'})) / (L(V) - L(V - {r'}))|), the denominator held at 1e-6 or more with its sign.

    Args:
        sets: The level's candidates V.
        others: Positions of R' ``[b, m, j]``.
        counts: Which of them count ``[b, m, j]``.
        floored: l0 ``[b, 1]``.
        reading: One of the three.

    Returns:
        ``[b, m]``; 0 for a region that is alone.
    """
    if reading == "pair":
        values = (-sets.pairs(others) / floored.unsqueeze(2)).exp()
    else:
        everything = sets.of(torch.ones_like(sets.values[..., 0], dtype=torch.bool))[:, None, None]
        one = sets.without()
        images = torch.arange(len(others), device=others.device)[:, None, None]
        without_other, without_both = one[images, others], sets.without_pairs(others)
        if reading == "gain":
            rise = (without_both - without_other).clamp(min=0)
            values = 1 - (-others.shape[1] * rise / everything.clamp(min=LITERAL_FLOOR)).exp()
        else:
            below = everything - without_other
            sign = torch.where(below < 0, -1.0, 1.0).to(below.dtype)
            values = (-((everything - without_both) / (sign * below.abs().clamp(min=_SMALLEST_RATIO))).abs()).exp()
    return values.masked_fill(~counts, 0).sum(dim=2) / counts.sum(dim=2).clamp(min=1)


def floor_of(whole: Tensor, classes: int, share: float) -> Tensor:
    """l0 = max(L(X), share x log classes), never 0."""
    return whole.clamp(min=max(share * math.log(max(classes, 1)), LITERAL_FLOOR))


def minmax(term: Tensor) -> Tensor:
    """A term scaled to [0, 1] over a level ``[b, m]``; zeros where it is constant."""
    lowest, highest = term.amin(dim=1, keepdim=True), term.amax(dim=1, keepdim=True)
    return (term - lowest) / (highest - lowest).masked_fill(highest == lowest, 1)
