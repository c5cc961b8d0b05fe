"""FreeSel: images drawn by how far their local patterns are from those that were drawn."""

import torch

from lightning_coreset.ops.rows import normalize_rows
from lightning_coreset.selectors.base import Selector
from lightning_coreset.selectors.checks import check_whole
from lightning_coreset.selectors.cost import Work
from lightning_coreset.selectors.group import Group, Picks


class FreeSel(Selector, name="freesel"):
    """Draws images with probability in proportion to the squared cosine distance of their most novel local pattern.

    A row holds the patterns of an image one after another; `lightning_coreset.features.LocalPatterns` makes five of a
    network's feature map. The distance of a pattern is that to the nearest pattern of all chosen images, and that of
    an image is its farthest pattern's. The first image is drawn from all. O(k N p^2 d) time for ``p`` patterns of
    width ``d``, O(N p d) memory. A smaller budget with the same seed is a prefix of a larger one. Paper: Xie
    et al. 2023.

    Args:
        per_class: Draw in each class instead of from the whole pool (default: the whole pool).
        patterns: How many vectors a row holds.

    Raises:
        ValueError: On selecting from rows whose width is no multiple of ``patterns``.

    Example:
        >>> from lightning_coreset import select
        >>> rows = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> 2 in select(rows, method="freesel", budget=2).indices.tolist()
        True
    """

    def __init__(self, *, per_class: bool | None = None, patterns: int = 1) -> None:
        super().__init__(per_class=per_class)
        self.patterns = patterns

    def check(self) -> None:
        """Refuse a number of patterns below one."""
        check_whole(patterns=self.patterns)

    def work(self, size: int, width: int, count: int, memory_limit: int) -> Work:
        """Distances to the patterns of each pick; unit rows, made in blocks."""
        memory = 4 * (size + min(size, 8_192)) * width + 8 * (4 + self.patterns) * size
        return Work(2.0 * count * size * width * self.patterns, memory, count)

    def select_group(self, group: Group) -> Picks:
        """Draws from a running distance."""
        size, width = group.rows.shape
        if width % self.patterns:
            msg = f"features of width {width} do not hold patterns={self.patterns} equal vectors: give a divisor of it."
            raise ValueError(msg)
        rows = normalize_rows(group.rows.reshape(size * self.patterns, -1))
        patterns = rows.reshape(size, self.patterns, -1)
        away = torch.full((size * self.patterns,), 2.0, device=rows.device)
        free = group.candidates.clone()
        generator = group.generator()
        for image in group.initial.tolist():
            _cover(away, rows, patterns[image])
        picks: list[int] = []
        for _ in range(group.count):
            chances = away.reshape(size, -1).amax(dim=1).double().square_().cpu().masked_fill_(~free.cpu(), 0)
            if not bool((chances > 0).any()):
                chances = free.cpu().double()
            # The first of exponential waits is a draw by chances, and who else may be drawn does not change a wait.
            waits = torch.empty(size, dtype=torch.float64).exponential_(generator=generator) / chances
            pick = int(torch.argmin(waits.nan_to_num(torch.inf)))
            picks.append(pick)
            free[pick] = False
            _cover(away, rows, patterns[pick])
            if group.advance is not None:
                group.advance(1)
        return Picks(torch.tensor(picks, dtype=torch.int64))


def _cover(away: torch.Tensor, rows: torch.Tensor, patterns: torch.Tensor) -> None:
    """Lower the distance of every pattern to that from the nearest of some patterns."""
    nearest = 1 - (rows @ patterns.T).amax(dim=1)
    # What rounding leaves between equal patterns is no distance.
    torch.minimum(away, torch.where(nearest < 1e-6, 0, nearest), out=away)
