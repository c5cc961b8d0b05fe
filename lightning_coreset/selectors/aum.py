"""AUM: items by the area under their margin."""

from typing import Literal

from torch import Tensor

from lightning_coreset.selectors.facility_location import check_words
from lightning_coreset.selectors.group import Group
from lightning_coreset.selectors.scored import ScoredSelector
from lightning_coreset.signals.scores import area_under_margin


class AUM(ScoredSelector, name="aum"):
    """Items by their mean margin over all epochs: the label's logit (not its softmax) less the largest other one.

    ``keep="hard"`` takes the smallest area first, as coreset papers do when they compare with it; wrong labels have the
    smallest of all. ``keep="easy"`` takes the largest first, so that what the method was made to find, wrong labels, is
    left out. O(E N) time and memory. Paper: Pleiss et al. 2020.

    Args:
        per_class: Select in each class instead of the whole pool (default: the whole pool).
        keep: ``"hard"`` (default) or ``"easy"``.

    Raises:
        ValueError: On selecting with another word.

    Example:
        >>> import torch
        >>> from lightning_coreset import Pool, Signals, select
        >>> signals = Signals.from_logits(torch.tensor([[4.0, 0.0], [0.0, 4.0], [1.0, 1.0]]), [0, 0, 0])
        >>> select(Pool(signals=signals), method="aum", budget=2).indices.tolist()
        [1, 2]
    """

    def __init__(self, *, per_class: bool | None = None, keep: Literal["hard", "easy"] = "hard") -> None:
        super().__init__(per_class=per_class)
        self.keep = keep

    def check(self) -> None:
        """Refuse unknown words."""
        check_words(keep=(self.keep, ("hard", "easy")))

    def score(self, group: Group) -> Tensor:
        """See `lightning_coreset.signals.scores.area_under_margin`."""
        area = area_under_margin(group.recorded)
        return -area if self.keep == "hard" else area
