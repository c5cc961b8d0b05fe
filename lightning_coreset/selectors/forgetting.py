"""Forgetting: items that training learnt and lost again, most often first."""

from torch import Tensor

from lightning_coreset.selectors.group import Group
from lightning_coreset.selectors.scored import ScoredSelector
from lightning_coreset.signals.scores import forgetting_events


class Forgetting(ScoredSelector, name="forgetting"):
    """Items with the most learnt-then-lost events, summed over the runs; never learnt counts as infinity.

    Counts tie often: ties go to the lowest index. Wrong labels are seldom learnt, so they come first. O(E N) time,
    O(N) memory for ``E`` epochs. Paper: Toneva et al. 2019.

    Args:
        per_class: Select in each class instead of the whole pool (default: the whole pool).

    Example:
        >>> import torch
        >>> from lightning_coreset import Pool, Signals, select
        >>> margins = torch.tensor([[1.0, 1.0, -1.0], [1.0, -1.0, -1.0]])
        >>> signals = Signals.from_logits(torch.stack([margins, 0 * margins], dim=2), [0, 0, 0])
        >>> select(Pool(signals=signals), method="forgetting", budget=3).indices.tolist()
        [2, 1, 0]
    """

    def score(self, group: Group) -> Tensor:
        """See `lightning_coreset.signals.scores.forgetting_events`."""
        return forgetting_events(group.recorded)
