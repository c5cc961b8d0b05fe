"""Methods that give each item one score and take the highest."""

from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor

from lightning_coreset.selectors.base import Selector
from lightning_coreset.selectors.group import Group, Picks
from lightning_coreset.signals import Signals
from lightning_coreset.signals.scores import area_under_margin, el2n, forgetting_events

Difficulty = Literal["aum", "el2n", "forgetting"]
DIFFICULTIES = ("aum", "el2n", "forgetting")

_EARLY_EPOCHS = 10


class ScoredSelector(Selector):
    """Takes the items with the highest score; ties go to the lowest index, items without a score come last.

    One item's score does not hang on which others are chosen, so ``initial`` items only are no candidates.
    """

    needs = frozenset({"signals"})

    @abstractmethod
    def score(self, group: Group) -> Tensor:
        """One number for each row ``[n]``; NaN where nothing is known of it."""

    def select_group(self, group: Group) -> Picks:
        """Candidates in descending score."""
        return Picks(highest_first(self.score(group), group)[: group.count])


def highest_first(score: Tensor, group: Group) -> Tensor:
    """Candidates in descending score ``[n - initial - forbidden]``, equal ones by index, NaN last.

    Example:
        >>> none = torch.empty(0, dtype=torch.int64)
        >>> group = Group(size=3, count=2, features=None, initial=none, forbidden=torch.tensor([2]))
        >>> highest_first(torch.tensor([float("nan"), 1.0, 2.0]), group).tolist()
        [1, 0]
    """
    order = torch.argsort(score.cpu().nan_to_num(-torch.inf, torch.inf, -torch.inf), descending=True, stable=True)
    return order[group.candidates.cpu()[order]]


def difficulty(signals: Signals, score: Difficulty) -> Tensor:
    """How hard each item was, the hardest highest ``[N]``: forgetting events, EL2N of ten epochs, or -AUM."""
    if score == "forgetting":
        return forgetting_events(signals)
    return -area_under_margin(signals) if score == "aum" else el2n(signals, _EARLY_EPOCHS)
