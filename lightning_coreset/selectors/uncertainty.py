"""Uncertainty: items of which the network is least sure."""

from typing import Literal

from torch import Tensor

from lightning_coreset.selectors.facility_location import check_words
from lightning_coreset.selectors.group import Group
from lightning_coreset.selectors.scored import ScoredSelector
from lightning_coreset.signals.scores import uncertainty


class Uncertainty(ScoredSelector, name="uncertainty"):
    """Items with the least certain softmax of their newest logits, the most uncertain first.

    O(N C) time and memory. Paper: Coleman et al. 2020 (selection via proxy).

    Args:
        per_class: Select in each class instead of the whole pool (default: the whole pool).
        measure: ``"least_confidence"`` (1 - largest probability), ``"entropy"``, or ``"margin"`` (the two largest
            probabilities near each other).

    Raises:
        ValueError: On selecting with another word.

    Example:
        >>> import torch
        >>> from lightning_coreset import Pool, Signals, select
        >>> signals = Signals.from_logits(torch.tensor([[4.0, 0.0], [0.0, 4.0], [1.0, 1.0]]), [0, 0, 0])
        >>> select(Pool(signals=signals), method="uncertainty", budget=1).indices.tolist()
        [2]
    """

    def __init__(
        self,
        *,
        per_class: bool | None = None,
        measure: Literal["least_confidence", "entropy", "margin"] = "least_confidence",
    ) -> None:
        super().__init__(per_class=per_class)
        self.measure = measure

    def check(self) -> None:
        """Refuse unknown words."""
        check_words(measure=(self.measure, ("least_confidence", "entropy", "margin")))

    def score(self, group: Group) -> Tensor:
        """See `lightning_coreset.signals.scores.uncertainty`."""
        return uncertainty(group.recorded.logits, self.measure)
