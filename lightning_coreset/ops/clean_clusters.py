"""How many clusters there must be until enough of them hold nothing that was chosen before."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lightning_coreset.ops.random import seeded_generator
from lightning_coreset.ops.rows import first_argmax, row_blocks, row_keys

Search = Literal["gallop", "linear"]

_RESTARTS = 2
_ITERATIONS = 10
# A round that lowers the inertia by less than this share is the last one.
_GAIN = 1e-2
_GROWTH = 1.05
# Share of the centres that moved above which all rows look at all of them.
_MANY = 0.6
_BLOCK_ROWS = 1_024


class CleanClusters(NamedTuple):
    """Clusters without a chosen row.

    Attributes:
        members: Rows of each, nearest to its centre first; larger clusters first, then by lowest row.
        clusters: ``k`` of the clustering that they come from.
        fits: How many clusterings were made.
    """

    members: list[Tensor]
    clusters: int
    fits: int


def clean_clusters(
    rows: Tensor, taken: Tensor, usable: Tensor, wanted: int, *, seed: int = 0, search: Search = "gallop"
) -> CleanClusters:
    """Cluster rows until ``wanted`` clusters hold no row that is taken, and one that is usable.

    ``k`` climbs the ladder ``k_0 = wanted``, ``k_{t+1} = max(k_t + 1, ceil(1.05 k_t))`` up to the number of distinct
    rows, at which each of them is a cluster. Every clustering is the better of two runs of k-means from seeded
    k-means++ centres, of which those of a smaller ``k`` are the first of those of a larger one.

    Args:
        rows: ``[n, d]``.
        taken: Rows whose cluster is not clean, as a mask ``[n]``.
        usable: Rows of which a clean cluster needs one, as a mask ``[n]``.
        wanted: Clean clusters to find.
        seed: Of the k-means++ draws.
        search: ``"linear"`` climbs the ladder; ``"gallop"`` tries places 0, 1, 3, 7, ... and bisects between the last
            failure and the first success.

    Returns:
        At least ``wanted`` clean clusters, or all there are among distinct rows. A clustering takes O(iterations n k d)
        time, a gallop makes O(log log) of the ladder's length of them; O(n d + k d) memory.

    Example:
        >>> rows = torch.tensor([[0.0], [0.1], [5.0], [5.1], [9.0]])
        >>> taken = torch.tensor([True, False, False, False, False])
        >>> found = clean_clusters(rows, taken, ~taken, 2)
        >>> [members.tolist() for members in found.members], found.clusters
        ([[2, 3], [4]], 3)
    """
    distinct = _distinct(rows)
    most = int(distinct.max()) + 1
    fits = _Fits(rows, taken, usable, seed)
    if wanted > len(_clean(distinct, taken, usable)):
        # No clustering parts rows that are equal, so the top of the ladder is where the search would end.
        return fits.members(distinct, wanted, most)
    ladder = _ladder(wanted, most)
    place = _first_success(lambda step: fits.succeeds(ladder[step], wanted), len(ladder) - 1, search)
    assignment = distinct if ladder[place] == most else fits.assignment(ladder[place])
    return fits.members(assignment, wanted, ladder[place])


def _ladder(start: int, most: int) -> list[int]:
    steps = [start]
    while steps[-1] < most:
        steps.append(min(most, max(steps[-1] + 1, math.ceil(round(_GROWTH * steps[-1], 6)))))
    return steps


def _first_success(succeeds: Callable[[int], bool], last: int, search: Search) -> int:
    """The first place that succeeds, as far as the search can tell; the last one always does."""
    if search == "linear":
        return next(place for place in range(last + 1) if place == last or succeeds(place))
    failure, success, place = -1, last, 0
    while place < last:
        if succeeds(place):
            success = place
            break
        failure, place = place, 2 * place + 1
    while success - failure > 1:
        middle = (failure + success) // 2
        if succeeds(middle):
            success = middle
        else:
            failure = middle
    return success


class _Fits:
    """Clusterings of the same rows with more and more clusters."""

    def __init__(self, rows: Tensor, taken: Tensor, usable: Tensor, seed: int) -> None:
        self._rows = rows.to(torch.float32).contiguous()
        self._squares = (self._rows * self._rows).sum(dim=1)
        self._taken, self._usable = taken, usable
        self._starts = _Starts(self._rows, self._squares, seed)
        self._found: dict[int, Tensor] = {}

    def assignment(self, clusters: int) -> Tensor:
        if clusters not in self._found:
            runs = [self._run(*start) for start in self._starts.first(clusters)]
            # The first of equals.
            self._found[clusters] = min(runs, key=lambda run: run[1])[0]
        return self._found[clusters]

    def succeeds(self, clusters: int, wanted: int) -> bool:
        return len(_clean(self.assignment(clusters), self._taken, self._usable)) >= wanted

    def members(self, assignment: Tensor, wanted: int, clusters: int) -> CleanClusters:
        found = []
        order = torch.argsort(assignment, stable=True)
        parts = order.split(torch.bincount(assignment).tolist())
        for label in _clean(assignment, self._taken, self._usable).tolist():
            # In double precision two rows are equally far from their middle, to the last bit.
            part = self._rows[parts[label]].double()
            away = (part - part.mean(dim=0)).square_().sum(dim=1)
            found.append(parts[label][torch.argsort(away, stable=True)])
        found.sort(key=lambda rows: (-len(rows), int(rows.min())))
        return CleanClusters(found[:wanted], clusters, len(self._found))

    def _run(self, centers: Tensor, nearest: Tensor, away: Tensor) -> tuple[Tensor, float]:
        """Lloyd's rounds, until they gain next to nothing."""
        closeness = (self._squares - away) / 2
        inertia = self._inertia(closeness)
        for _ in range(_ITERATIONS):
            sums = torch.zeros_like(centers).index_add_(0, nearest, self._rows)
            counts = torch.bincount(nearest, minlength=len(centers)).unsqueeze(1)
            moved = torch.where(counts > 0, sums / counts.clamp(min=1), centers)
            changed = (moved != centers).any(dim=1)
            centers, before = moved, inertia
            self._update(centers, changed, nearest, closeness)
            inertia = self._inertia(closeness)
            if inertia >= before * (1 - _GAIN):
                break
        return nearest, inertia

    def _update(self, centers: Tensor, changed: Tensor, nearest: Tensor, closeness: Tensor) -> None:
        """Assign rows anew, where some centres have moved."""
        everything, all_centers = torch.arange(len(nearest)), torch.arange(len(centers))
        few = torch.nonzero(changed).flatten()
        if len(few) > _MANY * len(centers):
            self._look(everything, all_centers, centers, nearest, closeness)
            return
        own = torch.nonzero(changed[nearest]).flatten()
        at = centers[nearest[own]]
        now = (self._rows[own] * at).sum(dim=1) - (at * at).sum(dim=1) / 2
        # Nearer to its own centre than before, a row need not look at those that did not move.
        again = torch.zeros(len(nearest), dtype=torch.bool)
        again[own[now < closeness[own]]] = True
        closeness[own] = now
        self._look(everything[again], all_centers, centers, nearest, closeness)
        self._look(everything[~again], few, centers, nearest, closeness, keep=True)

    def _look(
        self, rows: Tensor, which: Tensor, centers: Tensor, nearest: Tensor, closeness: Tensor, *, keep: bool = False
    ) -> None:
        """The nearest of some centres for some rows; with ``keep`` only where it is nearer than what was known."""
        if not len(rows) or not len(which):
            return
        some = centers[which]
        half = (some * some).sum(dim=1) / 2
        whole = len(rows) == len(self._rows)
        for part in row_blocks(len(rows), _BLOCK_ROWS):
            at = rows[part]
            scores = torch.mm(self._rows[part] if whole else self._rows[at], some.T).sub_(half)
            best = first_argmax(scores, dim=1)
            found = scores.gather(1, best.unsqueeze(1)).squeeze(1)
            if keep:
                better = found > closeness[at]
                at, best, found = at[better], best[better], found[better]
            nearest[at], closeness[at] = which[best], found

    def _inertia(self, closeness: Tensor) -> float:
        return float((self._squares - 2 * closeness).sum(dtype=torch.float64))


