"""LabelledPool: which items are labelled, asked for, left out or free, and how they came to be so."""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from lightning_coreset.active.journal import Event, Journal
from lightning_coreset.active.plain import from_plain, to_plain
from lightning_coreset.distributed import current_reducer, gather_json, together
from lightning_coreset.errors import CoresetError
from lightning_coreset.ops.reducer import Reducer

_FORMAT = "lightning_coreset.LabelledPool/1"
_UNLABELLED, _PENDING, _LABELLED, _SKIPPED = range(4)
_WORDS = ("unlabelled", "pending", "labelled", "skipped")
#: From which states an event may take an item, and to which.
_MOVES = {
    "request": ((_UNLABELLED,), _PENDING),
    "label": ((_UNLABELLED, _PENDING, _SKIPPED), _LABELLED),
    "skip": ((_UNLABELLED, _PENDING), _SKIPPED),
    "unlabel": ((_PENDING, _LABELLED, _SKIPPED), _UNLABELLED),
}

Id = int | str


class LabelledPool:
    """The items of a dataset by what is known of them: unlabelled, pending (asked for), labelled or skipped.

    Items go by global ids, which never change: their names, or their positions in the dataset. Every change is an
    event; with a journal it is on the disk before the call returns, and a new pool on the same journal stands where
    the last one stood. Nothing changes where a call is refused. Under DDP every rank makes the same calls, and the
    first one writes.

    Args:
        n: Number of items ``N``.
        ids: ``N`` unique str or int; None takes the positions 0 to N-1.
        journal: A file of JSON lines on a local disk; None keeps the events in memory (checkpoints hold them too).

    Attributes:
        history: All events, oldest first, in JSON types.
        targets: What annotators returned, by id. Items without an entry have the dataset's own target.

    Raises:
        ValueError: ``n`` or ``ids`` that are not accepted.
        CoresetError: A journal of another pool, or a damaged one.

    Example:
        >>> pool = LabelledPool(4)
        >>> pool.request([2, 0])
        >>> pool.label([2], targets=[7], units=3)
        >>> pool.labelled, pool.pending, pool.unlabelled, pool.units_spent
        ([2], [0], [1, 3], 3)
    """

    def __init__(
        self, n: int, ids: Sequence[Id] | None = None, journal: str | os.PathLike[str] | Journal | None = None
    ) -> None:
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            msg = f"n={n!r} is not accepted: give the number of items, at least 1."
            raise ValueError(msg)
        self.n = n
        self.ids: list[Id] = list(range(n)) if ids is None else [_as_id(name) for name in ids]
        self._places = {name: place for place, name in enumerate(self.ids)}
        if len(self.ids) != n or len(self._places) != n:
            msg = (
                f"ids hold {len(self.ids)} names, {len(self._places)} of them distinct, for n={n} items: give one "
                "unique name per item."
            )
            raise ValueError(msg)
        self._forget()
        self._head: Event = {"event": "pool", "format": _FORMAT, "n": n, "ids": None if ids is None else self.ids}
        self._guard: Callable[[str], None] | None = None
        self.journal = journal if isinstance(journal, Journal) or journal is None else Journal(journal)
        if self.journal is not None:
            self._take(self.journal.read())

    @classmethod
    def opened(cls, journal: str | os.PathLike[str]) -> "LabelledPool":
        """The pool of a journal that is there.

        Raises:
            FileNotFoundError: No such file.
            CoresetError: A file that is no journal of a pool.
        """
        found = Journal(journal)
        if not found.path.exists():
            msg = f"{found.path} does not exist: give the journal of an ActiveLearningDataModule."
            raise FileNotFoundError(msg)
        head = next(iter(found.read()), {})
        if head.get("format") != _FORMAT:
            msg = f"{found.path} is not the journal of a pool: give the journal of an ActiveLearningDataModule."
            raise CoresetError(msg)
        return cls(head["n"], head["ids"], found)

    @property
    def labelled(self) -> list[Id]:
        """Ids of the labelled items, in the order of the dataset; so are the other lists."""
        return self._in_state(_LABELLED)

    @property
    def unlabelled(self) -> list[Id]:
        """Ids that are neither labelled nor asked for nor skipped."""
        return self._in_state(_UNLABELLED)

    @property
    def pending(self) -> list[Id]:
        """Ids that were asked for and have no answer yet."""
        return self._in_state(_PENDING)

    @property
    def skipped(self) -> list[Id]:
        """Ids that nobody will label: broken or unclear items."""
        return self._in_state(_SKIPPED)

    @property
    def n_labelled(self) -> int:
        """Number of labelled items."""
        return int((self._states == _LABELLED).sum())

    @property
    def n_pending(self) -> int:
        """Number of items that were asked for and have no answer yet."""
        return int((self._states == _PENDING).sum())

    @property
    def round(self) -> int:
        """The latest round of any event; 0 before the first."""
        return self._round

    @property
    def units_spent(self) -> float:
        """Units of all labels ever given; taking a label back does not bring the money back."""
        return sum(self._units.values())

    @property
    def units_by_class(self) -> dict[str, float]:
        """Units of each class, where labels came with units by class; others are under ``""``."""
        return dict(sorted(self._units.items()))

    def positions(self, ids: Iterable[Id]) -> Tensor:
        """Positions in the dataset ``[m]``.

        Raises:
            ValueError: Unknown ids.
        """
        names = _as_ids(ids)
        unknown = [name for name in names if name not in self._places]
        if unknown:
            msg = f"{_listed(unknown)} unknown to this pool of {self.n} items: give ids that it has."
            raise ValueError(msg)
        return torch.tensor([self._places[name] for name in names], dtype=torch.int64)

    def state_of(self, name: Id) -> str:
        """``"unlabelled"``, ``"pending"``, ``"labelled"`` or ``"skipped"``."""
        return _WORDS[int(self._states[self.positions([name])])]

    def mask(self, *states: str) -> Tensor:
        """Which positions are in one of the states ``[N]``."""
        return torch.isin(self._states, torch.tensor([_WORDS.index(state) for state in states], dtype=torch.int8))

    def request(self, ids: Iterable[Id], round: int | None = None, about: Mapping[str, Any] | None = None) -> None:
        """Ask for labels of unlabelled items.

        Args:
            ids: The items, the most wanted first.
            round: The round that asks; None is the current one.
            about: What chose them, in JSON types.

        Raises:
            ValueError: Unknown or repeated ids, or items that are not unlabelled; all are listed.
        """
        self._change("request", ids, round, {} if about is None else {"about": dict(about)})

    def label(
        self,
        ids: Iterable[Id],
        targets: Sequence[Any] | Mapping[Id, Any] | Tensor | None = None,
        round: int | None = None,
        units: float | Sequence[Any] | Mapping[Any, Any] | None = None,
    ) -> None:
        """Take labels in.

        Args:
            ids: Items that are not labelled yet, whether they were asked for or not.
            targets: One for each id, in their order or by id; they overlay the dataset's. None: the dataset's count.
            round: The round they belong to; None is the current one.
            units: What each cost, in the order of the ids or by id: a number, or numbers by class; one number is that
                of the whole call. None is one unit an item.

        Raises:
            ValueError: Unknown, repeated or already labelled ids, or columns of another length; all are listed.
            TypeError: Targets that cannot be written down.
        """
        names = _as_ids(ids)
        more: dict[str, Any] = {}
        if targets is not None:
            more["targets"] = [to_plain(value) for value in _column(targets, names, "targets")]
        if units is not None:
            more["units"] = _plain_units(units, names)
        self._change("label", names, round, more)

    def skip(self, ids: Iterable[Id], round: int | None = None) -> None:
        """Leave items out for good (`unlabel` brings them back).

        Raises:
            ValueError: Unknown or repeated ids, or items that are labelled or skipped; all are listed.
        """
        self._change("skip", ids, round, {})

    def unlabel(self, ids: Iterable[Id], round: int | None = None) -> None:
        """Make items unlabelled again: wrong labels, requests that nobody will answer, skipped items.

        Raises:
            ValueError: Unknown or repeated ids, or items that are unlabelled; all are listed.
        """
        self._change("unlabel", ids, round, {})

    def note(self, **what: Any) -> None:
        """Write down something that is no change of items, such as the key of the dataset."""
        self._write({"event": "note", **what})

    def notes(self, name: str) -> list[Any]:
        """What notes say under a name, oldest first."""
        return [event[name] for event in self.history if event["event"] == "note" and name in event]

    def refresh(self) -> None:
        """Take in what another process wrote to the journal, such as ``lightning-coreset label ingest``."""
        if self.journal is not None and self._writes:
            # Else a line that is just being written would look torn.
            with self.journal.lock():
                self._take(self.journal.read_new())

    def synchronise(self, reducer: Reducer) -> None:
        """Let every rank hold what the first rank's journal says; all ranks call it."""
        with together(reducer, "reading the journal"):
            if reducer.rank == 0:
                self.refresh()
        if reducer.world_size == 1:
            return
        told = gather_json(reducer, self.history if reducer.rank == 0 else None)[0]
        if told != self.history:
            # Another process may have written to the journal that only the first rank reads.
            self.adopt(told)

    def replay(self, events: Sequence[Event]) -> None:
        """Go on from what a checkpoint says.

        Args:
            events: A history that this one is the beginning of, or that is the beginning of this one; what is missing
                here is written to the journal.

        Raises:
            CoresetError: Two histories that went different ways.
        """
        common = min(len(events), len(self.history))
        first = next((place for place in range(common) if events[place] != self.history[place]), None)
        if first is not None:
            msg = (
                f"The checkpoint's labels and the journal's differ from event {first + 1} on "
                f"({json.dumps(events[first])[:60]} and {json.dumps(self.history[first])[:60]}): resume with the "
                "journal that the checkpoint was made with, or start without ckpt_path."
            )
            raise CoresetError(msg)
        for event in list(events)[common:]:
            self._write(event)

    def adopt(self, events: Sequence[Event]) -> None:
        """Forget this history for another one; for pools whose truth is elsewhere."""
        self._forget()
        for event in events:
            self._apply(event)

    def guard(self, check: Callable[[str], None] | None) -> None:
        """Let ``check(event)`` refuse changes at times when they would come to nothing; None ends it."""
        self._guard = check

    @property
    def _writes(self) -> bool:
        """Whether this process is the one that writes: also before there is a process group."""
        return getattr(rank_zero_only, "rank", 0) in (0, None) and current_reducer().rank == 0

    def _forget(self) -> None:
        self._states = torch.zeros(self.n, dtype=torch.int8)
        self.targets: dict[Id, Any] = {}
        self.history: list[Event] = []
        self._units: dict[str, float] = {}
        self._round = 0

    def _in_state(self, state: int) -> list[Id]:
        return [self.ids[place] for place in torch.nonzero(self._states == state).flatten().tolist()]

    def _change(self, kind: str, ids: Iterable[Id], round: int | None, more: dict[str, Any]) -> None:
        if round is not None and (isinstance(round, bool) or not isinstance(round, int) or round < -1):
            msg = f"round={round!r} is not accepted: give a whole number, 0 for the first round, or leave it out."
            raise ValueError(msg)
        names = _as_ids(ids)
        if not names:
            return
        if self._guard is not None:
            self._guard(kind)
        self._write({"event": kind, "round": self._round if round is None else round, "ids": names, **more}, check=True)

    def _check(self, event: Event) -> None:
        """Refuse an event that does not fit, and say which ids and why.

        Raises:
            ValueError: All ids that are unknown, repeated, or in a state that the event does not start from.
        """
        names = event["ids"]
        places = self.positions(names)
        counts: dict[Id, int] = {}
        for name in names:
            counts[name] = counts.get(name, 0) + 1
        doubled = [name for name, count in counts.items() if count > 1]
        if doubled:
            msg = f"{_listed(doubled)} given more than once: give each id once."
            raise ValueError(msg)
        allowed, _ = _MOVES[event["event"]]
        wrong = [(name, int(state)) for name, state in zip(names, self._states[places], strict=True)]
        wrong = [(name, state) for name, state in wrong if state not in allowed]
        if wrong:
            found = " and ".join(
                f"{_listed([name for name, state in wrong if state == kind])} {_WORDS[kind]} already"
                if kind != _UNLABELLED
                else f"{_listed([name for name, state in wrong if state == kind])} unlabelled"
                for kind in sorted({state for _, state in wrong})
            )
            accepted = " or ".join(_WORDS[state] for state in allowed)
            msg = f"{event['event']} takes {accepted} items, and {found}: leave them out."
            raise ValueError(msg)

    def _write(self, event: Event, *, check: bool = False) -> None:
        """Put an event on the disk, then let it happen."""
        # What is written must be what a reader will see.
        event = json.loads(json.dumps(event))
        if self.journal is None or not self._writes:
            if check:
                self._check(event)
            self._apply(event)
            return
        with self.journal.lock():
            self._take(self.journal.read_new())
            if check:
                self._check(event)
            if self.journal.is_empty:
                self.journal.append(self._head)
            self.journal.append(event)
        self._apply(event)

    def _take(self, events: list[Event]) -> None:
        for event in events:
            if event["event"] != "pool":
                self._apply(event)
            elif event != self._head:
                assert self.journal is not None
                what = "other ids" if event.get("n") == self.n else f"{event.get('n')} items"
                msg = (
                    f"{self.journal.path} is the journal of a pool with {what}, and this one has {self.n}: give the "
                    "dataset it was made with, or another journal."
                )
                raise CoresetError(msg)

    def _apply(self, event: Event) -> None:
        self.history.append(event)
        if event["event"] not in _MOVES:
            return
        names = event["ids"]
        self._states[self.positions(names)] = _MOVES[event["event"]][1]
        self._round = max(self._round, event["round"])
        if event["event"] == "unlabel":
            for name in names:
                self.targets.pop(name, None)
        if event["event"] == "label":
            if "targets" in event:
                self.targets |= dict(zip(names, map(from_plain, event["targets"]), strict=True))
            for units in event.get("units", [1] * len(names)):
                for kind, amount in (units if isinstance(units, dict) else {"": units}).items():
                    self._units[kind] = self._units.get(kind, 0) + amount


