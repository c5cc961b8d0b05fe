"""Facility location as a selector."""

from typing import Any, Literal

import torch
from torch import Tensor

from lightning_coreset.ops.batched_greedy import MATRICES, BatchedClasses
from lightning_coreset.ops.facility_location import (
    MODES,
    Mode,
    approximate_greedy,
    facility_location_greedy,
    plan_mode,
)
from lightning_coreset.ops.partitioned_greedy import SHELF_ITEMS
from lightning_coreset.ops.sharded import Shards
from lightning_coreset.ops.similarity import SimilarityRows, represented_by, represented_by_rows
from lightning_coreset.selectors.base import Selector
from lightning_coreset.selectors.cost import Work, facility_work
from lightning_coreset.selectors.group import Group, Picks


class FacilityLocation(Selector, name="facility_location"):
    """Items such that every item of the pool has one that is like it; weights say how many each represents.

    Up to 50,000 items in a group (a class, or an unlabelled pool) the picks are those of naive greedy: dense in
    O(n^2 d) time and ``4 n^2`` bytes, streamed in O(n) memory with the same picks. Larger groups are partitioned:
    O(4096 n d + k^2 d) time, ``16 k^2`` bytes. The manifest says which mode ran and why. Papers: Mirzasoleiman et
    al. 2013; Minoux 1978.

    Args:
        per_class: Select in each class (default), or in the whole pool.
        similarity: ``"cosine"`` clamped at 0, or ``"shifted"``, (1 + cosine) / 2.
        mode: ``"dense"``, ``"streamed"``, ``"neighbours"``, ``"partitioned"`` or ``"stochastic"`` (see
            `lightning_coreset.ops.facility_location`); None chooses by size, and by memory between the exact ones.

    Example:
        >>> import torch
        >>> from lightning_coreset import select
        >>> coreset = select(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), method="facility_location", budget=2)
        >>> coreset.indices.tolist(), (coreset.weights * coreset.manifest["weight_scale"]).tolist()
        ([1, 2], [2.0, 1.0])
    """

    weighted = True
    per_class_default = True

    def __init__(
        self,
        *,
        per_class: bool | None = None,
        similarity: Literal["cosine", "shifted"] = "cosine",
        mode: Literal["dense", "streamed", "neighbours", "partitioned", "stochastic"] | None = None,
    ) -> None:
        super().__init__(per_class=per_class)
        self.similarity = similarity
        self.mode: Mode | None = mode

    def check(self) -> None:
        """Refuse unknown words."""
        check_words(similarity=(self.similarity, ("cosine", "shifted")), mode=(self.mode, (*MODES, None)))

    def shard_rows(self, size: int) -> int | None:
        """Ranks hold whole shelves of a pool that is partitioned."""
        return SHELF_ITEMS if plan_mode(size, self.mode).mode == "partitioned" else None

    def work(self, size: int, width: int, count: int, memory_limit: int) -> Work:
        """That of facility location in the mode that will run."""
        return facility_work(plan_mode(size, self.mode, memory_limit), size, width, count)

    def batch_bytes(self, size: int, memory_limit: int) -> int | None:
        """Two matrices, where they fit the limit."""
        needed = 4 * MATRICES * size * size
        return needed if plan_mode(size, self.mode, memory_limit).mode == "dense" and needed <= memory_limit else None

    def select_groups(self, groups: list[Group]) -> list[Picks]:
        """Several classes in one tensor, with the picks of one after the other."""
        if len(groups) == 1:
            return super().select_groups(groups)
        classes = BatchedClasses([group.rows for group in groups], self.similarity)
        return picks_of(classes, groups, None, [{} for _ in groups])

    def select_group(self, group: Group) -> Picks:
        """See `lightning_coreset.ops.facility_location`."""
        plan = plan_mode(group.size, self.mode, group.memory_limit, group.rows.device)
        similarity = SimilarityRows(group.rows, kind=self.similarity, mode=plan.similarity)
        if plan.exact:
            indices, gains = facility_location_greedy(
                similarity, group.count, initial=group.initial, forbidden=group.forbidden, advance=group.advance
            )
        else:
            indices, gains = approximate_greedy(
                group.rows,
                group.count,
                mode=plan.mode,
                similarity=self.similarity,
                initial=group.initial,
                forbidden=group.forbidden,
                seed=group.seed,
                memory_limit=group.memory_limit,
                reducer=group.reducer,
                advance=group.advance,
            )
        resolved = {"mode": plan.mode, "mode_reason": plan.reason}
        return Picks(indices, gains, self._owners(group, similarity, indices), resolved=resolved)

    def _owners(self, group: Group, similarity: SimilarityRows, indices: Tensor) -> Tensor:
        if group.reducer is None:
            return represented_by(similarity, indices)
        shards = Shards(similarity.features, group.reducer)
        ascending, order = indices.sort()
        rows = torch.empty(len(indices), similarity.features.shape[1], device=indices.device)
        rows[order] = shards.at(ascending)
        return torch.cat(group.reducer.gather(represented_by_rows(similarity, rows)))


def picks_of(
    classes: BatchedClasses, groups: list[Group], candidate_weights: Tensor | None, resolved: list[dict[str, Any]]
) -> list[Picks]:
    """Facility location in several classes at once."""
    found = classes.greedy(
        [group.count for group in groups],
        candidate_weights=candidate_weights,
        initial=[group.initial for group in groups],
        forbidden=[group.forbidden for group in groups],
    )
    said = {"mode": "dense", "mode_reason": f"{len(groups)} classes in one tensor"}
    return [
        Picks(one.ranking.indices, one.ranking.gains, one.owners, resolved=told | said)
        for one, told in zip(found, resolved, strict=True)
    ]


def check_words(**given: tuple[object, tuple[object, ...]]) -> None:
    """Refuse values that are not among the accepted ones.

    Raises:
        ValueError: Names the argument, what came and what is accepted.
    """
    for name, (value, accepted) in given.items():
        if value not in accepted:
            msg = f"{name}={value!r} is not accepted: give one of {', '.join(map(repr, accepted))}."
            raise ValueError(msg)
