"""Work in a process of its own: its time, its largest resident size, and a stop where it takes too long."""

import contextlib
import ctypes
import gc
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


class StoppedError(RuntimeError):
    """A process took longer than was given, or died."""


@dataclass(frozen=True)
class Spent:
    """What a piece of work took.

    Attributes:
        seconds: Of the work.
        cpu: Seconds of processor time; on one thread a busy neighbour changes them little.
        before: Megabytes resident before it.
        peak: Most megabytes resident during it.
        answer: What it returned.
    """

    seconds: float
    cpu: float
    before: float
    peak: float
    answer: Any

    @property
    def above(self) -> float:
        """Megabytes by which the work grew its process."""
        return self.peak - self.before


def spent(work: Callable[[], Any]) -> Spent:
    """Do a piece of work and measure it.

    The memory is the process's own peak of resident pages, counted anew from here where the system allows it (Linux):
    what was resident once and is free again would hide what the work takes.
    """
    _give_back_free_pages()
    _forget_the_peak()
    before = _peak_megabytes()
    started, busy = time.perf_counter(), time.process_time()
    answer = work()
    seconds, cpu = time.perf_counter() - started, time.process_time() - busy
    return Spent(seconds, cpu, before, _peak_megabytes(), answer)


def answers(generate: Callable[..., Iterator[Any]], *arguments: Any, patience: float) -> Iterator[Any]:
    """What a generator function gives in a fresh process.

    Raises:
        StoppedError: The next answer took longer than ``patience`` seconds, or the process died.
    """
    # Spawned: a forked child would share its parent's threads and pages.
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_serve, args=(generate, arguments, sender), daemon=True)
    child.start()
    sender.close()
    try:
        while True:
            if not receiver.poll(patience):
                msg = f"not finished within {patience:.0f} s"
                raise StoppedError(msg)
            try:
                kind, answer = receiver.recv()
            except EOFError:
                child.join()
                msg = f"its process ended with code {child.exitcode}"
                raise StoppedError(msg) from None
            if kind == "error":
                raise StoppedError(answer)
            if kind == "end":
                return
            yield answer
    finally:
        child.kill()
        child.join()


def _serve(generate: Callable[..., Iterator[Any]], arguments: tuple[Any, ...], sender: Any) -> None:
    torch.set_num_threads(1)
    try:
        for answer in generate(*arguments):
            sender.send(("answer", answer))
    except Exception as error:
        # As text, because not every exception survives a pipe.
        sender.send(("error", f"{type(error).__name__}: {error}"))
    else:
        sender.send(("end", None))


def _give_back_free_pages() -> None:
    gc.collect()
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def _forget_the_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_megabytes() -> float:
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts bytes, others kilobytes.
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
