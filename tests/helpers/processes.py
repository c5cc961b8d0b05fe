"""Two real processes with a gloo group, started once for all tests that need them."""

import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import multiprocessing

# Importing torch and Lightning takes most of a minute where other work is going on.
_PATIENCE = 180.0


class RankError(AssertionError):
    """What a rank raised, with its traceback."""


class ProcessPool:
    """Ranks of one gloo group that run functions of a test module, each with its rank's answer."""

    def __init__(self, world_size: int = 2) -> None:
        self.world_size = world_size
        context = multiprocessing.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory()
        store = Path(self._folder.name, "store").as_uri()
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(world_size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, world_size, store, theirs), daemon=True)
            process.start()
            self._pipes.append(ours)
            self._processes.append(process)

    def run(self, function: Callable[..., Any], *args: Any, keep_errors: bool = False) -> list[Any]:
        """Call a function of a module on every rank; the answers in rank order.

        Raises:
            RankError: A rank raised (unless ``keep_errors``), or gave no answer in time.
        """
        for pipe in self._pipes:
            pipe.send((function, args))
        answers = []
        for rank, pipe in enumerate(self._pipes):
            if not pipe.poll(_PATIENCE):
                msg = f"rank {rank} gave no answer within {_PATIENCE} s"
                raise RankError(msg)
            failed, answer, trace = pipe.recv()
            if failed and not keep_errors:
                msg = f"rank {rank}: {trace}"
                raise RankError(msg)
            answers.append(answer)
        return answers

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join(10)
            if process.is_alive():
                process.kill()
        self._folder.cleanup()


def _serve(rank: int, world_size: int, store: str, pipe: Connection) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=store, rank=rank, world_size=world_size, timeout=timedelta(seconds=_PATIENCE / 2)
    )
    while (work := pipe.recv()) is not None:
        function, args = work
        try:
            pipe.send((False, function(*args), ""))
        except Exception as error:
            # As text, because not every exception survives a pipe.
            pipe.send((True, f"{type(error).__name__}: {error}", traceback.format_exc()))
    dist.destroy_process_group()
