"""Losses without labels, and the loss of any set of regions from what is cached of each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_coreset.ops.rows import first_argmax

#: The floor of L(X), as a share of the largest entropy: below it a whole view counts as sure.
FLOOR = 0.02
#: The floor of L(X) in the literal forms.
LITERAL_FLOOR = 1e-6

#: Loss of mean logits: ``[b, ..., classes] -> [b, ...]``.
RowLoss = Callable[[Tensor], Tensor]


def entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of softmax ``[..., classes] -> [...]``.

    Example:
        >>> entropy(torch.zeros(1, 4)).exp().round().item()
        4.0
    """
    nats: Tensor = torch.special.entr(logits.softmax(dim=-1)).sum(dim=-1)
    return nats


def max_prob(logits: Tensor) -> Tensor:
    """Negative logarithm of the largest probability, 0 where the model is certain."""
    return -logits.log_softmax(dim=-1).amax(dim=-1)


def prompt(logits: Tensor) -> Tensor:
    """1 - margin between the two most probable classes, for similarities to prompts."""
    if logits.shape[-1] < 2:
        return torch.zeros_like(logits[..., 0])
    best = logits.softmax(dim=-1).topk(2, dim=-1).values
    return 1 - (best[..., 0] - best[..., 1])


def cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """Cross-entropy ``[b, ..., classes]`` with one class for each image ``[b]``."""
    wanted = classes.view(-1, *(1,) * (logits.ndim - 1)).expand(*logits.shape[:-1], 1)
    return -logits.log_softmax(dim=-1).gather(-1, wanted).squeeze(-1)


def row_loss(loss: Any, whole: Tensor, regions: Tensor, labels: Tensor | None = None) -> RowLoss:
    """The loss of a level as a function of logits.

    Args:
        loss: As in `HCSConfig`.
        whole: Logits of the whole view ``[b, classes]``.
        regions: Logits of the level's candidates ``[b, m, classes]``.
        labels: The truth ``[b]``, in analysis only; None elsewhere.
    """
    if labels is not None:
        return lambda logits: cross_entropy(logits, labels)
    if loss == "pseudo":
        assumed = first_argmax(whole)
        return lambda logits: cross_entropy(logits, assumed)
    if loss == "vote":
        votes = torch.nn.functional.one_hot(first_argmax(regions), whole.shape[-1]).sum(dim=1)
        elected = first_argmax(votes)
        return lambda logits: cross_entropy(logits, elected)
    if callable(loss):
        return lambda logits: loss(logits.flatten(0, -2)).reshape(logits.shape[:-1]).to(logits.dtype)
    return {"entropy": entropy, "max_prob": max_prob, "prompt": prompt}[loss]


@dataclass(frozen=True)
class RegionSets:
    """Loss of sets of the candidates V: that of the mean of what was kept of each, so no set costs a forward.

    In classification the mean is of logits; in segmentation of the regions' own losses. The empty set has mean 0:
    uniform logits.

    Attributes:
        values: ``[b, m, classes]``, in segmentation ``[b, m, 1]``.
        loss: Of a mean.
    """

    values: Tensor
    loss: RowLoss

    def each(self) -> Tensor:
        """L(r) of each region ``[b, m]``."""
        return self.loss(self.values)

    def of(self, chosen: Tensor) -> Tensor:
        """L of one set for each image.

        Args:
            chosen: Which regions belong to it ``[b, m]``.
        """
        kept = chosen.unsqueeze(2).to(self.values.dtype)
        return self.loss((self.values * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1))

    def pairs(self, others: Tensor) -> Tensor:
        """L({r, r'}) ``[b, m, j]`` for partners ``[b, m, j]``."""
        return self.loss((self.values.unsqueeze(2) + self._taken(others)) / 2)

    def without(self) -> Tensor:
        """L(V without r) of each region ``[b, m]``."""
        rest = self.values.sum(dim=1, keepdim=True) - self.values
        return self.loss(rest / max(self.values.shape[1] - 1, 1))

    def without_pairs(self, others: Tensor) -> Tensor:
        """L(V without r and r') ``[b, m, j]`` for partners ``[b, m, j]``."""
        count = self.values.shape[1] - 2
        rest = self.values.sum(dim=1)[:, None, None] - self.values.unsqueeze(2) - self._taken(others)
        # What rounding leaves of a sum of nothing is no logit.
        return self.loss(rest / count if count > 0 else torch.zeros_like(rest))

    def joined(self, chosen: Tensor) -> Tensor:
        """L(A and r) of each region ``[b, m]`` for the set A of each image ``[b, m]``."""
        kept = chosen.unsqueeze(2).to(self.values.dtype)
        total = (self.values * kept).sum(dim=1, keepdim=True) + self.values
        return self.loss(total / (kept.sum(dim=1, keepdim=True) + 1))

    def _taken(self, others: Tensor) -> Tensor:
        images = torch.arange(len(others), device=others.device)[:, None, None]
        return self.values[images, others]
