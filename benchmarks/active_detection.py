"""Learning curves of active learning for detection: warm starts against random ones, at equal boxes.

Thinned VOC5 as in `benchmarks.detector_training`: points on the maps of a frozen backbone that has not seen detection,
new weights in each round. Each seed has a pool of its own. Everything runs through `ActiveLearningLoop`; what is done
stands in journals below ``--cache``, so that a run that was interrupted goes on.

    python -m benchmarks.active_detection [--seeds 0 1 2 3 4] [--starts ...] [--queries ...] [--quick] [--append]
"""

import io
import shutil
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision

from benchmarks.active import Curves, area, draw, gains
from benchmarks.common import mean_and_spread, parser_of, quiet, show
from benchmarks.detector_training import SIDE, Drawn, FrozenMaps, Task, trained, voc5_task
from lightning_coreset import ActiveLearningDataModule
from lightning_coreset.active import ActiveLearningLoop, DatasetOracle
from lightning_coreset.storage import write_atomic

# The examples' own detector, which imports what lies beside it.
sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from small_detector import SceneData, WatchedData, detections, fitted, tested, trainer_of

STARTS = ("random", "ofds", "typiclust", "csod", "class_balance")
QUERIES = ("random", "box_sum", "ppal")
# These see proposals of any score, and their scores.
BY_SCORES = ("class_balance", "ofds")
BATCH_SIZE = 8
SHARE = 0.05


class Mirrored(FrozenMaps):
    """Half of the maps are mirrored, for there are few; judged at an overlap of 0.5 alone, also while it trains."""

    def training_step(self, batch: tuple[Sequence[Tensor], Sequence[dict[str, Tensor]]]) -> Tensor:
        """The loss of maps as they are or mirrored."""
        pairs = [mirrored(*pair) if torch.rand(()) < 0.5 else pair for pair in zip(*batch, strict=True)]
        return super().training_step(tuple(zip(*pairs, strict=True)))  # type: ignore[arg-type]

    def on_test_epoch_start(self) -> None:
        """One overlap: AP50 of each class."""
        self.metric = MeanAveragePrecision(iou_thresholds=[0.5], backend="faster_coco_eval", class_metrics=True)


