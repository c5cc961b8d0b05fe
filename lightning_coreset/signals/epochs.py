"""From what ranks recorded of epochs to signals of a whole pool."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_coreset.signals.recorder import EpochRecord
from lightning_coreset.signals.signals import Signals, per_sample

#: Columns of one epoch, and what an item has there that was not seen.
COLUMNS = {"losses": torch.nan, "margins": torch.nan, "correct": -1, "errors": torch.nan, "feature_norms": torch.nan}
_ROWS = 16_384


@dataclass(frozen=True, eq=False)
class EpochColumns:
    """What an epoch told of the items seen in it, each once, ascending.

    Attributes:
        positions: Which item ``[n]``.
        columns: ``losses``, ``margins``, ``correct``, ``errors``, and where recorded ``feature_norms``, each ``[n]``.
        latest: ``logits`` ``[n, C]``, and where recorded ``embeddings`` ``[n, h]``.
    """

    positions: Tensor
    columns: dict[str, Tensor]
    latest: dict[str, Tensor]


#: The part of a rank that trained on nothing.
NOTHING_SEEN = EpochColumns(torch.empty(0, dtype=torch.int64), {}, {})


def epoch_columns(record: EpochRecord, labels: Tensor) -> EpochColumns:
    """Quantities of each item seen in an epoch.

    An item that came several times (a distributed sampler fills up with repetitions, weighted ones draw them) counts
    as it was seen last. Rows that are not finite count as not seen, with a warning.

    Args:
        record: The epoch.
        labels: Class of each item of the pool ``[N]``.

    Returns:
        Rows in ascending order of position. O(n C) time; O(n) memory beside the record.

    Raises:
        ValueError: A label that is no class of the logits.
    """
    finite = torch.isfinite(record.logits).all(dim=1)
    if not bool(finite.all()):
        item = int(record.positions[~finite][0])
        warnings.warn(
            f"The logits of {int((~finite).sum())} items (the first is item {item}) hold NaN or infinite values, and "
            "count as not seen in this epoch: look at the learning rate or the precision of the run.",
            stacklevel=2,
        )
    newest = torch.full((len(labels),), -1, dtype=torch.int64)
    order = torch.arange(len(record.positions))
    newest.scatter_reduce_(0, record.positions[finite], order[finite], "amax")
    positions = torch.nonzero(newest >= 0).flatten()
    rows = newest[positions]
    classes = labels[positions]
    width = record.logits.shape[1]
    if len(classes) and int(classes.max()) >= width:
        item = int(positions[classes >= width][0])
        msg = (
            f"The label of item {item} is {int(labels[item])} and the logits have {width} classes: mend the labels, or "
            "give module= the part whose output has one column for each class."
        )
        raise ValueError(msg)
    # In blocks, because the softmax would double the memory of the logits.
    blocks = [per_sample(record.logits[part], labels[record.positions[part]]) for part in rows.split(_ROWS)]
    columns = {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}
    if record.feature_norms is not None:
        columns["feature_norms"] = record.feature_norms[rows]
    latest = {"logits": record.logits, "embeddings": record.embeddings}
    return EpochColumns(positions, columns, {name: value[rows] for name, value in latest.items() if value is not None})


def whole_signals(labels: Tensor, epochs: Iterable[Sequence[EpochColumns]]) -> Signals:
    """Signals of a pool of ``N`` items from ``E`` epochs.

    Args:
        labels: Class of each item ``[N]``.
        epochs: What each rank recorded of each epoch, in the order of epochs and ranks; of an item that several ranks
            saw in an epoch the last one counts.

    Returns:
        The signals, one run. O(E N + N C) memory.

    Raises:
        ValueError: No item was seen in any epoch.
    """
    rows: dict[str, list[Tensor]] = {name: [] for name in COLUMNS}
    latest: dict[str, Tensor] = {}
    recorded = True
    for parts in epochs:
        for name, missing in COLUMNS.items():
            kind = torch.int8 if name == "correct" else torch.float32
            row = torch.full((len(labels),), missing, dtype=kind)
            for part in parts:
                if name in part.columns:
                    row[part.positions] = part.columns[name]
            rows[name].append(row)
        recorded &= all("feature_norms" in part.columns for part in parts if len(part.positions))
        for part in parts:
            for name, values in part.latest.items():
                if name not in latest:
                    latest[name] = torch.full((len(labels), values.shape[1]), torch.nan)
                latest[name][part.positions] = values
    if not rows["losses"] or "logits" not in latest:
        msg = "A recording without a whole epoch has no signals: train for an epoch first."
        raise ValueError(msg)
    stacked = {name: torch.stack(values) for name, values in rows.items()}
    norms = stacked.pop("feature_norms")
    return Signals(
        labels=labels,
        logits=latest["logits"],
        **stacked,
        feature_norms=norms if recorded else None,
        embeddings=latest.get("embeddings"),
        runs=torch.zeros(len(norms), dtype=torch.int64),
    )
