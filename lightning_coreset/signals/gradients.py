"""Gradients of the last layer from a recording."""

import torch

from lightning_coreset.ops.gradients import Gradients
from lightning_coreset.signals.signals import Signals


def last_layer_gradients(signals: Signals) -> Gradients:
    """Gradient of each item's cross-entropy with respect to the last layer: ``(p - y) [h, 1]^T``, as its factors.

    Without recorded inputs ``h`` the bias is the whole layer, and the gradient is ``p - y``.

    Args:
        signals: The recording; its newest logits and embeddings count.

    Returns:
        Factors of ``N`` gradients; O(N (C + h)) time and memory.

    Raises:
        ValueError: An item that no epoch saw.

    Example:
        >>> signals = Signals.from_logits(torch.zeros(1, 2), torch.tensor([0]), embeddings=torch.tensor([[3.0]]))
        >>> [factor.tolist() for factor in last_layer_gradients(signals)]
        [[[-0.5, 0.5]], [[3.0, 1.0]]]
    """
    inputs = torch.ones(len(signals), 1)
    if signals.embeddings is not None:
        inputs = torch.cat([signals.embeddings.float(), inputs], dim=1)
    # In double precision, because what is left of a confident item is 1 less almost 1.
    residuals = signals.logits.to(torch.float64).softmax(dim=1)
    residuals[torch.arange(len(signals)), signals.labels] -= 1
    unseen = torch.isnan(residuals).any(dim=1) | torch.isnan(inputs).any(dim=1)
    if bool(unseen.any()):
        msg = (
            f"No epoch saw item {int(unseen.nonzero()[0])} ({int(unseen.sum())} of {len(signals)}), so it has no "
            "gradient: record one epoch over all items, or leave these out of the pool."
        )
        raise ValueError(msg)
    return Gradients(residuals.float(), inputs)
