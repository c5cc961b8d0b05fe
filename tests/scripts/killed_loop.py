"""Kills loops of four rounds at random moments: python killed_loop.py ROOT KILLS SEED.

Children are forked when everything is imported, so that a start takes a second and not twenty. Says for each kill how
many lines the journal had; ends with an error where a journal differs from that of the undisturbed run.
"""

import os
import random
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path

import torch

from tests.active.parts import looped, pooled

warnings.simplefilter("ignore")
torch.set_num_threads(1)


def start(root: Path) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            datamodule = pooled(root / "journal.jsonl", initial="typiclust")
            looped(root, datamodule, epochs=3, rounds=4, query="badge").run()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return child


def finish(root: Path) -> float:
    """Seconds of a run to its end."""
    begun = time.monotonic()
    _, status = os.waitpid(start(root), 0)
    if status != 0:
        sys.exit(f"a run in {root} ended with {status}")
    return time.monotonic() - begun


def written(journal: Path) -> int:
    """Whole lines of a journal."""
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


if __name__ == "__main__":
    root, kills, generator = Path(sys.argv[1]), int(sys.argv[2]), random.Random(int(sys.argv[3]))
    seconds = finish(root / "undisturbed")
    history = (root / "undisturbed" / "journal.jsonl").read_bytes()
    total = history.count(b"\n")
    lines: list[int] = []
    while len(lines) < kills:
        folder = root / str(len(lines))
        # Up to three kills of one run.
        for _ in range(generator.randint(1, 3)):
            child = start(folder)
            # Moments are told by what is written, so that they differ on machines of any speed.
            journal = folder / "journal.jsonl"
            wanted = generator.randint(written(journal), total)
            patience = time.monotonic() + 3 * seconds
            while written(journal) < wanted and time.monotonic() < patience:
                time.sleep(0.001)
            time.sleep(generator.random() * seconds / total)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            lines.append(written(journal))
        finish(folder)
        if (folder / "journal.jsonl").read_bytes() != history:
            sys.exit(f"the run in {folder}, killed after {lines[-1]} lines, has another history")
    print("killed after", sorted(lines), "of", total, "lines")
