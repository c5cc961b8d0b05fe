"""The answer: ordered indices, weights, gains and the manifest that says where they come from."""

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_coreset.errors import CoresetError
from lightning_coreset.storage import read_bytes, write_atomic

_FORMAT = "lightning_coreset.Coreset/1"
_SUFFIXES = (".json", ".csv", ".npz")


@dataclass(frozen=True, eq=False)
class Coreset:
    """The items a selector chose, in the order chosen.

    Attributes:
        indices: Positions in the pool ``[k]``, in the order chosen.
        weights: Weight of each pick ``[k]``, mean 1; times ``manifest["weight_scale"]`` (``N / k``) they are the
            papers' weights. All ones for methods that do not weigh.
        gains: What each pick added to the objective ``[k]``; None for methods without one.
        labels: Class of each pick ``[k]``; None for an unlabelled pool.
        assignment: Position in ``indices`` of the pick that represents each item of the pool ``[N]`` (-1: nothing in
            its class was picked); None for methods without one.
        details: Per-pick columns that explain the choice, each of length ``k``.
        manifest: What was run on what, in JSON types only.

    Example:
        >>> coreset = Coreset(torch.tensor([4, 2, 7]), torch.ones(3), manifest={"ranks": True, "pool_size": 9})
        >>> len(coreset), coreset.head(2).indices.tolist()
        (3, [4, 2])
    """

    indices: Tensor
    weights: Tensor
    gains: Tensor | None = None
    labels: Tensor | None = None
    assignment: Tensor | None = None
    details: dict[str, list[Any]] = field(default_factory=dict)
    manifest: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of picks ``k``."""
        return len(self.indices)

    @property
    def class_counts(self) -> Tensor | None:
        """Picks of each class ``[C]``; None without labels."""
        if self.labels is None:
            return None
        classes = len(self.manifest.get("pool_class_counts") or ())
        return torch.bincount(self.labels, minlength=classes)

    def head(self, count: int) -> "Coreset":
        """The first picks as a coreset of their own.

        For methods whose resolved arguments depend on the whole budget this is not the same as a fresh run with the
        smaller budget; it is a greedy prefix of this run.

        Args:
            count: How many picks to keep, 1 to ``k``.

        Raises:
            ValueError: ``count`` outside 1 to ``k``.
            CoresetError: The method does not rank, so its prefixes mean nothing.
        """
        if not self.manifest.get("ranks", False):
            msg = (
                f"The picks of {self.manifest.get('method')!r} are not ranked, so their first {count} mean "
                f"nothing: select again with budget={count}."
            )
            raise CoresetError(msg)
        if not 1 <= count <= len(self):
            msg = f"head({count}) of a coreset of {len(self)} is not accepted: give 1 to {len(self)}."
            raise ValueError(msg)
        weights = self.weights[:count]
        total = float(weights.sum())
        manifest = self.manifest | {"budget": count}
        if "budget_unit" in manifest:
            # What the whole coreset cost and shows is not said of a part of it.
            manifest = {name: value for name, value in manifest.items() if name not in ("units", "objects", "reserve")}
            manifest["budget_unit"] = "images"
        if "pool_size" in manifest:
            manifest["weight_scale"] = manifest["pool_size"] / count
        return replace(
            self,
            indices=self.indices[:count],
            # A prefix of duplicates can weigh nothing at all: equal weights then say the same.
            weights=weights * (count / total) if total > 0 else torch.ones(count),
            gains=None if self.gains is None else self.gains[:count],
            labels=None if self.labels is None else self.labels[:count],
            assignment=None,
            details={name: column[:count] for name, column in self.details.items()},
            manifest=manifest,
        )

    def request(self, ids: Sequence[str] | Sequence[int] | None = None) -> list[dict[str, Any]]:
        """The picks as an ordered list to label, one line each; labelling may stop at any line.

        Lines marked ``reserve`` follow where units were estimated: they are there to be asked for while labels cost
        less than expected. Every line has its place, the position in the pool, and what ``details`` say of it.

        Args:
            ids: Names of all items of the pool, for the lines to hold.

        Example:
            >>> coreset = Coreset(torch.tensor([4, 2]), torch.ones(2), details={"units": [3.0, 1.0]})
            >>> coreset.request(["a", "b", "c", "d", "e"])[0]
            {'line': 0, 'index': 4, 'id': 'e', 'reserve': False, 'units': 3.0}
        """
        reserve = self.manifest.get("reserve") or {"indices": []}
        parts = ((self.indices.tolist(), self.details, False), (reserve["indices"], reserve, True))
        lines = [
            {"line": 0, "index": index, "id": index if ids is None else ids[index], "reserve": later}
            | {name: column[place] for name, column in columns.items() if name != "indices"}
            for indices, columns, later in parts
            for place, index in enumerate(indices)
        ]
        return [line | {"line": number} for number, line in enumerate(lines)]

    def save(self, path: Any) -> None:
        """Write the coreset as ``.json``, ``.csv`` or ``.npz``, by suffix; the file is there whole or not at all.

        Raises:
            ValueError: Another suffix.
        """
        suffix = _suffix(path)
        content = self.to_plain()
        checksum = _checksum(content)
        if suffix == ".json":
            data = json.dumps({"format": _FORMAT, "checksum": checksum, **content}).encode()
        elif suffix == ".csv":
            data = _to_csv(content, checksum)
        else:
            data = _to_npz(content, checksum)
        write_atomic(path, data)

    @classmethod
    def load(cls, path: Any) -> "Coreset":
        """Read what ``save`` wrote.

        Raises:
            ValueError: Another suffix than ``.json``, ``.csv`` or ``.npz``.
            FileNotFoundError: No such file.
            CoresetError: A damaged file, or one that is not a coreset.
        """
        suffix = _suffix(path)
        data = read_bytes(path)
        readers = {".json": _from_json, ".csv": _from_csv, ".npz": _from_npz}
        try:
            content, checksum = readers[suffix](data)
            if _checksum(content) != checksum:
                msg = "its checksum does not fit its content"
                raise ValueError(msg)
            return cls.from_plain(content)
        except Exception as error:
            cause = " ".join(f"{type(error).__name__}: {error}".split())
            msg = f"{path} is not a coreset or is damaged ({cause}): write it again with Coreset.save, or select again."
            raise CoresetError(msg) from error

    @property
    def summary(self) -> str:
        """One line for a person."""
        told = self.manifest
        return (
            f"Coreset: {len(self)} of {told['pool_size']} train items by {told['method']!r} in {told['seconds']:.1f} s "
            f"(seed {told['seed']})."
        )

    def same_items(self, other: "Coreset") -> bool:
        """Whether both mean the same items in the same order, and the same images where a method made some."""
        made = [coreset.manifest.get("resolved", {}).get("sda") for coreset in (self, other)]
        return torch.equal(self.indices, other.indices) and made[0] == made[1]

    def differences(self, other: "Coreset") -> str:
        """What was asked for otherwise."""
        names = ("method", "arguments", "budget", "seed")
        return ", ".join(name for name in names if self.manifest.get(name) != other.manifest.get(name)) or "other picks"

    def to_state(self) -> dict[str, Any]:
        """For a checkpoint: tensors and primitives only. The assignment of all items is left out."""
        return {
            "indices": self.indices,
            "weights": self.weights,
            "gains": self.gains,
            "labels": self.labels,
            "notes": json.dumps({"details": self.details, "manifest": self.manifest}),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Coreset":
        """What `to_state` gave, on the CPU."""
        names = ("indices", "weights", "gains", "labels")
        columns: dict[str, Any] = {name: None if state[name] is None else state[name].cpu() for name in names}
        return cls(**columns, **json.loads(state["notes"]))

    def to_plain(self) -> dict[str, Any]:
        """All of it in JSON types, for files and for other ranks."""
        columns = {"indices": self.indices, "weights": self.weights, "gains": self.gains, "labels": self.labels}
        content: dict[str, Any] = {
            name: None if column is None else column.tolist() for name, column in columns.items()
        }
        content["assignment"] = None if self.assignment is None else self.assignment.tolist()
        content["details"] = self.details
        content["manifest"] = self.manifest
        # Through JSON and back, so that the checksum sees what a reader will see (tuples become lists).
        plain: dict[str, Any] = json.loads(json.dumps(content))
        return plain

    @classmethod
    def from_plain(cls, content: dict[str, Any]) -> "Coreset":
        """What `to_plain` gave.

        Raises:
            ValueError: Columns that do not fit together.
        """

        def tensor(name: str, dtype: torch.dtype) -> Tensor | None:
            return None if content[name] is None else torch.tensor(content[name], dtype=dtype)

        indices, weights = tensor("indices", torch.int64), tensor("weights", torch.float32)
        if indices is None or weights is None or len(indices) != len(weights) or indices.ndim != 1:
            msg = "indices and weights are missing or of different lengths"
            raise ValueError(msg)
        return cls(
            indices=indices,
            weights=weights,
            gains=tensor("gains", torch.float32),
            labels=tensor("labels", torch.int64),
            assignment=tensor("assignment", torch.int64),
            details=content["details"],
            manifest=content["manifest"],
        )


def _suffix(path: Any) -> str:
    suffix = PurePosixPath(str(path).replace("\\", "/")).suffix.lower()
    if suffix not in _SUFFIXES:
        msg = f"A coreset is stored as {', '.join(_SUFFIXES)}, got {str(path)!r}: change the suffix."
        raise ValueError(msg)
    return suffix


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _to_csv(content: dict[str, Any], checksum: str) -> bytes:
    """Per-pick columns as a table; what has another length goes into one comment line above it."""
    per_pick = {name: content[name] for name in ("indices", "weights", "gains", "labels") if content[name] is not None}
    head = {"format": _FORMAT, "checksum": checksum} | {
        name: content[name] for name in ("manifest", "details", "assignment")
    }
    text = io.StringIO()
    text.write("# " + json.dumps(head) + "\n")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(per_pick)
    table.writerows(zip(*([repr(value) for value in column] for column in per_pick.values()), strict=True))
    return text.getvalue().encode()


def _from_csv(data: bytes) -> tuple[dict[str, Any], str]:
    first, *lines = data.decode().splitlines()
    head = _check_format(json.loads(first.removeprefix("# ")))
    names, *rows = csv.reader(lines)
    columns = list(zip(*rows, strict=True)) or [()] * len(names)
    content = {name: head[name] for name in ("manifest", "details", "assignment")}
    content |= {"gains": None, "labels": None}
    content |= {name: [json.loads(value) for value in column] for name, column in zip(names, columns, strict=True)}
    return content, head["checksum"]


def _to_npz(content: dict[str, Any], checksum: str) -> bytes:
    arrays = {
        name: np.asarray(content[name])
        for name in ("indices", "weights", "gains", "labels", "assignment")
        if content[name] is not None
    }
    head = {"format": _FORMAT, "checksum": checksum, "manifest": content["manifest"], "details": content["details"]}
    buffer = io.BytesIO()
    arrays["head"] = np.frombuffer(json.dumps(head).encode(), dtype=np.uint8)
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the names for flags
    return buffer.getvalue()


def _from_npz(data: bytes) -> tuple[dict[str, Any], str]:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        head = _check_format(json.loads(arrays["head"].tobytes()))
        content = {
            name: arrays[name].tolist() if name in arrays else None
            for name in ("indices", "weights", "gains", "labels", "assignment")
        }
    return content | {"manifest": head["manifest"], "details": head["details"]}, head["checksum"]


def _from_json(data: bytes) -> tuple[dict[str, Any], str]:
    content = _check_format(json.loads(data))
    checksum = content.pop("checksum")
    del content["format"]
    return content, checksum


def _check_format(head: Any) -> dict[str, Any]:
    if not isinstance(head, dict) or head.get("format") != _FORMAT:
        msg = f"it does not say {_FORMAT!r}"
        raise ValueError(msg)
    return head
