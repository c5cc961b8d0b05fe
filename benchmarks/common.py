"""What the benchmarks share: rows to choose from, interleaved timing, tables and where they are kept."""

import argparse
import datetime
import importlib
import logging
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from lightning_coreset import select
from lightning_coreset.data import read_labels

# The example's own reading, embedding and networks: its name begins with a digit, so no import statement finds it.
example = importlib.import_module("examples.01_cifar10")

RESULTS = Path(__file__).with_name("RESULTS.md")
QUICK_TRAIN, QUICK_TEST = 1_000, 300
# Those that this version does not know are left out.
FACILITY_MODES = ("dense", "streamed", "neighbours", "partitioned", "stochastic")


@dataclass(frozen=True)
class EmbeddedSet:
    """Embeddings and labels of train and test images."""

    name: str
    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor

    def of_class(self, label: int) -> Tensor:
        """Embeddings of the train images of one class ``[n, d]``."""
        return self.train[self.train_labels == label]


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """The arguments that every benchmark takes."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_TRAIN} images: only to see that it runs")
    parser.add_argument("--cache", type=Path, default=Path("coresets/cifar10"), help="embeddings and downloads")
    parser.add_argument("--append", action="store_true", help=f"append the tables to benchmarks/{RESULTS.name}")
    return parser


def quiet() -> None:
    """Leave the tables readable."""
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message="SubZeroCore looks at")
    for logger in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(logger).setLevel(logging.ERROR)


def data_folder() -> Path | None:
    """The folder in LIGHTNING_CORESET_DATA."""
    named = os.environ.get("LIGHTNING_CORESET_DATA")
    return Path(named) if named else None


def cifar10_images(cache: Path, quick: bool) -> tuple[Any, Any]:
    """Train and test images; the first ones in the quick form."""
    train, test = example.read_cifar10(data_folder(), cache)
    return (Subset(train, range(QUICK_TRAIN)), Subset(test, range(QUICK_TEST))) if quick else (train, test)


def squeezenet_set(cache: Path, quick: bool) -> EmbeddedSet:
    """CIFAR-10 as SqueezeNet sees it, which knows ImageNet and has not seen these labels."""
    embedder = example.choose_embedder(data_folder())
    return _embedded("SqueezeNet (ImageNet)", embedder, example.FOR_SQUEEZENET, cache, quick)


def resnet20_set(cache: Path, quick: bool) -> EmbeddedSet | None:
    """CIFAR-10 as a ResNet-20 sees it that was trained on all of its labels; None where its weights are not at hand."""
    folder = data_folder()
    path = None if folder is None else folder / "weights" / "cifar_resnet20_jpeg.pt"
    if path is None or not path.exists():
        return None
    network = example.ResNet20()
    network.load_state_dict(torch.load(path, weights_only=True))
    network.linear = nn.Identity()
    return _embedded("ResNet-20 (CIFAR-10), has seen the labels", network, example.FOR_TESTING, cache, quick)


def _embedded(name: str, embedder: Any, transform: Any, cache: Path, quick: bool) -> EmbeddedSet:
    train, test = cifar10_images(cache, quick)
    rows = [example.embed(images, embedder, transform, cache) for images in (train, test)]
    return EmbeddedSet(name, rows[0], read_labels(train), rows[1], read_labels(test))


def gaussian(size: int, width: int) -> Tensor:
    """Rows in general position ``[size, width]``."""
    return torch.randn(size, width, generator=torch.Generator().manual_seed(0))


def clustered(size: int, width: int, clusters: int = 100) -> Tensor:
    """Rows around centres that are as far apart as rows are wide, nothing beside the rows in memory ``[size, width]``.

    Item ``i`` belongs to cluster ``i * clusters // size``.
    """
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(clusters, width, generator=generator)
    rows = torch.empty(size, width).normal_(generator=generator)
    bounds = [cluster * size // clusters for cluster in range(clusters + 1)]
    for center, start, end in zip(centers, bounds, bounds[1:], strict=False):
        rows[start:end] += center
    return rows


def facility_modes() -> list[str]:
    """The modes of facility location that `select` accepts."""
    accepted = []
    for mode in FACILITY_MODES:
        try:
            select(gaussian(20, 4), method="facility_location", budget=2, mode=mode)
        except ValueError as error:
            if not str(error).startswith("mode="):
                raise
        else:
            accepted.append(mode)
    return accepted


def facility_value(rows: Tensor, chosen: Tensor) -> float:
    """Facility location by clamped cosine, in double precision."""
    picked = nn.functional.normalize(rows[chosen].double())
    parts = (nn.functional.normalize(part.double()) @ picked.T for part in rows.split(4_096))
    return sum(float(part.amax(1).clamp(min=0).sum()) for part in parts)


def interleaved(work: dict[str, Callable[[], object]], rounds: int, warm_up: bool = True) -> dict[str, list[float]]:
    """Seconds of each piece of work in each round; all pieces in turn, so that a busy neighbour slows all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds + warm_up):
        for name, run in work.items():
            started = time.perf_counter()
            run()
            # The first round only warms up.
            if number >= warm_up:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def ratios(seconds: Sequence[float], floor: Sequence[float]) -> tuple[float, float]:
    """Best time over best time, and the median over the rounds of the ratios within a round."""
    return min(seconds) / min(floor), statistics.median(a / b for a, b in zip(seconds, floor, strict=True))


def mean_and_spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean and sample deviation as text."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.{digits}f} ± {spread:.{digits}f}"


def aligned(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table whose columns stand below each other."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def show(title: str, note: str, header: Sequence[str], rows: Sequence[Sequence[object]], append: bool) -> None:
    """Print a table; append it to the results with what is needed to make it again."""
    table = aligned(header, rows)
    print(f"\n{title}\n{note}\n\n{table}", flush=True)
    if append:
        with RESULTS.open("a") as results:
            results.write(f"\n### {title}\n\n{note}\n{_how_made()}\n\n{table}\n")


def progress(*words: object) -> None:
    """Progress, out of the stream of the tables: whoever keeps that one finds nothing else in it."""
    print(*words, file=sys.stderr, flush=True)


def _how_made() -> str:
    given = " ".join(argument for argument in _without_cache(sys.argv[1:]) if argument != "--append")
    module = "benchmarks" if Path(sys.argv[0]).stem == "__main__" else f"benchmarks.{Path(sys.argv[0]).stem}"
    threads = os.environ.get("OMP_NUM_THREADS", "unset")
    return (
        f"{datetime.date.today()}; {os.cpu_count()}-core {platform.machine()} CPU, "
        f"{torch.backends.cpu.get_cpu_capability()}; Python {platform.python_version()}, torch {torch.__version__}; "
        f"`OMP_NUM_THREADS={threads} python -m {module}{' ' * bool(given)}{given}`."
    )


def _without_cache(arguments: list[str]) -> list[str]:
    """Where embeddings are kept says nothing about the figures."""
    if "--cache" not in arguments:
        return arguments
    place = arguments.index("--cache")
    return arguments[:place] + arguments[place + 2 :]
