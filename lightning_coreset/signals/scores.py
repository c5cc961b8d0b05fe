"""Scores of single items from a recording: pure functions of `Signals`, one number an item.

An item that no epoch saw has the score NaN.
"""

from typing import Literal

import torch
from torch import Tensor

from lightning_coreset.signals.signals import Signals

Measure = Literal["least_confidence", "entropy", "margin"]


def forgetting_events(signals: Signals) -> Tensor:
    """How often each item was answered rightly and then wrongly, summed over the runs.

    Epochs that did not see the item are skipped, and the first epoch of a run does not follow the last one of another.

    Args:
        signals: The recording.

    Returns:
        ``[N]``, float32; infinity for items that no epoch of any run answered rightly. O(E N) time, O(N) memory.

    References:
        Toneva et al. 2019.

    Example:
        >>> logits = torch.tensor([[[2.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]])
        >>> forgetting_events(Signals.from_logits(logits, torch.tensor([0, 0]))).tolist()
        [1.0, inf]
    """
    events = torch.zeros(len(signals))
    learnt = torch.zeros(len(signals), dtype=torch.bool)
    seen = torch.zeros(len(signals), dtype=torch.bool)
    for epochs in _runs(signals):
        knows = torch.zeros(len(signals), dtype=torch.bool)
        for answers in signals.correct[epochs]:
            events += knows & (answers == 0)
            knows = torch.where(answers < 0, knows, answers == 1)
            learnt |= answers == 1
            seen |= answers >= 0
    events[~learnt] = torch.inf
    events[~seen] = torch.nan
    return events


def el2n(signals: Signals, epochs: int) -> Tensor:
    """Mean over the runs of the mean ``||softmax - onehot||`` of their first epochs ``[N]``.

    O(E N) time, O(N) memory for each run. Paper: Paul et al. 2021.
    """
    return _early(signals, signals.errors, epochs)


def grand(signals: Signals, epochs: int) -> Tensor:
    """Mean over the runs of the mean length of the last layer's gradient in their first epochs ``[N]``.

    The gradient of one item's cross-entropy with respect to weights and bias is ``(p - y) [h, 1]^T``, whose length is
    ``||p - y|| * ||[h, 1]||``. O(E N) time, O(N) memory for each run. Paper: Paul et al. 2021.

    Raises:
        ValueError: The recording does not hold the lengths of the last layer's inputs.
    """
    if signals.feature_norms is None:
        msg = (
            "'grand' needs the inputs of the last layer and the signals hold none: give "
            "Signals.from_logits(..., embeddings=...), or take 'el2n', which leaves them out."
        )
        raise ValueError(msg)
    return _early(signals, signals.errors * signals.feature_norms, epochs)


def area_under_margin(signals: Signals) -> Tensor:
    """Mean over all epochs of the label's logit less the largest other one ``[N]``; low for wrong labels.

    O(E N) time, O(N) memory. Paper: Pleiss et al. 2020.
    """
    return _mean_of_seen(signals.margins)


def suspicion(signals: Signals) -> Tensor:
    """How likely each item's label is wrong, between 0 and 1: 0.8 of its place by margin and 0.2 of that by forgetting.

    The place by margin is the share of items with a larger `area_under_margin`, the place by forgetting the share with
    fewer `forgetting_events`; ties count half. Wrong labels are fitted last and against their neighbours, so that their
    margins stay low, and are seldom learnt for good. Forgetting counts less because it ties often: on the human labels
    of CIFAR-10N, where these shares were chosen, it tells less than the margin, which alone tells as much as both.

    Args:
        signals: The recording.

    Returns:
        ``[N]``, float32; minus infinity for items that no epoch saw. O(E N + N log N) time, O(N) memory.

    Example:
        >>> logits = torch.tensor([[[2.0, 0.0], [2.0, 0.0]]])
        >>> suspicion(Signals.from_logits(logits, torch.tensor([0, 1]))).tolist()
        [0.25, 0.75]
    """
    area, events = area_under_margin(signals), forgetting_events(signals)
    seen = ~torch.isnan(events)
    found = torch.full((len(signals),), -torch.inf)
    found[seen] = 0.8 * _share_below(-area[seen]) + 0.2 * _share_below(events[seen])
    return found


def uncertainty(logits: Tensor, measure: Measure) -> Tensor:
    """How unsure the softmax is: large where it is.

    Args:
        logits: ``[n, C]``.
        measure: ``"least_confidence"``, 1 - max p; ``"entropy"`` in nats; ``"margin"``, -(first - second largest p).

    Returns:
        ``[n]``, float64. O(n C) time and memory.

    Example:
        >>> uncertainty(torch.tensor([[0.0, 0.0], [9.0, 0.0]]), "least_confidence").round(decimals=3).tolist()
        [0.5, 0.0]
    """
    logs = logits.to(torch.float64).log_softmax(dim=1)
    if measure == "entropy":
        return -(logs.exp() * logs).sum(dim=1)
    if measure == "margin":
        # Sorted, because topk puts NaN first and a row of NaN must stay one.
        ordered = logs.exp().sort(dim=1).values
        return ordered[:, -2] - ordered[:, -1]
    return 1 - logs.amax(dim=1).exp()


def _share_below(values: Tensor) -> Tensor:
    """Share of the values that are smaller, ties half ``[n]``."""
    _, places, counts = torch.unique(values, return_inverse=True, return_counts=True)
    share: Tensor = (counts.cumsum(0) - counts / 2) / max(1, len(values))
    return share[places]


def _runs(signals: Signals) -> list[Tensor]:
    """The epochs of each run."""
    if signals.runs is None:
        return [torch.arange(signals.epochs)]
    return [torch.nonzero(signals.runs == run).flatten() for run in signals.runs.unique()]


def _early(signals: Signals, column: Tensor, epochs: int) -> Tensor:
    """Mean over the runs of the means over their first epochs, without what was not seen."""
    return _mean_of_seen(torch.stack([_mean_of_seen(column[run[:epochs]]) for run in _runs(signals)]))


def _mean_of_seen(column: Tensor) -> Tensor:
    """Mean over the rows that are not NaN ``[N]``, float64.

    Row after row: torch's own mean adds up the last items of a vector in another order than the others, and equal items
    must get equal bits.
    """
    total, seen = torch.zeros(column.shape[1], dtype=torch.float64), torch.zeros(column.shape[1], dtype=torch.float64)
    for row in column:
        total += row.nan_to_num(0.0)
        seen += ~torch.isnan(row)
    return total / seen
