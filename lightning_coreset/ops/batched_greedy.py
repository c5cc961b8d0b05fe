"""Facility location in many classes at once: one padded tensor, and no host in the loop. Made for GPUs."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_coreset.ops.rows import Ranking, first_argmax, normalize_rows
from lightning_coreset.ops.similarity import SimilarityKind

#: Matrices of ``n^2`` floats that one class takes: similarities, and what is written over and over.
MATRICES = 2

# Picks for which all gains are made anew: the first ones change all of them.
_FULL_STEPS = 8
# Candidates that are evaluated again for each later pick: a tenth of a class, which on embeddings of real images always
# held the best (64 of 1,280 and 128 of 5,000 did not),
_CANDIDATE_SHARE, _FEWEST_CANDIDATES = 10, 64
# where a class has at least so many times as many items.
_WORTH_CANDIDATES = 4


class Chosen(NamedTuple):
    """What was chosen in one class.

    Attributes:
        ranking: Picks as rows of the class, and their gains.
        owners: Which pick represents each row, as a position among the picks ``[n]``.
    """

    ranking: Ranking
    owners: Tensor


class BatchedClasses:
    """Similarities of several classes in one tensor ``[B, n, n]``, smaller classes padded with rows of zeros.

    Args:
        features: Embeddings of each class ``[n_b, d]``, on one device.
        kind: ``"cosine"`` or ``"shifted"``.

    Example:
        >>> classes = BatchedClasses([torch.eye(3), torch.eye(3)[:2]])
        >>> [found.ranking.indices.tolist() for found in classes.greedy([2, 1])]
        [[0, 1], [0]]
    """

    def __init__(self, features: Sequence[Tensor], kind: SimilarityKind = "cosine") -> None:
        self.sizes = [len(rows) for rows in features]
        device, most = features[0].device, max(self.sizes)
        rows = torch.zeros(len(features), most, features[0].shape[1], device=device)
        for place, part in enumerate(features):
            rows[place, : len(part)] = normalize_rows(part)
        self.kind = kind
        #: Which rows are items ``[B, n]``.
        self.items = torch.arange(most, device=device) < torch.tensor(self.sizes, device=device).unsqueeze(1)
        self.similarity = torch.bmm(rows, rows.transpose(1, 2))
        if kind == "shifted":
            self.similarity.add_(1).div_(2)
        # Padding is like nothing, and nothing needs to be like it.
        self.similarity.mul_(self.items.unsqueeze(1)).mul_(self.items.unsqueeze(2))

    def radii(self, neighbors: Sequence[int]) -> Tensor:
        """Distance of each item to its k-th nearest other item ``[B, n]``, with a ``k`` for each class.

        Args:
            neighbors: ``k`` of each class, 1 to ``n_b - 1``; 0 for a class of one item, whose radius is 0.
        """
        wanted = torch.tensor(neighbors, device=self.similarity.device).clamp(min=1)
        others = self.similarity.masked_fill(~self.items.unsqueeze(1), -torch.inf)
        others.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
        nearest = others.topk(int(max(*neighbors, 1)), dim=2).values
        kth = nearest.gather(2, (wanted - 1).view(-1, 1, 1).expand(-1, nearest.shape[1], 1)).squeeze(2)
        cosine = kth * 2 - 1 if self.kind == "shifted" else kth
        return (2 - 2 * cosine).clamp_(min=0).sqrt_().masked_fill_(~torch.isfinite(kth) | ~self.items, 0.0)

    def greedy(
        self,
        counts: Sequence[int],
        *,
        candidate_weights: Tensor | None = None,
        initial: Sequence[Tensor] | None = None,
        forbidden: Sequence[Tensor] | None = None,
    ) -> list[Chosen]:
        """`lightning_coreset.ops.facility_location` in each class.

        The first picks see all gains anew. Then a tenth of the candidates, those with the largest old gains, are
        evaluated again for each pick: gains only shrink, so one of these that is above all old gains is the best.
        Whether that held for every pick of a class is asked once at the end; a class in which it did not is picked from
        again with all gains.

        Args:
            counts: Picks of each class ``k_b``.
            candidate_weights: ``d_j`` ``[B, n]``; None is one.
            initial: Rows of each class whose coverage the first pick starts from.
            forbidden: Rows of each class that may not be picked.

        Returns:
            What was chosen in each class. O((8 + k / 10) sum n^2) time where old gains suffice, O(k sum n^2) more where
            not; ``8 B n^2`` bytes. The host waits once, at the end.
        """
        excluded = ~self.items
        covered = torch.zeros_like(excluded, dtype=torch.float32)
        weights = torch.ones_like(covered) if candidate_weights is None else candidate_weights
        for place, taken in enumerate(initial or ()):
            if len(taken):
                values = self.similarity[place, taken] * weights[place, taken, None]
                covered[place] = torch.maximum(covered[place], values.amax(dim=0))
                excluded[place, taken] = True
        for place, banned in enumerate(forbidden or ()):
            excluded[place, banned] = True
        wanted = torch.tensor(counts, device=covered.device)
        loop = _Loop(self.similarity, weights, covered.clone(), excluded.clone())
        candidates = max(_FEWEST_CANDIDATES, max(self.sizes) // _CANDIDATE_SHARE)
        indices, gains, trusted = loop.run(wanted, max(counts), candidates)
        if again := torch.nonzero(~trusted).flatten().tolist():
            loop = _Loop(self.similarity[again], weights[again], covered[again], excluded[again])
            indices[again], gains[again], _ = loop.run(wanted[again], max(counts), None)
        return [self._chosen(place, indices[place, :count], gains[place, :count]) for place, count in enumerate(counts)]

    def _chosen(self, place: int, indices: Tensor, gains: Tensor) -> Chosen:
        values = self.similarity[place, indices, : self.sizes[place]]
        return Chosen(Ranking(indices, gains), first_argmax(values, dim=0))


class _Loop:
    """Picks in several classes, one in each at a time, all on the device."""

    def __init__(self, similarity: Tensor, weights: Tensor, covered: Tensor, excluded: Tensor) -> None:
        self._similarity = similarity
        self._weights = weights
        self._covered = covered
        self._excluded = excluded
        self._batch = torch.arange(len(covered), device=covered.device)

    def run(self, wanted: Tensor, steps: int, candidates: int | None) -> tuple[Tensor, Tensor, Tensor]:
        """Picks and gains ``[B, steps]``, and whether old gains sufficed for all that a class wants ``[B]``.

        Args:
            wanted: Picks of each class ``[B]``; what comes after them means nothing.
            steps: Most of them.
            candidates: How many are evaluated again for each pick; None: all.
        """
        size = self._covered.shape[1]
        indices = torch.empty(len(self._covered), steps, dtype=torch.int64, device=self._covered.device)
        gains = torch.empty(len(self._covered), steps, device=self._covered.device)
        trusted = torch.ones_like(wanted, dtype=torch.bool)
        scratch: Tensor | None = None
        bounds = self._covered
        for step in range(steps):
            if candidates is None or step < _FULL_STEPS or _WORTH_CANDIDATES * candidates > size:
                scratch = torch.empty_like(self._similarity) if scratch is None else scratch
                torch.mul(self._similarity, self._weights.unsqueeze(2), out=scratch)
                bounds = scratch.sub_(self._covered.unsqueeze(1)).clamp_(min=0).sum(dim=2)
                bounds.masked_fill_(self._excluded, -torch.inf)
                pick = first_argmax(bounds, dim=1)
            else:
                near = bounds.topk(candidates, dim=1).indices
                bounds.scatter_(1, near, self._fresh(near))
                pick = first_argmax(bounds, dim=1)
                # An old gain of zero is exact.
                sure = (near == pick.unsqueeze(1)).any(dim=1) | (self._at(bounds, pick) <= 0)
                trusted &= sure | (wanted <= step)
            indices[:, step], gains[:, step] = pick, self._at(bounds, pick)
            self._excluded.scatter_(1, pick.unsqueeze(1), True)
            bounds.scatter_(1, pick.unsqueeze(1), -torch.inf)
            values = self._similarity[self._batch, pick] * self._at(self._weights, pick).unsqueeze(1)
            torch.maximum(self._covered, values, out=self._covered)
        return indices, gains, trusted

    def _fresh(self, near: Tensor) -> Tensor:
        """Gains of some candidates of each class ``[B, c]``."""
        values = self._similarity[self._batch.unsqueeze(1), near] * self._weights.gather(1, near).unsqueeze(2)
        gains = values.sub_(self._covered.unsqueeze(1)).clamp_(min=0).sum(dim=2)
        return gains.masked_fill_(self._excluded.gather(1, near), -torch.inf)

    @staticmethod
    def _at(values: Tensor, pick: Tensor) -> Tensor:
        return values.gather(1, pick.unsqueeze(1)).squeeze(1)
