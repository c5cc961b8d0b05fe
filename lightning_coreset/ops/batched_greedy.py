"""Facility location in many classes at once: one padded tensor, and no host in the loop. Made for GPUs."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_coreset.ops.rows import Ranking, first_argmax, normalize_rows
from lightning_coreset.ops.similarity import SimilarityKind

#: Matrices of ``n^2`` floats that one class takes: similarities, and what is written over and over.
MATRICES = 2


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
        """`lightning_coreset.ops.facility_location` in each class, all gains again for every pick.

        Args:
            counts: Picks of each class ``k_b``.
            candidate_weights: ``d_j`` ``[B, n]``; None is one.
            initial: Rows of each class whose coverage the first pick starts from.
            forbidden: Rows of each class that may not be picked.

        Returns:
            What was chosen in each class. O(max k_b sum n^2) time, ``8 B n^2`` bytes; nothing waits for the host.
        """
        excluded = ~self.items
        covered = torch.zeros_like(excluded, dtype=torch.float32)
        weighted = 1.0 if candidate_weights is None else candidate_weights.unsqueeze(2)
        scratch = torch.empty_like(self.similarity)
        for place, taken in enumerate(initial or ()):
            if len(taken):
                values = self.similarity[place, taken]
                values = values if candidate_weights is None else values * candidate_weights[place, taken, None]
                covered[place] = torch.maximum(covered[place], values.amax(dim=0))
                excluded[place, taken] = True
        for place, banned in enumerate(forbidden or ()):
            excluded[place, banned] = True
        batch = torch.arange(len(covered), device=covered.device)
        indices = torch.empty(len(covered), max(counts), dtype=torch.int64, device=covered.device)
        gains = torch.empty(len(covered), max(counts), device=covered.device)
        for step in range(max(counts)):
            torch.mul(self.similarity, weighted, out=scratch).sub_(covered.unsqueeze(1)).clamp_(min=0)
            now = scratch.sum(dim=2).masked_fill_(excluded, -torch.inf)
            pick = first_argmax(now, dim=1)
            indices[:, step], gains[:, step] = pick, now.gather(1, pick.unsqueeze(1)).squeeze(1)
            excluded[batch, pick] = True
            values = self.similarity[batch, pick]
            if candidate_weights is not None:
                values = values * candidate_weights.gather(1, pick.unsqueeze(1))
            torch.maximum(covered, values, out=covered)
        return [self._chosen(place, indices[place, :count], gains[place, :count]) for place, count in enumerate(counts)]

    def _chosen(self, place: int, indices: Tensor, gains: Tensor) -> Chosen:
        values = self.similarity[place, indices, : self.sizes[place]]
        return Chosen(Ranking(indices, gains), first_argmax(values, dim=0))
