"""Moderate coreset: items at a middling distance from their class mean."""

import torch

from lightning_coreset.ops.rows import column_sum, normalize_rows
from lightning_coreset.selectors.base import Selector
from lightning_coreset.selectors.cost import Work
from lightning_coreset.selectors.group import Group, Picks


class Moderate(Selector, name="moderate"):
    """Items whose distance to the class mean is nearest to the class's median distance.

    The median is the lower one of an even number. O(N d) time and memory. Paper: Xia et al. 2023.

    Args:
        per_class: Mean and median of each class (default), or of the whole pool.

    Example:
        >>> from lightning_coreset import select
        >>> features = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.6, 0.8], [0.0, 1.0]])
        >>> select(features, method="moderate", budget=1).indices.tolist()
        [1]
    """

    per_class_default = True

    def work(self, size: int, width: int, count: int, memory_limit: int) -> Work:
        """Unit rows and their differences from the mean."""
        return Work(20.0 * size * width, 8 * size * width + 32 * size)

    def select_group(self, group: Group) -> Picks:
        """Candidates in ascending distance from the median distance."""
        rows = normalize_rows(group.rows)
        mean = (column_sum(rows) / len(rows)).float()
        distances = torch.linalg.vector_norm(rows - mean, dim=1)
        away = (distances - distances.median()).abs_().masked_fill_(~group.candidates, torch.inf)
        return Picks(torch.argsort(away, stable=True)[: group.count])
