"""The reducer that speaks to a real process group."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_coreset.distributed.gather import gather_ragged
from lightning_coreset.errors import CoresetError
from lightning_coreset.ops.reducer import Reducer, SerialReducer

_SENT_AT_ONCE = 1 << 20


class ProcessGroupReducer:
    """All ranks of a process group; tensors travel over the device its backend needs and come back where they were.

    Example:
        >>> torch.distributed.is_initialized()
        False
    """

    def __init__(self, device: torch.device | str = "cpu", group: dist.ProcessGroup | None = None) -> None:
        self.rank = dist.get_rank(group)
        self.world_size = dist.get_world_size(group)
        self._group = group
        # NCCL moves tensors between GPUs only, gloo takes them from the CPU.
        self._device = torch.device(device) if "nccl" in str(dist.get_backend(group)) else torch.device("cpu")

    def gather(self, rows: Tensor) -> list[Tensor]:
        """See `Reducer.gather`."""
        home = rows.device
        return [part.to(home) for part in gather_ragged(rows.to(self._device).contiguous(), self._group)]


def current_reducer(device: torch.device | str = "cpu") -> Reducer:
    """All ranks of the default process group, or one rank alone where there is none."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return ProcessGroupReducer(device)
    return SerialReducer()


def gather_json(reducer: Reducer, value: Any) -> list[Any]:
    """One JSON value of each rank, in rank order."""
    encoded = torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)
    return [json.loads(bytes(part.tolist())) for part in reducer.gather(encoded)]


def from_first_rank(reducer: Reducer, values: Tensor) -> Tensor:
    """The first rank's numbers on every rank ``[n]``; in parts, because a collective holds a copy for each rank."""
    parts = [reducer.gather(part if reducer.rank == 0 else part[:0])[0] for part in values.split(_SENT_AT_ONCE)]
    return torch.cat(parts)


@contextmanager
def together(reducer: Reducer, work: str) -> Iterator[None]:
    """Let all ranks fail when one does.

    A rank that raises between two collectives leaves the others waiting until the group's timeout. Inside this
    context every rank reports how it fared before anyone goes on.

    Args:
        reducer: The ranks.
        work: What is done, for the message.

    Raises:
        CoresetError: Another rank failed; its message is repeated. The rank that failed raises its own error.
    """
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
    reports = gather_json(reducer, None if failure is None else f"{type(failure).__name__}: {failure}")
    if failure is not None:
        raise failure
    failed = [(rank, report) for rank, report in enumerate(reports) if report is not None]
    if failed:
        msg = f"Rank {failed[0][0]} failed at {work} and all ranks stop: {failed[0][1]}"
        raise CoresetError(msg)
