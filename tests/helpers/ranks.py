"""Many ranks in one process: threads that meet at a barrier, in place of a process group."""

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Exchange:
    """Where ranks meet; whoever comes last joins what all brought, so that many ranks cost no more than their rows."""

    def __init__(self, world_size: int, timeout: float) -> None:
        self.slots: list[Tensor | None] = [None] * world_size
        self.kinds: set[Any] = set()
        self.joined = torch.empty(0)
        self.sizes: list[int] = []
        self._brought = threading.Barrier(world_size, action=self._join, timeout=timeout)
        self._read = threading.Barrier(world_size, timeout=timeout)

    def gather(self, rank: int, rows: Tensor) -> list[Tensor]:
        self.slots[rank] = rows
        self._brought.wait()
        # Each rank has a copy of its own, as of a real collective.
        kinds, parts = self.kinds, list(self.joined.clone().split(self.sizes))
        # Nobody may write into the slots again before everybody has read them.
        self._read.wait()
        if len(kinds) != 1:
            msg = f"ranks gathered {kinds}: a real collective needs one type and one width"
            raise AssertionError(msg)
        return parts

    def _join(self) -> None:
        parts = [part for part in self.slots if part is not None]
        self.kinds = {(part.dtype, part.shape[1:]) for part in parts}
        self.sizes = [len(part) for part in parts]
        self.joined = torch.cat(parts) if len(self.kinds) == 1 else torch.empty(sum(self.sizes))


class ThreadReducer:
    """One of several ranks; as strict as a real collective about what it gathers."""

    def __init__(self, rank: int, world_size: int, exchange: Exchange) -> None:
        self.rank = rank
        self.world_size = world_size
        self._exchange = exchange

    def gather(self, rows: Tensor) -> list[Tensor]:
        return self._exchange.gather(self.rank, rows)


def run_ranks(
    world_size: int, function: Callable[[ThreadReducer], Any], *, timeout: float = 60.0, keep_errors: bool = False
) -> list[Any]:
    """Run ``function(reducer)`` on every rank at once and return the answers in rank order.

    A rank that never comes to a collective breaks the barrier for the others after ``timeout`` seconds, so a test
    fails where a real group would hang. With ``keep_errors`` the exceptions are returned in place of answers.
    """
    exchange = Exchange(world_size, timeout)
    answers: list[Any] = [None] * world_size

    def work(rank: int) -> None:
        try:
            answers[rank] = function(ThreadReducer(rank, world_size, exchange))
        except Exception as error:
            answers[rank] = error

    threads = [threading.Thread(target=work, args=(rank,), daemon=True) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout * 2)
    errors = [answer for answer in answers if isinstance(answer, Exception)]
    if errors and not keep_errors:
        # A broken barrier is what the others see of the error that matters.
        raise next((error for error in errors if not isinstance(error, threading.BrokenBarrierError)), errors[0])
    return answers
