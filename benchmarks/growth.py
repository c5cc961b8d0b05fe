"""Time and memory as the pool grows, log-log, with fitted exponents.

A fresh process for each method; sizes from small to large, until the next one would take too long or too much memory.

    OMP_NUM_THREADS=1 python -m benchmarks.growth [--methods herding ...] [--seconds 120] [--output PNG] [--append]
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch

from benchmarks.common import clustered, facility_modes, parser_of, progress, quiet, show
from benchmarks.fresh import Spent, StoppedError, answers, spent
from lightning_coreset import select
from lightning_coreset.ops.memory import available_bytes

matplotlib.use("Agg")
from matplotlib import pyplot as plt

SIZES = (1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
WIDTH, COUNT = 128, 100
CLASS_SIZE, CLASS_RATIO = 1_280, 0.1
# Below these a clock and a page counter say nothing about growth.
LEAST_SECONDS, LEAST_MEGABYTES = 0.02, 20.0
# Small pools show what a call costs at least, not how it grows.
FITTED = 4


@dataclass(frozen=True)
class Curve:
    """A method whose growth is measured.

    Attributes:
        name: In the table and the plot.
        method: For `select`.
        arguments: For `select`.
        classwise: In classes of 1,280 at 10 %, instead of 100 items of the whole pool.
    """

    name: str
    method: str
    arguments: dict[str, Any] = field(default_factory=dict)
    classwise: bool = False


def curves() -> list[Curve]:
    """All that this version knows."""
    modes = [Curve(f"facility_location, {mode}", "facility_location", {"mode": mode}) for mode in facility_modes()]
    plain = [Curve(method, method) for method in ("random", "herding", "k_center", "graph_cut", "moderate")]
    return [*plain, *modes, Curve("subzerocore, by class", "subzerocore", classwise=True)]


def grow(curve: Curve, sizes: Sequence[int], seconds: float) -> Iterator[Spent | str]:
    """What each size takes, until the reason why the next one is left out."""
    quiet()
    known: list[tuple[int, Spent]] = []
    for size in sizes:
        reason = _too_much(known, size, seconds)
        if reason:
            yield reason
            return
        rows = clustered(size, WIDTH)
        labels = torch.arange(size) // CLASS_SIZE if curve.classwise else None
        budget: dict[str, Any] = {"ratio": CLASS_RATIO} if curve.classwise else {"budget": COUNT}

        def work(rows: Any = rows, labels: Any = labels, budget: dict[str, Any] = budget) -> None:
            select(rows, labels, method=curve.method, **budget, **curve.arguments)

        if not known:
            work()
        first = spent(work)
        # Short work is repeated: its first time may be a neighbour's.
        again = [spent(work).seconds for _ in range(2 if first.seconds < 1 else 0)]
        found = replace(first, seconds=min([first.seconds, *again]))
        known.append((size, found))
        yield found


def _too_much(known: Sequence[tuple[int, Spent]], size: int, seconds: float) -> str:
    if not known:
        return ""
    last_size, last = known[-1]
    step = math.log(size / last_size)
    slopes = [2.0, 2.0]
    if len(known) > 1:
        before_size, before = known[-2]
        ran = math.log(last_size / before_size)
        slopes = [
            math.log(max(last.seconds, 1e-6) / max(before.seconds, 1e-6)) / ran,
            math.log(max(last.above, 1.0) / max(before.above, 1.0)) / ran,
        ]
    # At least linear, at most cubic: two short times make a wild line.
    time_power, memory_power = (min(3.0, max(1.0, slope)) for slope in slopes)
    expected = last.seconds * math.exp(step * time_power)
    if expected > seconds:
        return f"about {expected:.0f} s"
    megabytes = last.above * math.exp(step * memory_power) + 4e-6 * size * WIDTH
    free = available_bytes() / 1e6
    return f"about {megabytes / 1e3:.1f} GB, {free / 1e3:.1f} GB are free" if megabytes > 0.8 * free else ""


def exponent(sizes: Sequence[int], values: Sequence[float], least: float) -> float | None:
    """Slope on log scales of the line through the last points above a least value; None where they are too few."""
    points = [(math.log(size), math.log(value)) for size, value in zip(sizes, values, strict=False) if value >= least]
    if len(points) < 2:
        return None
    return float(np.polyfit(*zip(*points[-FITTED:], strict=True), 1)[0])


def draw(measured: dict[str, list[Spent]], sizes: Sequence[int], path: Path) -> None:
    """Two panels, a line for each method with its exponent."""
    figure, panels = plt.subplots(1, 2, figsize=(11, 6))
    told = (("seconds", LEAST_SECONDS, "s"), ("above", LEAST_MEGABYTES, "MB above the features"))
    for panel, (name, least, unit) in zip(panels, told, strict=True):
        for place, (method, runs) in enumerate(measured.items()):
            values = [getattr(run, name) for run in runs]
            slope = exponent(sizes, values, least)
            label = method if slope is None else f"{method} (N^{slope:.2f})"
            # A process that did not grow has no place on a log scale.
            points = [(size, value) for size, value in zip(sizes, values, strict=False) if value > 0]
            if points:
                style = "o-" if place < 10 else "s--"
                panel.plot(*zip(*points, strict=True), style, ms=3, lw=1.2, label=label)
        panel.set(xscale="log", yscale="log", xlabel="items in the pool, N", ylabel=unit)
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.12))
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)
    print(f"Plot: {path}")


def main() -> None:
    """All curves, or those asked for."""
    parser = parser_of(__doc__)
    known = {curve.name: curve for curve in curves()}
    parser.add_argument("--methods", nargs="+", choices=known, default=list(known))
    parser.add_argument("--seconds", type=float, default=120, help="of a single call, at most (an estimate)")
    parser.add_argument("--output", type=Path, default=Path("growth.png"), help="the plot")
    given = parser.parse_args()
    sizes = (300, 1_000, 3_000) if given.quick else SIZES
    seconds = min(given.seconds, 10.0) if given.quick else given.seconds
    measured: dict[str, list[Spent]] = {}
    reasons: dict[str, str] = {}
    for name in given.methods:
        runs: list[Spent] = measured.setdefault(name, [])
        try:
            # An estimate may be wrong by some; importing takes seconds too.
            for answer in answers(grow, known[name], sizes, seconds, patience=5 * seconds + 60):
                if isinstance(answer, str):
                    reasons[name] = answer
                else:
                    runs.append(answer)
                    progress(f"{name}: N={sizes[len(runs) - 1]}: {answer.seconds:.3f} s, {answer.above:.0f} MB")
        except StoppedError as error:
            reasons[name] = str(error)
    shared = (
        f"d={WIDTH}, rows around 100 centres; {COUNT} items of the whole pool, or {100 * CLASS_RATIO:g} % by class of "
        f"{CLASS_SIZE:,}; one thread, a fresh process for each method."
    )
    columns = [f"N={size:,}" for size in sizes]
    timed = f"Seconds of `select`, best of 3 where below 1 s. {shared}"
    grown = f"Megabytes of the largest resident size during `select` above the size before it. {shared}"
    for title, attribute, least, form, note in (
        ("Growth of time", "seconds", LEAST_SECONDS, ".3f", timed),
        ("Growth of memory", "above", LEAST_MEGABYTES, ".0f", grown),
    ):
        table: list[list[object]] = []
        for name, runs in measured.items():
            values = [getattr(run, attribute) for run in runs]
            slope = exponent(sizes, values, least)
            left_out = [f"not measured: {reasons[name]}"] if name in reasons else []
            cells = [*(format(value, form) for value in values), *left_out]
            cells += [""] * (len(sizes) - len(cells))
            table.append([name, *cells, "" if slope is None else f"{slope:.2f}"])
        fitted = f" Exponents fitted through the last {FITTED} that are at least {least:g}."
        show(title, note + fitted, ["method", *columns, "exponent"], table, given.append)
    draw(measured, sizes, given.output)


if __name__ == "__main__":
    main()
