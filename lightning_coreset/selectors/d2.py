"""D2 pruning: difficult items, spread over the pool by messages between neighbours."""

from typing import Literal

import torch
from torch import Tensor

from lightning_coreset.ops.message_passing import message_passing
from lightning_coreset.ops.neighbors import Neighbors, nearest_neighbors
from lightning_coreset.selectors.base import Selector
from lightning_coreset.selectors.checks import check_least, check_whole
from lightning_coreset.selectors.facility_location import check_words
from lightning_coreset.selectors.group import Group, Picks
from lightning_coreset.selectors.scored import DIFFICULTIES, Difficulty, difficulty


class D2(Selector, name="d2"):
    """Items that are difficult themselves and among difficult ones, until a neighbour is chosen.

    On the graph of nearest neighbours each item gathers its neighbours' difficulty, faded by distance; then the largest
    is picked and takes from its neighbours, again and again (`lightning_coreset.ops.message_passing`). O(N^2 d) time
    for exact neighbours and O(k N) for the picks; O(N m) memory for ``m`` neighbours, never a pairwise matrix. Paper:
    Maharana et al. 2023.

    Args:
        per_class: Graph and picks in each class instead of the whole pool (default: the whole pool).
        score: What difficulty is: ``"forgetting"`` (never learnt: one more than the most often forgotten), ``"aum"`` or
            ``"el2n"``; ``"uniform"``, the same for all, asks for no signals.
        neighbors: ``m``; all others where there are fewer.
        gamma_forward: How fast difficulty fades with squared distance on unit rows.
        gamma_reverse: How fast what a pick takes fades; smaller spreads the picks more.

    Raises:
        ValueError: On selecting with an argument out of its range.

    Example:
        >>> from lightning_coreset import Pool, Signals, select
        >>> features = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 1.0]])
        >>> signals = Signals.from_logits(torch.tensor([[0.0, 3.0], [0.0, 2.0], [1.0, 0.0], [2.0, 0.0]]), [0, 0, 0, 0])
        >>> pool = Pool(features, signals=signals)
        >>> select(pool, method="d2", budget=2, score="aum", neighbors=1).indices.tolist()
        [0, 2]
    """

    needs = frozenset({"signals", "features"})

    def __init__(
        self,
        *,
        per_class: bool | None = None,
        score: Difficulty | Literal["uniform"] = "forgetting",
        neighbors: int = 10,
        gamma_forward: float = 1.0,
        gamma_reverse: float = 1.0,
    ) -> None:
        super().__init__(per_class=per_class)
        self.score = score
        self.neighbors = neighbors
        self.gamma_forward = gamma_forward
        self.gamma_reverse = gamma_reverse
        if score == "uniform":
            self.needs = frozenset({"features"})

    def check(self) -> None:
        """Refuse arguments out of their range."""
        check_words(score=(self.score, (*DIFFICULTIES, "uniform")))
        check_whole(neighbors=self.neighbors)
        check_least(0, gamma_forward=self.gamma_forward, gamma_reverse=self.gamma_reverse)

    def select_group(self, group: Group) -> Picks:
        """Neighbours where the features are, messages on the CPU."""
        count = min(self.neighbors, group.size - 1)
        if count:
            beside = Neighbors(*(column.cpu() for column in nearest_neighbors(group.rows, count)))
        else:
            beside = Neighbors(torch.empty(1, 0, dtype=torch.int64), torch.empty(1, 0))
        indices, gains = message_passing(
            self._worth(group),
            beside,
            group.count,
            forward=self.gamma_forward,
            reverse=self.gamma_reverse,
            initial=group.initial.cpu(),
            forbidden=group.forbidden.cpu(),
            advance=group.advance,
        )
        return Picks(indices, gains)

    def _worth(self, group: Group) -> Tensor:
        """Difficulty from 0 on ``[n]``, finite; 0 for items that no epoch saw."""
        if self.score == "uniform":
            return torch.ones(group.size)
        hardness = difficulty(group.recorded, self.score)
        finite = hardness[torch.isfinite(hardness)]
        if not len(finite):
            return torch.ones(group.size)
        least = finite.min() if self.score == "aum" else 0.0
        return (hardness - least).nan_to_num(0.0, float(finite.max() - least) + 1)
