"""From kept regions to one answer for each scene."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_coreset.ops.rows import accumulator_dtype, first_argmax
from lightning_coreset.regions.encoding import parse
from lightning_coreset.regions.search import Kept
from lightning_coreset.regions.selection import coarse

# Logarithms of probabilities that underflowed stay finite.
_LEAST_PROBABILITY = 1e-30
# Energies (nats) nearer than this say nothing: log-probabilities all have zero.
_LEAST_SPREAD = 1e-3


def weights_of(scores: Tensor, fuse: str, tau: float) -> Tensor:
    """Weights of a scene's regions ``[k]``, of sum 1.

    Example:
        >>> weights_of(torch.tensor([1.0, 1.0]), "softmax", 0.5).tolist()
        [0.5, 0.5]
    """
    if fuse == "mean":
        return torch.full_like(scores, 1 / len(scores))
    if fuse == "best":
        best = first_argmax(coarse(scores))
        return (torch.arange(len(scores), device=scores.device) == best).to(scores.dtype)
    return (scores / tau).softmax(dim=0)


def energy_weights(logits: Tensor, tau: float) -> Tensor | None:
    """Weights ``[k]`` by softmax(E / tau), E the logarithm of the sum of exp(logits); None where all E are equal.

    A region that excites no class, sure as it may be of the least faint one, hardly counts. At tau = 1 the
    probabilities under these weights are those of the logits' log-sum-exp over regions.

    Example:
        >>> energy_weights(torch.tensor([[9.0, 0.0], [1.0, -9.0]]), 1.0).round(decimals=3).tolist()
        [1.0, 0.0]
    """
    energy = logits.to(accumulator_dtype(logits.device)).logsumexp(dim=1)
    return (energy / tau).softmax(dim=0) if bool(energy.max() - energy.min() > _LEAST_SPREAD) else None


def fuse_regions(
    kept: Kept, fuse: str, tau: float, head: Callable[[Tensor], Any] | None, energy_tau: float | None = None
) -> tuple[Tensor, Tensor]:
    """Logits ``[classes]`` and weights ``[k]`` of a scene.

    ``softmax``, ``mean`` and ``best`` weigh logits; ``prob`` probabilities, whose logarithm is returned; ``feature``
    embeddings, whose mean the head turns into logits. With ``energy_tau`` energies weigh in place of scores, where
    they differ.

    Raises:
        ValueError: ``feature`` without a head, or without embeddings.
    """
    weights = None if energy_tau is None else energy_weights(kept.logits, energy_tau)
    if weights is None:
        weights = weights_of(kept.scores, fuse, tau)
    wide = accumulator_dtype(kept.logits.device)
    if fuse == "best":
        # Not a sum: a logit of minus infinity times a weight of zero is no number.
        return kept.logits[first_argmax(weights)], weights
    if fuse == "feature":
        if head is None or kept.rows is None:
            msg = (
                "fuse='feature' needs a model that gives (embedding, logits) and head=, which turns an embedding into "
                "logits: give them, or another fuse."
            )
            raise ValueError(msg)
        mean = (weights.unsqueeze(1) * kept.rows.to(weights.dtype)).sum(dim=0, keepdim=True)
        return parse(head(mean.to(kept.rows.dtype)), 1)[1].squeeze(0), weights
    if fuse == "prob":
        mean = (weights.unsqueeze(1) * kept.logits.to(wide).softmax(dim=1)).sum(dim=0)
        return mean.clamp(min=_LEAST_PROBABILITY).log().to(kept.logits.dtype), weights
    return (weights.unsqueeze(1) * kept.logits.to(wide)).sum(dim=0).to(kept.logits.dtype), weights
