"""CCS: without the hardest items, the same number from each level of difficulty."""

import torch
from torch import Tensor

from lightning_coreset.selectors.base import Selector
from lightning_coreset.selectors.checks import check_whole
from lightning_coreset.selectors.facility_location import check_words
from lightning_coreset.selectors.group import Group, Picks
from lightning_coreset.selectors.scored import DIFFICULTIES, Difficulty, difficulty


class CCS(Selector, name="ccs"):
    """Coverage-centric selection: drop the hardest share, cut the rest into strata of the score, share the budget.

    Strata are equally wide ranges of difficulty between the easiest and the hardest item that stayed. Seats go out one
    at a time to the stratum with the fewest picks (``initial`` items count), ties to the one with most items, then to
    the easier one; within a stratum the seed draws. So each stratum gives the same, and what small ones cannot give
    goes to the others. Dropped items come last, the easier before the harder. O(N log N) time, O(N) memory. Paper:
    Zheng et al. 2023.

    Args:
        per_class: Strata and picks in each class instead of the whole pool (default: the whole pool).
        score: What difficulty is: ``"aum"`` (small area under the margin), ``"el2n"`` or ``"forgetting"``.
        beta: Share of the hardest items to drop, in [0, 1).
        strata: How many levels of difficulty.

    Raises:
        ValueError: On selecting with an argument out of its range.

    Example:
        >>> from lightning_coreset import Pool, Signals, select
        >>> logits = torch.stack([torch.arange(10.0), torch.zeros(10)], dim=1)
        >>> pool = Pool(signals=Signals.from_logits(logits, torch.zeros(10, dtype=torch.int64)))
        >>> sorted(select(pool, method="ccs", budget=3, strata=3, beta=0.1).details["stratum"])
        [0, 1, 2]
    """

    needs = frozenset({"signals"})

    def __init__(
        self, *, per_class: bool | None = None, score: Difficulty = "aum", beta: float = 0.1, strata: int = 50
    ) -> None:
        super().__init__(per_class=per_class)
        self.score = score
        self.beta = beta
        self.strata = strata

    def check(self) -> None:
        """Refuse arguments out of their range."""
        check_words(score=(self.score, DIFFICULTIES))
        check_whole(strata=self.strata)
        if isinstance(self.beta, bool) or not 0 <= self.beta < 1:
            msg = f"beta={self.beta!r} is not accepted: give a share in [0, 1)."
            raise ValueError(msg)

    def select_group(self, group: Group) -> Picks:
        """Strata in turn, then what was dropped."""
        hardness = difficulty(group.recorded, self.score)
        order = torch.argsort(hardness.nan_to_num(torch.inf, torch.inf, -torch.inf), stable=True)
        kept = order[: group.size - int(self.beta * group.size + 0.5)]
        # Nothing is known of items that no epoch saw: they are dropped as well.
        kept = kept[~torch.isnan(hardness[kept])]
        stratum = torch.full((group.size,), -1, dtype=torch.int64)
        stratum[kept] = strata_of(hardness[kept], self.strata)
        candidates = group.candidates.cpu()
        picks = self._in_turn(stratum, candidates, group)
        dropped = order[(stratum[order] < 0) & candidates[order]].tolist()
        indices = torch.tensor((picks + dropped)[: group.count], dtype=torch.int64)
        return Picks(indices, details={"stratum": stratum[indices].tolist()})

    def _in_turn(self, stratum: Tensor, candidates: Tensor, group: Group) -> list[int]:
        drawn = torch.randperm(group.size, generator=group.generator())
        drawn = drawn[(candidates & (stratum >= 0))[drawn]]
        drawn = drawn[torch.argsort(stratum[drawn], stable=True)]
        sizes = torch.bincount(stratum[stratum >= 0], minlength=self.strata)
        started = torch.bincount(stratum[group.initial.cpu()].clamp(min=-1) + 1, minlength=self.strata + 1)[1:]
        # The n-th candidate of a stratum gets its seat when the others stand at n too, larger strata first.
        firsts = torch.searchsorted(stratum[drawn].contiguous(), stratum[drawn].contiguous())
        level = torch.arange(len(drawn)) - firsts + started[stratum[drawn]]
        by_size = torch.argsort(torch.argsort(sizes, descending=True, stable=True))[stratum[drawn]]
        turn = torch.argsort(level * self.strata + by_size, stable=True)
        return drawn[turn].tolist()


def strata_of(hardness: Tensor, strata: int) -> Tensor:
    """Which of equally wide ranges each value lies in ``[n]``, 0 the easiest; infinite ones in the last.

    Example:
        >>> strata_of(torch.tensor([0.0, 0.4, 1.0, float("inf")]), 2).tolist()
        [0, 0, 1, 1]
    """
    finite = torch.isfinite(hardness)
    places = torch.full(hardness.shape, strata - 1, dtype=torch.int64)
    if bool(finite.any()):
        values = hardness[finite].to(torch.float64)
        low, width = values.min(), (values.max() - values.min()) / strata
        places[finite] = ((values - low) / width).long().clamp(0, strata - 1) if width > 0 else 0
    return places
