"""What comes back from annotators, whatever the file: one `Review` an item, checked before anything is written."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lightning_coreset.active.files import Item
from lightning_coreset.active.pool import Id
from lightning_coreset.errors import CoresetError


@dataclass(frozen=True)
class Review:
    """What a file says of one item.

    Attributes:
        id: The id that the file gives, as it gives it; None where it gives none.
        name: The file name that it gives; None where it gives none.
        target: The label; None where there is none.
        skipped: Whether the annotator gave it up.
    """

    id: Any = None
    name: str | None = None
    target: Any = None
    skipped: bool = False

    @property
    def reviewed(self) -> bool:
        """Whether anybody looked at it."""
        return self.skipped or self.target is not None

    @property
    def shown(self) -> str:
        """For lists of what could not be matched."""
        return repr(self.name if self.id is None else self.id)


@dataclass(frozen=True)
class Ingested:
    """What was taken in from a file.

    Attributes:
        labelled: Ids that got their label.
        empty: Those of them that were reviewed and show no object.
        skipped: Ids that were given up.
        not_reviewed: Ids in the file that nobody has looked at; they stay pending.
        already: Ids whose label was there already, and the same.
        unmatched: Entries of the file that belong to no item that was asked for.
        released: Ids that nobody waits for any more, because the budget is spent.
    """

    labelled: list[Id] = field(default_factory=list)
    empty: list[Id] = field(default_factory=list)
    skipped: list[Id] = field(default_factory=list)
    not_reviewed: list[Id] = field(default_factory=list)
    already: list[Id] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)
    released: list[Id] = field(default_factory=list)

    @property
    def summary(self) -> str:
        """One line for a person."""
        counts = {
            "labelled": len(self.labelled),
            "of them empty": len(self.empty),
            "skipped": len(self.skipped),
            "not reviewed": len(self.not_reviewed),
            "known before": len(self.already),
            "released": len(self.released),
            "unmatched": len(self.unmatched),
        }
        told = ", ".join(f"{count} {word}" for word, count in counts.items() if count or word == "labelled")
        shown = f": {', '.join(self.unmatched[:20])}" if self.unmatched else ""
        return f"{told}{shown}."


class Matcher:
    """Finds the item behind an entry: by id first, then by a name that only one item has.

    Args:
        items: The items that were asked for.

    Example:
        >>> matcher = Matcher([Item(7, 7, "a.png", None), Item("8", 8, "a.png", None)])
        >>> matcher.find("7", None), matcher.find(None, "a.png")
        (7, None)
    """

    def __init__(self, items: list[Item]) -> None:
        self._ids: dict[str, Id] = {}
        names: dict[str, set[Id]] = {}
        for item in items:
            known = self._ids.setdefault(str(item.id), item.id)
            if known != item.id:
                msg = f"The ids {known!r} and {item.id!r} look the same in a file: give ids that differ as text."
                raise CoresetError(msg)
            names.setdefault(item.name, set()).add(item.id)
        self._names = {name: next(iter(found)) for name, found in names.items() if len(found) == 1}

    def find(self, given: Any, name: str | None) -> Id | None:
        """The id of an item; None where nothing fits."""
        if given is not None and str(given) in self._ids:
            return self._ids[str(given)]
        return None if name is None else self._names.get(name)


def matched(reviews: list[Review], matcher: Matcher, path: Any) -> tuple[dict[Id, Review], list[str]]:
    """Reviews by item, and what belongs to none.

    An item that comes twice counts once where both say the same, or where only one of them was reviewed.

    Raises:
        CoresetError: Two entries of one item that say different things; all such items are listed.
    """
    found: dict[Id, Review] = {}
    unmatched, torn = [], []
    for review in reviews:
        name = matcher.find(review.id, review.name)
        if name is None:
            unmatched.append(review.shown)
        elif name not in found or not found[name].reviewed:
            found[name] = review
        elif review.reviewed and not same_target(found[name].target, review.target):
            torn.append(name)
    if torn:
        msg = f"{path} says different things of {torn[:20]}: leave one entry for each of them."
        raise CoresetError(msg)
    return found, unmatched


def same_target(one: Any, other: Any) -> bool:
    """Whether two targets say the same.

    Example:
        >>> same_target({"labels": torch.tensor([1])}, {"labels": torch.tensor([1])}), same_target(1, None)
        (True, False)
    """
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        if not (isinstance(one, Tensor) and isinstance(other, Tensor)) or one.shape != other.shape:
            return False
        # Percentages and pixels do not go into each other without rounding.
        return bool(torch.allclose(one.double(), other.double(), atol=0.01))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same_target(one[key], other[key]) for key in one)
    return bool(one == other)
