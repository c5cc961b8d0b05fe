"""Many ranks in one process: threads that meet at a barrier, in place of a process group."""

import threading
from collections.abc import Callable
from typing import Any

from torch import Tensor


class ThreadReducer:
    """One of several ranks; as strict as a real collective about what it gathers."""

    def __init__(self, rank: int, world_size: int, barrier: threading.Barrier, slots: list[Tensor | None]) -> None:
        self.rank = rank
        self.world_size = world_size
        self._barrier = barrier
        self._slots = slots

    def gather(self, rows: Tensor) -> list[Tensor]:
        self._slots[self.rank] = rows.clone()
        self._barrier.wait()
        gathered = [part for part in self._slots if part is not None]
        kinds = {(part.dtype, part.shape[1:]) for part in gathered}
        # Nobody may write into the slots again before everybody has read them.
        self._barrier.wait()
        if len(gathered) != self.world_size or len(kinds) != 1:
            msg = f"ranks gathered {kinds}: a real collective needs one type and one width"
            raise AssertionError(msg)
        return [part.clone() for part in gathered]


def run_ranks(
    world_size: int, function: Callable[[ThreadReducer], Any], *, timeout: float = 60.0, keep_errors: bool = False
) -> list[Any]:
    """Run ``function(reducer)`` on every rank at once and return the answers in rank order.

    A rank that never comes to a collective breaks the barrier for the others after ``timeout`` seconds, so a test
    fails where a real group would hang. With ``keep_errors`` the exceptions are returned in place of answers.
    """
    barrier = threading.Barrier(world_size, timeout=timeout)
    slots: list[Tensor | None] = [None] * world_size
    answers: list[Any] = [None] * world_size

    def work(rank: int) -> None:
        try:
            answers[rank] = function(ThreadReducer(rank, world_size, barrier, slots))
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
