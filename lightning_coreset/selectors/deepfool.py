"""DeepFool: items that lie nearest to where the classifier's answer changes."""

from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from lightning_coreset.selectors.base import Selector
from lightning_coreset.selectors.cost import Work
from lightning_coreset.selectors.group import Group, Picks
from lightning_coreset.selectors.scored import highest_first
from lightning_coreset.signals import Signals
from lightning_coreset.signals.head import head_weights

# One layer for all classes of a selection, and gone with the recording it belongs to.
_HEADS: WeakKeyDictionary[Signals, tuple[Tensor, float | None]] = WeakKeyDictionary()


class DeepFool(Selector, name="deepfool"):
    """Items whose last-layer input needs the smallest change for another answer.

    The paper perturbs the image, step by step. Here the step is taken at the last layer, where the classifier is linear
    and one is exact: ``min_c (f_a - f_c) / ||w_a - w_c||`` with ``a`` the answer given. The weights ``w`` are found
    again by least squares from the embeddings and logits of the whole pool, so that no model has to be there;
    ``resolved["head_fit"]`` of the manifest is the share of the logits' variance that they explain (1 for a linear
    layer recorded after training). Without recorded embeddings the logits themselves are perturbed, ``w`` is the
    identity, and ``head_fit`` is None. O(N h (h + C) + h^3) time, O(N C + h^2) memory. Papers: Moosavi-Dezfooli et al.
    2016; Ducoffe and Precioso 2018.

    Args:
        per_class: Select in each class instead of the whole pool (default: the whole pool).

    Example:
        >>> from lightning_coreset import Pool, Signals, select
        >>> inputs = torch.tensor([[3.0], [-0.5], [1.0]])
        >>> signals = Signals.from_logits(torch.cat([inputs, -inputs], dim=1), [0, 1, 0], inputs)
        >>> select(Pool(signals=signals), method="deepfool", budget=3).indices.tolist()
        [1, 2, 0]
    """

    needs = frozenset({"signals"})

    def work(self, size: int, width: int, count: int, memory_limit: int) -> Work:
        """Products of the inputs with each other in double precision, and copies of the group's and those seen."""
        blocks = 2 * 8 * min(size, 4_096) * width
        return Work(4.0 * size * width * width, 8 * size * width + blocks + 40 * width * width + 64 * size)

    def select_group(self, group: Group) -> Picks:
        """Candidates in ascending distance."""
        weights, fit = _head(group.recorded if group.pool_signals is None else group.pool_signals)
        distance = boundary_distance(group.recorded.logits, weights)
        return Picks(highest_first(-distance, group)[: group.count], resolved={"head_fit": fit})


def boundary_distance(logits: Tensor, weights: Tensor) -> Tensor:
    """Distance of each input to the nearest place where another logit is the largest.

    Args:
        logits: ``[n, C]``.
        weights: Of the linear layer behind them ``[C, h]``.

    Returns:
        ``[n]``, float64; 0 on a boundary, infinity where no input changes the answer. O(n C + C^2 h) time.

    Example:
        >>> boundary_distance(torch.tensor([[3.0, -1.0]]), torch.tensor([[2.0], [0.0]])).item()
        2.0
    """
    weights = weights.to(torch.float64)
    lengths = torch.stack([torch.linalg.vector_norm(weights - row, dim=1) for row in weights])
    largest, answers = logits.to(torch.float64).max(dim=1)
    gaps = largest[:, None] - logits
    # 0 / 0 is a tie of two classes that nothing tells apart: a boundary all the same.
    distances = torch.where(gaps == 0, gaps, gaps / lengths[answers])
    return distances.scatter_(1, answers[:, None], torch.inf).amin(dim=1).where(~torch.isnan(logits[:, 0]), torch.nan)


def _head(signals: Signals) -> tuple[Tensor, float | None]:
    if signals not in _HEADS:
        if signals.embeddings is None:
            _HEADS[signals] = torch.eye(signals.logits.shape[1]), None
        else:
            weights, fit = head_weights(signals)
            _HEADS[signals] = weights, round(fit, 4)
    return _HEADS[signals]
