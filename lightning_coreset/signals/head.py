"""The last layer, found again from what went in and what came out."""

import torch
from torch import Tensor

from lightning_coreset.ops.rows import column_sum
from lightning_coreset.signals.signals import Signals

_BLOCK_ROWS = 4_096
# Directions with less of the largest variance than this are noise of float32 embeddings.
_SMALLEST_VARIANCE = 1e-10


def head_weights(signals: Signals) -> tuple[Tensor, float]:
    """Weights of the last layer by least squares: ``logits ~ W h + b`` over all items that were seen.

    Exact where logits and embeddings come from one linear layer. Of a network recorded while it was trained, each
    item's logits come from the layer of that step, and this is their average.

    Args:
        signals: The recording, with embeddings.

    Returns:
        ``W`` ``[C, h]``, float64, without part in directions in which the embeddings do not vary; and the share of the
        logits' variance that it explains. O(N h (h + C) + h^3) time, O(h^2) memory beyond blocks of rows.

    Example:
        >>> inputs = torch.tensor([[0.0], [1.0], [2.0]])
        >>> logits = torch.cat([3 * inputs, -inputs], dim=1)
        >>> head_weights(Signals.from_logits(logits, [0, 0, 1], inputs))[0].round(decimals=6).tolist()
        [[3.0], [-1.0]]
    """
    assert signals.embeddings is not None
    seen = torch.isfinite(signals.logits[:, 0]) & torch.isfinite(signals.embeddings[:, 0])
    if not bool(seen.any()):
        return torch.zeros(signals.logits.shape[1], signals.embeddings.shape[1], dtype=torch.float64), 1.0
    inputs, logits = signals.embeddings[seen], signals.logits[seen]
    shift_in, shift_out = column_sum(inputs) / len(inputs), column_sum(logits) / len(logits)
    width, classes = inputs.shape[1], logits.shape[1]
    inner = torch.zeros(width, width, dtype=torch.float64)
    outer = torch.zeros(width, classes, dtype=torch.float64)
    variance = torch.zeros((), dtype=torch.float64)
    for part, answers in zip(inputs.split(_BLOCK_ROWS), logits.split(_BLOCK_ROWS), strict=True):
        centred, wanted = part - shift_in, answers - shift_out
        inner += centred.T @ centred
        outer += centred.T @ wanted
        variance += wanted.square().sum()
    values, vectors = torch.linalg.eigh(inner)
    kept = values > _SMALLEST_VARIANCE * values[-1]
    values, vectors = values[kept], vectors[:, kept]
    along = vectors.T @ outer
    weights = (vectors @ (along / values[:, None])).T
    explained = (along.square() / values[:, None]).sum()
    return weights, float(explained / variance) if variance > 0 else 1.0
