"""From the picks of single groups, on any rank, to one answer that every rank holds."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_coreset.distributed import gather_json
from lightning_coreset.ops.reducer import Reducer
from lightning_coreset.selectors.group import Picks


@dataclass(frozen=True)
class Merged:
    """Columns of a coreset, in pool positions."""

    indices: Tensor
    weights: Tensor
    gains: Tensor | None
    assignment: Tensor | None
    details: dict[str, list[Any]]


def gather_picks(reducer: Reducer, picks: dict[int, Picks]) -> dict[int, Picks]:
    """The picks of all groups, by class in ascending order, on every rank; only answers travel, no features."""
    labels = sorted(picks)
    lists = [picks[label] for label in labels]
    notes = gather_json(
        reducer,
        [
            {
                "label": label,
                "picks": len(found.indices),
                "gains": found.gains is not None,
                "weights": found.weights is not None,
                "items": None if found.assignment is None else len(found.assignment),
                "details": found.details,
                "resolved": found.resolved,
                "told": found.told,
            }
            for label, found in zip(labels, lists, strict=True)
        ],
    )
    indices = reducer.gather(_joined([found.indices for found in lists], torch.int64))
    gains = reducer.gather(_joined([found.gains for found in lists], torch.float32))
    assignments = reducer.gather(_joined([found.assignment for found in lists], torch.int64))
    weights = reducer.gather(_joined([found.weights for found in lists], torch.float64))
    merged: dict[int, Picks] = {}
    for rank, rank_notes in enumerate(notes):
        columns = [_Reader(column[rank]) for column in (indices, gains, assignments, weights)]
        for note in rank_notes:
            merged[note["label"]] = Picks(
                indices=columns[0].take(note["picks"]),
                gains=columns[1].take(note["picks"]) if note["gains"] else None,
                assignment=None if note["items"] is None else columns[2].take(note["items"]),
                weights=columns[3].take(note["picks"]) if note["weights"] else None,
                details=note["details"],
                resolved=note["resolved"],
                told=note["told"],
            )
    return dict(sorted(merged.items()))


def in_seat_order(
    picks: dict[int, Picks], seats: Tensor, members: list[Tensor], size: int, *, weighted: bool
) -> Merged:
    """Lay the picks of each class on its seats.

    Args:
        picks: Picks of each class, rows of its group.
        seats: Class of each seat ``[k]``.
        members: Pool positions of each class.
        size: Items of the pool, ``N``.
        weighted: Whether picks are weighted: as they say themselves, else by how many items each represents.
    """
    total = len(seats)
    indices = torch.empty(total, dtype=torch.int64)
    gains = torch.empty(total) if all(found.gains is not None for found in picks.values()) else None
    assignment = (
        torch.full((size,), -1, dtype=torch.int64)
        if all(found.assignment is not None for found in picks.values())
        else None
    )
    own = (
        torch.empty(total, dtype=torch.float64) if all(found.weights is not None for found in picks.values()) else None
    )
    details: dict[str, list[Any]] = {name: [None] * total for found in picks.values() for name in found.details}
    for label, found in picks.items():
        places = torch.nonzero(seats == label).flatten()
        indices[places] = members[label][found.indices]
        if gains is not None and found.gains is not None:
            gains[places] = found.gains
        if own is not None and found.weights is not None:
            own[places] = found.weights
        if assignment is not None and found.assignment is not None:
            assignment[members[label]] = places[found.assignment]
        for name, column in found.details.items():
            for place, value in zip(places.tolist(), column, strict=True):
                details[name][place] = value
    if own is None and assignment is not None:
        own = torch.bincount(assignment[assignment >= 0], minlength=total).to(torch.float64)
    weights = torch.ones(total) if own is None or not weighted else (own * (total / own.sum())).float()
    return Merged(indices, weights, gains, assignment, details)


def _joined(columns: list[Tensor | None] | list[Tensor], dtype: torch.dtype) -> Tensor:
    present = [column.detach().cpu().to(dtype) for column in columns if column is not None]
    return torch.cat([torch.empty(0, dtype=dtype), *present])


class _Reader:
    """Takes one column apart again."""

    def __init__(self, column: Tensor) -> None:
        self._column = column
        self._place = 0

    def take(self, count: int) -> Tensor:
        part = self._column[self._place : self._place + count]
        self._place += count
        return part
