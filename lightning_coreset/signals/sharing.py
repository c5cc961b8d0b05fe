"""Signals and epochs between ranks."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_coreset.distributed import gather_json
from lightning_coreset.ops.reducer import Reducer
from lightning_coreset.signals.epochs import EpochColumns
from lightning_coreset.signals.signals import Signals


def from_rank(reducer: Reducer, signals: Signals | None, rank: int) -> Signals | None:
    """The signals that one rank holds, on every rank; None where it holds none."""
    if reducer.world_size == 1:
        return signals
    own = signals.tensors() if signals is not None and reducer.rank == rank else {}
    gathered = _gather(reducer, {name: value.unsqueeze(0) for name, value in own.items()})[rank]
    return Signals(**{name: value[0] for name, value in gathered.items()}) if gathered else None


def from_all_ranks(reducer: Reducer, seen: EpochColumns) -> list[EpochColumns]:
    """What each rank saw of an epoch, in rank order, on every rank."""
    if reducer.world_size == 1:
        return [seen]
    own = {
        "positions": seen.positions,
        **{f"columns/{name}": value for name, value in seen.columns.items()},
        **{f"latest/{name}": value for name, value in seen.latest.items()},
    }
    return [
        EpochColumns(
            part.get("positions", torch.empty(0, dtype=torch.int64)), _below(part, "columns/"), _below(part, "latest/")
        )
        for part in _gather(reducer, own)
    ]


def _gather(reducer: Reducer, own: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The named tensors of all ranks; ranks may hold others, in other lengths, but of a name one width and type."""
    told = gather_json(reducer, {name: [list(value.shape[1:]), str(value.dtype)] for name, value in own.items()})
    kinds = {name: kind for names in told for name, kind in names.items()}
    parts: list[dict[str, Tensor]] = [{} for _ in told]
    for name, (width, kind) in kinds.items():
        empty = torch.empty(0, *width, dtype=getattr(torch, kind.removeprefix("torch.")))
        for rank, rows in enumerate(reducer.gather(own.get(name, empty))):
            if name in told[rank]:
                parts[rank][name] = rows
    return parts


def _below(part: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in part.items() if name.startswith(prefix)}