def mirrored(maps: Tensor, target: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Left and right exchanged."""
    left, top, right, bottom = target["boxes"].unbind(1)
    return maps.flip(-1), {**target, "boxes": torch.stack([SIDE - right, top, SIDE - left, bottom], dim=1)}


@dataclass(frozen=True)
class Setting:
    """A pool and how it is trained on.

    Attributes:
        task: The pool; its ``make`` gives a module for a seed.
        seed: Of the pool, of selection and of training.
        steps: Of each training.
        rounds: Round 0 included.
        folder: Where journals lie.
    """

    task: Task
    seed: int
    steps: int
    rounds: int
    folder: Path

    @property
    def budget(self) -> int:
        """Boxes of each round."""
        return round(SHARE * len(self.task.truth))

    def looped(
        self, folder: Path, start: str, query: str, rounds: int, *, budget: int | None = None, reset: Any = "weights"
    ) -> list[dict[str, Any]]:
        """The reports of a loop in a folder, which goes on where it stopped."""
        task = self.task
        scores = task.proposals.scores
        assert scores is not None
        datamodule = ActiveLearningDataModule(
            WatchedData(Drawn(task, task.truth), task.test),
            initial=start,
            initial_args={"threshold": task.threshold, "charge": "oracle"} if start in BY_SCORES else None,
            budget=budget or self.budget,
            budget_unit="boxes",
            oracle=DatasetOracle(),
            proposer=task.proposals if start in BY_SCORES else task.proposals.where(scores >= task.threshold),
            features=task.features,
            journal=folder / "journal.jsonl",
            cache_dir=None,
            seed=self.seed,
            batch_size=BATCH_SIZE,
        )
        loop = ActiveLearningLoop(
            lambda: trainer_of(self.steps, watched=True),
            # Every start and query gets the same weights, other ones in each round.
            lambda round: task.make(1_000 * self.seed + round),
            datamodule,
            query=query,
            rounds=rounds,
            budget=self.budget,
            reset=reset,
            monitor="ap50",
            detect=detections,
            query_batch_size=32,
        )
        return loop.run()

    def curve(self, start: str, query: str, *, reset: Any = "weights", kind: str = "") -> list[dict[str, Any]]:
        """Reports of all rounds; strategies of one start share its round 0."""
        first = self.folder / f"{start}{kind}"
        self.looped(first, start, "random", 1, reset=reset)
        folder = self.folder / f"{start}{kind} {query}"
        if not folder.exists():
            shutil.rmtree(folder.with_suffix(".part"), ignore_errors=True)
            shutil.copytree(first, folder.with_suffix(".part")).rename(folder)
        return self.looped(folder, start, query, self.rounds, reset=reset)

    def one_pass(self, start: str) -> list[dict[str, Any]]:
        """The report of a training on what the start chooses with the budgets of all rounds."""
        return self.looped(self.folder / f"{start} one pass", start, "random", 1, budget=self.budget * self.rounds)

    def autolabelled(self) -> Path:
        """Weights after training on autolabels of the whole pool."""
        path = self.folder / "autolabels.pt"
        if not path.exists():
            data = WatchedData(Drawn(self.task, self.task.autolabels), self.task.test)
            detector = fitted(data, self.steps, detector=self.task.make(self.seed), seed=self.seed)
            buffer = io.BytesIO()
            torch.save(detector.state_dict(), buffer)
            write_atomic(path, buffer.getvalue())
        return path


def percent(report: dict[str, Any], name: str = "ap50") -> float:
    """A figure of a report."""
    return 100 * float(report["metrics"][name])


def measure(settings: Sequence[Setting], starts: Sequence[str], queries: Sequence[str], append: bool) -> Curves:
    """Learning curves, and one pass with all labels beside the end of the loop."""
    curves: Curves = {}
    reports: dict[str, list[dict[str, Any]]] = {start: [] for start in starts}
    at_once: dict[str, list[dict[str, Any]]] = {start: [] for start in starts}
    # All pools of a start before the next one: what an interrupted run has is whole.
    for start, setting in product(starts, settings):
        for query in queries:
            found = setting.curve(start, query)
            curves.setdefault((start, query), []).append([percent(report) for report in found])
            print(setting.task.name, start, query, [round(value, 1) for value in curves[start, query][-1]], flush=True)
        reports[start].append(found[0])
        at_once[start] += setting.one_pass(start)
    rows, ends = [], []
    for start in starts:
        zero = [found[0] for found in curves[start, queries[0]]]
        base = [found[0] for found in curves["random", queries[0]]]
        cells: list[object] = [
            start,
            round(statistics.mean(report["images"] for report in reports[start])),
            mean_and_spread(zero, 1) + gains(zero, base, start == "random", 1),
            mean_and_spread([percent(report, "ap_rare") for report in reports[start]], 1),
        ]
        for query in queries:
            areas, others = ([area(found) for found in curves[name, query]] for name in (start, "random"))
            cells.append(mean_and_spread(areas, 1) + gains(areas, others, start == "random", 1))
        rows.append(cells)
        several = [[percent(report) for report in at_once[start]]]
        several += [[found[-1] for found in curves[start, query]] for query in queries]
        ends.append([start, *(mean_and_spread(values, 1) for values in several)])
    told = _told(settings)
    note = (
        f"{told} AP50 % on all val images at round 0, AP50 of the rare classes (bus, train) there, and area under the "
        f"curve over {settings[0].rounds} rounds, ± deviation over seeds (mean difference to the random start on the "
        "same pools, and on how many it is positive)."
    )
    header = ["warm start", "images", "round 0", "rare, round 0", *(f"area, {query}" for query in queries)]
    show("Active learning, thinned VOC5", note, header, rows, append)
    note = f"{told} AP50 % after one selection and one training with the labels of all rounds, and of the last round."
    header = ["method or start", "one pass", *(f"end, {query}" for query in queries)]
    show("One pass beside the loop, thinned VOC5", note, header, ends, append)
    return curves


def autolabels(settings: Sequence[Setting], queries: Sequence[str], append: bool) -> None:
    """Each round from weights that know the autolabels of the whole pool, beside new ones; warm start by OFDS."""
    rows = []
    for query in queries:
        curves: dict[str, list[list[float]]] = {"new weights": [], "autolabels": []}
        for setting in settings:
            checkpoint = setting.autolabelled()
            for name, found in (
                ("new weights", setting.curve("ofds", query)),
                ("autolabels", setting.curve("ofds", query, reset=checkpoint, kind=" autolabels")),
            ):
                curves[name].append([percent(report) for report in found])
                print(setting.task.name, query, name, [round(value, 1) for value in curves[name][-1]], flush=True)
        for name, several in curves.items():
            figures = (lambda curve: curve[0], area, lambda curve: curve[-1])
            cells = []
            for figure in figures:
                values, base = ([figure(curve) for curve in of] for of in (several, curves["new weights"]))
                cells.append(mean_and_spread(values, 1) + gains(values, base, name == "new weights", 1))
            rows.append([query, name, *cells])
    alone = []
    for setting in settings:
        detector = setting.task.make(0)
        detector.load_state_dict(torch.load(setting.autolabelled(), weights_only=True))
        alone.append(tested(detector, SceneData(setting.task.test, setting.task.test))[0])
    note = (
        f"{_told(settings)} Warm start by OFDS; each round starts from new weights, or from those of a detector that "
        "was trained on autolabels of the whole pool (`reset=checkpoint`) and has an AP50 of "
        f"{mean_and_spread(alone, 1)} before it. In brackets the mean difference to new weights, and on how many pools "
        "it is positive."
    )
    show(
        "Autolabels as the start of each round, thinned VOC5",
        note,
        ["query", "starts from", "round 0", "area", "end"],
        rows,
        append,
    )


def _told(settings: Sequence[Setting]) -> str:
    first = settings[0]
    ceiling = [
        trained(setting.task, "all labels", [Drawn(setting.task, setting.task.truth)], 3 * first.steps, setting.seed)[0]
        for setting in settings
    ]
    return (
        f"Another thinned pool for each of {len(settings)} seeds ({first.task.truth.num_images} images and "
        f"{len(first.task.truth)} boxes in the first); {SHARE:.0%} of the boxes ({first.budget}) in round 0 and in "
        f"each of {first.rounds - 1} later rounds, true boxes charged; {first.steps} steps of {BATCH_SIZE} images a "
        f"round. With all labels and {3 * first.steps} steps: {mean_and_spread(ceiling, 1)}."
    )


def main() -> None:
    """All parts."""
    parser = parser_of(__doc__)
    parser.add_argument("--seeds", nargs="+", type=int, default=range(5))
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--starts", nargs="+", default=STARTS)
    parser.add_argument("--queries", nargs="+", default=QUERIES)
    parser.add_argument("--output", type=Path, default=Path("active_voc5.png"))
    given = parser.parse_args()
    quiet()
    if given.quick:
        given.seeds, given.rounds, given.steps = [0], 2, 5
    settings = []
    for seed in given.seeds:
        task = voc5_task(seed, given.quick, given.cache)
        task = replace(task, make=partial(_made, task.rare))
        folder = given.cache / "active_voc5" / f"{task.name}, {given.steps} steps"
        settings.append(Setting(task, seed, given.steps, given.rounds, folder))
    curves = measure(settings, given.starts, given.queries, given.append)
    autolabels(settings, [query for query in given.queries if query != "random"], given.append)
    draw({"thinned VOC5": (curves, settings[0].budget)}, given.output, "boxes", "AP50 %")
    print(f"Picture: {given.output}")


def _made(rare: list[int], seed: int) -> Mirrored:
    return Mirrored(5, rare=rare, seed=seed)


if __name__ == "__main__":
    main()
