"""Everything that fits this machine, each part in a process of its own, on one thread.

python -m benchmarks --quick | --full [--only greedy growth ...] [--append]
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.common import RESULTS, show
from lightning_coreset.ops.memory import available_bytes

QUICK_GIGABYTES = 1.5


@dataclass(frozen=True)
class Part:
    """Something to measure, and what its full form needs.

    Attributes:
        name: For ``--only``.
        module: In this package; it takes ``--quick``, ``--cache`` and ``--append``.
        arguments: Further arguments.
        gigabytes: Of free memory.
        cores: Of the machine.
        gpu: A CUDA device.
        package: Name of a module that is not among the package's own needs.
    """

    name: str
    module: str
    arguments: Sequence[str] = ()
    gigabytes: float = 2.0
    cores: int = 1
    gpu: bool = False
    package: str = "torch"

    def lacking(self, quick: bool) -> str:
        """Why this machine cannot measure it; empty where it can."""
        needed = QUICK_GIGABYTES if quick else self.gigabytes
        free = available_bytes() / 1e9
        if importlib.util.find_spec(self.package) is None:
            return f"{self.package} is not installed"
        if self.gpu and not torch.cuda.is_available():
            return "no CUDA device"
        if (os.cpu_count() or 1) < self.cores:
            return f"needs {self.cores} cores, there are {os.cpu_count()}"
        return f"needs {needed:g} GB, {free:.1f} GB are free" if free < needed else ""


# One line for each part; a new module needs no more than its own.
PARTS = (
    Part("greedy", "kernels", ("--only", "greedy")),
    Part("graph_cut", "kernels", ("--only", "graph_cut")),
    Part("pass", "kernels", ("--only", "pass")),
    Part("pass_gpu", "kernels", ("--only", "pass", "--device", "cuda"), gpu=True),
    Part("training", "kernels", ("--only", "training")),
    Part("peers", "peers", gigabytes=4),
    Part("growth", "growth", gigabytes=4),
    Part("classes", "scale", ("--only", "classes"), gigabytes=5),
    Part("classes_gpu", "scale", ("--only", "classes", "--device", "cuda"), gigabytes=5, gpu=True),
    Part("million", "scale", ("--only", "million"), gigabytes=8),
    Part("approximate", "scale", ("--only", "approximate"), gigabytes=4),
    Part("ranks", "scale", ("--only", "ranks"), gigabytes=3, cores=2),
    Part("estimate", "scale", ("--only", "estimate"), gigabytes=5),
    Part("screening", "screening", gigabytes=4),
    Part("coverage", "coverage"),
    Part("cifar10", "cifar10"),
    Part("signals", "signals"),
    Part("signal_methods", "signal_methods"),
    Part("dq_v2", "dq_v2"),
    Part("active", "active", ("--check",)),
    Part("active_detection", "active_detection", gigabytes=4, package="faster_coco_eval"),
    Part("hcs", "hcs"),
    Part("detection", "detection"),
    Part("segmentation", "segmentation"),
)


def measure(part: Part, arguments: Sequence[str]) -> list[object]:
    """Run a part on one thread: its name, what came of it, minutes and most megabytes of any of its processes."""
    started = time.perf_counter()
    command = [sys.executable, "-m", f"benchmarks.{part.module}", *part.arguments, *arguments]
    process = subprocess.Popen(command)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    came = "measured" if process.returncode == 0 else f"failed with code {process.returncode}"
    # Linux counts kilobytes, macOS bytes.
    peak = used.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    return [part.name, came, f"{(time.perf_counter() - started) / 60:.1f}", f"{peak:.0f}"]


def main() -> int:
    """All parts, or those asked for; 1 where one failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    form = parser.add_mutually_exclusive_group(required=True)
    form.add_argument("--quick", action="store_true", help="small pools: only to see that everything runs")
    form.add_argument("--full", action="store_true", help="the figures, in some hours")
    names = [part.name for part in PARTS]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--cache", type=Path, default=Path("coresets/cifar10"), help="embeddings and downloads")
    parser.add_argument("--output", type=Path, default=Path("growth.png"), help="the plot of growth")
    parser.add_argument("--append", action="store_true", help=f"append the tables to benchmarks/{RESULTS.name}")
    given = parser.parse_args()
    # For the parts, and for what the tables say of them.
    os.environ["OMP_NUM_THREADS"] = "1"
    shared = ["--cache", str(given.cache), *["--quick"] * given.quick, *["--append"] * given.append]
    table: list[list[object]] = []
    for part in PARTS:
        if part.name not in given.only:
            continue
        reason = part.lacking(given.quick)
        if reason:
            table.append([part.name, f"not measured: {reason}", "", ""])
            continue
        plot = ["--output", str(given.output)] if part.module == "growth" else []
        table.append(measure(part, [*shared, *plot]))
    note = "Each part in a process of its own, one thread; the memory is the largest resident size of one process."
    show("What was measured", note, ["part", "came of it", "minutes", "MB"], table, given.append)
    return int(any(str(row[1]).startswith("failed") for row in table))


if __name__ == "__main__":
    sys.exit(main())
