"""The truth of a labelled pool: an append-only file of JSON lines that survives any crash."""

import json
import os
import warnings
from pathlib import Path
from typing import Any

from filelock import FileLock

from lightning_coreset.errors import CoresetError

Event = dict[str, Any]


class Journal:
    """Appends events to a file, each as one line that is on the disk before `append` returns.

    A last line that a crash cut off is dropped with a warning, and cut from the file when the next one is written.
    A damaged line before the last is an error: what follows it may depend on it.

    Args:
        path: A local file; its folder is made where there is none.

    Raises:
        ValueError: A URL.

    Example:
        >>> import tempfile
        >>> journal = Journal(Path(tempfile.mkdtemp(), "journal.jsonl"))
        >>> journal.append({"event": "label", "ids": [3]})
        >>> journal.read()
        [{'event': 'label', 'ids': [3]}]
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if "://" in str(path):
            msg = f"journal={str(path)!r} is not accepted: give a file on a local disk, which can be appended to."
            raise ValueError(msg)
        self.path = Path(path)
        self._whole = 0
        self._dropped_at: int | None = None

    @property
    def is_empty(self) -> bool:
        """Whether no whole line was read or written yet."""
        return self._whole == 0

    def lock(self) -> FileLock:
        """Held while the file is read and appended to, so that two processes take turns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(f"{self.path}.lock")

    def read(self) -> list[Event]:
        """All events.

        Raises:
            CoresetError: A damaged line before the last one.
        """
        self._whole = 0
        return self.read_new()

    def read_new(self) -> list[Event]:
        """Events that were written since the last look, by this process or another.

        Raises:
            CoresetError: A damaged line before the last one, or the file became shorter.
        """
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            if size < self._whole:
                msg = f"{self.path} became shorter while it was in use: put it back as it was, or start with a new one."
                raise CoresetError(msg)
            file.seek(self._whole)
            data = file.read()
        found = []
        lines = data.split(b"\n")
        for place, line in enumerate(lines):
            # Without its newline a line was not written whole, whatever it says.
            event = _parsed(line) if place < len(lines) - 1 else None
            if event is not None:
                found.append(event)
                self._whole += len(line) + 1
                continue
            if line or place < len(lines) - 1:
                self._refuse_or_drop(line, rest=b"\n".join(lines[place + 1 :]))
            break
        return found

    def _refuse_or_drop(self, line: bytes, rest: bytes) -> None:
        if rest.strip():
            msg = (
                f"{self.path} is damaged at byte {self._whole}: {line[:60]!r} is no event, and others follow it; mend "
                "that line by hand, or go back to a copy."
            )
            raise CoresetError(msg)
        if self._dropped_at == self._whole:
            return
        self._dropped_at = self._whole
        warnings.warn(
            f"The last line of {self.path} was not written whole and is dropped: {line[:60]!r}. What it said did not "
            "happen.",
            stacklevel=4,
        )

    def append(self, event: Event) -> None:
        """Add an event after the last whole line; it is on the disk when this returns.

        Raises:
            OSError: The disk is full or cannot be written.
        """
        line = json.dumps(event, allow_nan=False).encode() + b"\n"
        new = not self.path.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            # Cuts off what a crash, or a full disk just now, left of another line.
            os.ftruncate(descriptor, self._whole)
            os.lseek(descriptor, self._whole, os.SEEK_SET)
            written = 0
            while written < len(line):
                written += os.write(descriptor, line[written:])
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._whole += len(line)
        if new:
            _sync_folder(self.path.parent)


def _parsed(line: bytes) -> Event | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "event" in event else None


def _sync_folder(folder: Path) -> None:
    """Else the name of a new file may be lost with the power; not every system can open folders."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
