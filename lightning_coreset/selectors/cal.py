"""CAL: items that are answered otherwise than their neighbours."""

import torch
from torch import Tensor

from lightning_coreset.ops.neighbors import nearest_neighbors
from lightning_coreset.selectors.checks import check_whole
from lightning_coreset.selectors.cost import Work, neighbor_work
from lightning_coreset.selectors.group import Group
from lightning_coreset.selectors.scored import ScoredSelector
from lightning_coreset.signals import Signals


class CAL(ScoredSelector, name="cal"):
    """Items with the highest mean ``KL(p_neighbour || p_item)`` over their nearest neighbours.

    Neighbours lie in the recorded embeddings, or in the pool's features where the recording has none. O(N^2 d) time,
    O(N k) memory for ``k`` neighbours. Paper: Margatina et al. 2021.

    Args:
        per_class: Neighbours and picks within each class instead of the whole pool (default: the whole pool).
        neighbors: ``k``; all others where there are fewer.

    Raises:
        ValueError: On selecting with ``neighbors`` below 1, or without embeddings and features.

    Example:
        >>> import torch
        >>> from lightning_coreset import Pool, Signals, select
        >>> logits = torch.tensor([[4.0, 0.0], [4.0, 0.0], [0.0, 4.0], [4.0, 0.0]])
        >>> pool = Pool(torch.eye(2)[[0, 0, 0, 1]], signals=Signals.from_logits(logits, [0, 0, 0, 0]))
        >>> select(pool, method="cal", budget=1, neighbors=2).indices.tolist()
        [2]
    """

    needs = frozenset({"signals", "features"})

    def __init__(self, *, per_class: bool | None = None, neighbors: int = 10) -> None:
        super().__init__(per_class=per_class)
        self.neighbors = neighbors

    def check(self) -> None:
        """Refuse a divergence from no neighbours."""
        check_whole(neighbors=self.neighbors)

    def work(self, size: int, width: int, count: int, memory_limit: int) -> Work:
        """Neighbour lists of the rows that were seen."""
        listed = neighbor_work(size, width, self.neighbors)
        return listed._replace(bytes=listed.bytes + 4 * size * width)

    def wants_features(self, signals: Signals | None) -> bool:
        """Only where the recording has no embeddings."""
        return signals is None or signals.embeddings is None

    def score(self, group: Group) -> Tensor:
        """Mean divergence of each row's neighbours from it; NaN for rows that no epoch saw."""
        recorded = group.recorded
        rows = group.rows if recorded.embeddings is None else recorded.embeddings.to(group.initial.device)
        seen = torch.isfinite(recorded.logits[:, 0]) & torch.isfinite(rows[:, 0]).cpu()
        logs = recorded.logits[seen].to(torch.float64).log_softmax(dim=1)
        score = torch.full((group.size,), torch.nan, dtype=torch.float64)
        score[seen] = self._divergence(rows[seen.to(rows.device)], logs)
        return score

    def _divergence(self, rows: Tensor, logs: Tensor) -> Tensor:
        count = min(self.neighbors, len(rows) - 1)
        if count < 1:
            return torch.zeros(len(rows), dtype=torch.float64)
        beside = nearest_neighbors(rows, count).indices.cpu()
        entropies = (logs.exp() * logs).sum(dim=1)
        score = torch.zeros(len(rows), dtype=torch.float64)
        # One neighbour of everybody at a time: all of them at once would be N x k x C numbers.
        for column in beside.T:
            score += entropies[column] - (logs[column].exp() * logs).sum(dim=1)
        return score / count
