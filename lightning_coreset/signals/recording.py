"""A recording on disk: one small file for each epoch and rank, whole or not there."""

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_coreset.errors import CoresetError
from lightning_coreset.signals.epochs import EpochColumns, whole_signals
from lightning_coreset.signals.files import SUFFIX, read_tensors, write_tensors
from lightning_coreset.signals.signals import Signals
from lightning_coreset.storage import exists, join, list_files, remove

_FORMAT = "1"
_POOL = f"pool{SUFFIX}"
_NAME = re.compile(r"(epoch|latest)-(\d+)\.attempt-(\d+)\.rank-(\d+)-of-(\d+)\.safetensors")


@dataclass(frozen=True, order=True)
class _Part:
    """One rank's file of one epoch."""

    epoch: int
    attempt: int
    rank: int
    ranks: int
    path: str


class Recording:
    """A folder to which ranks append epochs, and from which signals are read.

    Each rank writes the quantities of an epoch (24 bytes an item) and, apart, the logits (``4 C`` bytes an item); of
    the logits only those are kept that no newer epoch replaces. An epoch counts once all ranks have written it. Every
    start of training is an attempt: the epochs of an attempt replace those of earlier ones from its first epoch on, so
    that a run that was killed and resumed leaves one history. Ranks on several machines need a folder that all see.

    Args:
        folder: Folder or fsspec URL.

    Example:
        >>> recording = Recording("memory://example-recording")
        >>> attempt = recording.begin(torch.tensor([0, 1]))
        >>> seen = {"losses": torch.ones(1), "margins": torch.ones(1), "errors": torch.ones(1),
        ...         "correct": torch.ones(1, dtype=torch.int8)}
        >>> recording.append(EpochColumns(torch.tensor([1]), seen, {"logits": torch.eye(2)[:1]}), 0, attempt)
        >>> Recording("memory://example-recording").signals().losses.tolist()
        [[nan, 1.0]]
    """

    def __init__(self, folder: Any) -> None:
        self.folder = str(folder)

    def begin(self, labels: Tensor) -> int:
        """Start an attempt; called by the first rank only.

        Args:
            labels: Class of each item of the pool ``[N]``.

        Returns:
            The number of the attempt.

        Raises:
            CoresetError: The folder holds the recording of another dataset.
        """
        path = join(self.folder, _POOL)
        if exists(path):
            recorded = self._labels()
            if not torch.equal(recorded, labels):
                msg = (
                    f"{self.folder} holds the recording of another train dataset ({len(recorded)} items, here "
                    f"{len(labels)}, or other labels): give another path, or delete the folder."
                )
                raise CoresetError(msg)
        else:
            write_tensors(path, {"labels": labels}, {"format": _FORMAT})
        return 1 + max((part.attempt for part in self._parts("epoch")), default=0)

    def append(self, seen: EpochColumns, epoch: int, attempt: int, rank: int = 0, ranks: int = 1) -> None:
        """Write what a rank saw in an epoch.

        Raises:
            OSError: The place cannot be written; earlier epochs are untouched.
        """
        name = f"-{epoch:06d}.attempt-{attempt:04d}.rank-{rank:05d}-of-{ranks:05d}{SUFFIX}"
        note = {"format": _FORMAT}
        # The epoch last: a reader that finds it finds its logits too.
        write_tensors(join(self.folder, f"latest{name}"), {"positions": seen.positions, **seen.latest}, note)
        write_tensors(join(self.folder, f"epoch{name}"), {"positions": seen.positions, **seen.columns}, note)

    def prune(self) -> None:
        """Delete logits that newer ones replace; called by the first rank only, between epochs."""
        covered: Tensor | None = None
        kept = self._history()
        for parts in reversed(kept):
            positions = [self._read(part)["positions"] for part in parts]
            if covered is None:
                covered = torch.zeros(len(self._labels()), dtype=torch.bool)
            replaced = all(bool(covered[part].all()) for part in positions)
            for part, where in zip(parts, positions, strict=True):
                covered[where] = True
                if replaced:
                    remove(_beside(part))
        # What earlier attempts left of epochs that count no more.
        counted = {part.path for parts in kept for part in parts}
        newest = max((part.attempt for parts in kept for part in parts), default=0)
        for part in self._parts("epoch"):
            if part.path not in counted and part.attempt < newest:
                remove(part.path)
                remove(_beside(part))

    def signals(self) -> Signals:
        """All epochs so far as signals of the whole pool.

        Returns:
            One row for each recorded epoch. O(E N + N C) time and memory.

        Raises:
            CoresetError: No recording, no whole epoch in it, or a damaged file.
        """
        labels = self._labels()
        history = self._history()
        if not history:
            msg = f"{self.folder} holds no whole epoch: record one, on all ranks, before reading."
            raise CoresetError(msg)
        return whole_signals(labels, ([self._columns(part) for part in parts] for parts in history))

    @property
    def epochs(self) -> list[int]:
        """Numbers of the epochs that count."""
        return [parts[0].epoch for parts in self._history()]

    def _labels(self) -> Tensor:
        path = join(self.folder, _POOL)
        if not exists(path):
            msg = f"{self.folder} is no recording ({_POOL} is not there): give the folder of a TrainingDynamics."
            raise CoresetError(msg)
        tensors, note = read_tensors(path)
        if note.get("format") != _FORMAT:
            msg = f"{path} has format {note.get('format')!r}, {_FORMAT!r} is accepted: record again."
            raise CoresetError(msg)
        return tensors["labels"]

    def _parts(self, kind: str) -> list[_Part]:
        found = []
        for path in list_files(self.folder, SUFFIX):
            match = _NAME.fullmatch(path.rsplit("/", 1)[-1])
            if match and match[1] == kind:
                epoch, attempt, rank, ranks = (int(number) for number in match.groups()[1:])
                found.append(_Part(epoch, attempt, rank, ranks, path))
        return sorted(found)

    def _history(self) -> list[list[_Part]]:
        """Files of the epochs that count, in order."""
        written: dict[tuple[int, int], list[_Part]] = {}
        for part in self._parts("epoch"):
            written.setdefault((part.attempt, part.epoch), []).append(part)
        whole = {key: parts for key, parts in written.items() if len(parts) == parts[0].ranks}
        history: dict[int, list[_Part]] = {}
        for attempt in sorted({attempt for attempt, _ in whole}):
            own = {epoch: parts for (number, epoch), parts in whole.items() if number == attempt}
            history = {epoch: parts for epoch, parts in history.items() if epoch < min(own)} | own
        return [history[epoch] for epoch in sorted(history)]

    def _columns(self, part: _Part) -> EpochColumns:
        columns = self._read(part)
        positions = columns.pop("positions")
        path = _beside(part)
        latest: dict[str, Tensor] = {}
        if exists(path):
            latest, _ = read_tensors(path)
            latest.pop("positions")
        return EpochColumns(positions, columns, latest)

    def _read(self, part: _Part) -> dict[str, Tensor]:
        return read_tensors(part.path)[0]


def _beside(part: _Part) -> str:
    """The file of the logits that belong to a part."""
    folder, name = part.path.rsplit("/", 1)
    return join(folder, name.replace("epoch-", "latest-", 1))