def _as_ids(ids: Iterable[Any]) -> list[Id]:
    if isinstance(ids, str):
        msg = f"ids={ids!r} is one name; a list is accepted: give [{ids!r}]."
        raise ValueError(msg)
    return [_as_id(name) for name in ids]


def _as_id(name: Any) -> Id:
    if isinstance(name, Tensor) and name.numel() == 1:
        name = name.item()
    if hasattr(name, "item") and not isinstance(name, str):
        name = name.item()
    if isinstance(name, bool) or not isinstance(name, int | str):
        msg = f"The id {name!r} is a {type(name).__name__}: give a str or an int."
        raise ValueError(msg)
    return name


def _listed(names: list[Id]) -> str:
    """Ids for a message, all of them as far as a line can hold them."""
    shown = ", ".join(map(repr, names[:20]))
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return f"{'id' if len(names) == 1 else 'ids'} {shown}{more} {'is' if len(names) == 1 else 'are'}"


def _column(values: Any, names: list[Id], what: str) -> list[Any]:
    """One value for each id, in their order."""
    if isinstance(values, Mapping):
        known = set(names)
        missing = [name for name in names if name not in values]
        foreign = [name for name in values if name not in known]
        if missing or foreign:
            msg = f"{what} by id lack or do not know {(missing or foreign)[:20]}: give one for each id."
            raise ValueError(msg)
        return [values[name] for name in names]
    column = list(values)
    if len(column) != len(names):
        msg = f"{what} hold {len(column)} for {len(names)} ids: give one for each."
        raise ValueError(msg)
    # A class came as an element of a tensor is the number.
    return [value.item() if isinstance(value, Tensor) and value.ndim == 0 else value for value in column]


def _plain_units(units: Any, names: list[Id]) -> list[Any]:
    if isinstance(units, int | float) and not isinstance(units, bool):
        share = units / len(names) if names and units % len(names) else units // max(1, len(names))
        units = [share] * len(names)
    column = [to_plain(value) for value in _column(units, names, "units")]
    for name, value in zip(names, column, strict=True):
        amounts = list(value.values()) if isinstance(value, dict) else [value]
        if not all(
            isinstance(amount, int | float) and not isinstance(amount, bool) and amount >= 0 for amount in amounts
        ):
            msg = f"The units of id {name!r} are {value!r}: give a number of at least 0, or such numbers by class."
            raise ValueError(msg)
    return column