class _Starts:
    """K-means++ centres of two runs, drawn once: those of fewer clusters are the first of those of more.

    Drawing tells every row's nearest centre; what each draw changed is kept, so that none is looked for again.
    """

    def __init__(self, rows: Tensor, squares: Tensor, seed: int) -> None:
        self._rows, self._squares = rows, squares
        self._generators = [seeded_generator(seed, "clean clusters", run) for run in range(_RESTARTS)]
        self._picks: list[list[int]] = [[] for _ in self._generators]
        self._changes: list[list[tuple[Tensor, Tensor]]] = [[] for _ in self._generators]
        self._away = torch.full((_RESTARTS, len(rows)), torch.inf)

    def first(self, clusters: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Centres ``[k, d]`` of each run, the nearest one of each row ``[n]``, and its squared distance ``[n]``."""
        while len(self._picks[0]) < clusters:
            self._draw()
        found = []
        for picks, changes in zip(self._picks, self._changes, strict=True):
            nearest = torch.zeros(len(self._rows), dtype=torch.int64)
            away = torch.zeros(len(self._rows))
            for number, (rows, distances) in enumerate(changes[:clusters]):
                nearest[rows], away[rows] = number, distances
            found.append((self._rows[picks[:clusters]], nearest, away))
        return found

    def _draw(self) -> None:
        for run, (picks, draw) in enumerate(zip(self._picks, self._generators, strict=True)):
            if not picks:
                picks.append(int(torch.randint(len(self._rows), (1,), generator=draw)))
                continue
            cumulative = self._away[run].cumsum(0, dtype=torch.float64)
            target = torch.rand(1, generator=draw, dtype=torch.float64) * cumulative[-1]
            # Strictly above the draw, so that a row without a chance is never hit.
            picks.append(int(torch.searchsorted(cumulative, target, right=True).clamp_(max=len(self._rows) - 1)))
        last = torch.tensor([picks[-1] for picks in self._picks])
        # Both runs at once, because reading the rows is what takes the time.
        squares = torch.mm(self._rows, self._rows[last].T).mul_(-2).add_(self._squares.unsqueeze(1))
        squares = squares.add_(self._squares[last]).clamp_(min=0).T.contiguous()
        squares[torch.arange(_RESTARTS), last] = 0
        for run, nearer in enumerate(squares < self._away):
            rows = torch.nonzero(nearer).flatten()
            self._changes[run].append((rows, squares[run, rows]))
            self._away[run, rows] = squares[run, rows]


def _clean(assignment: Tensor, taken: Tensor, usable: Tensor) -> Tensor:
    """Clusters without a taken row and with a usable one, ascending."""
    size = int(assignment.max()) + 1
    dirty = torch.bincount(assignment[taken], minlength=size) > 0
    return torch.nonzero(~dirty & (torch.bincount(assignment[usable], minlength=size) > 0)).flatten()


def _distinct(rows: Tensor) -> Tensor:
    """A number for each row that is the same for equal rows, 0 to distinct - 1 ``[n]``."""
    _, numbers = torch.unique(row_keys(rows.to(torch.float32)), return_inverse=True)
    return torch.as_tensor(numbers)
