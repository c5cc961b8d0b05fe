"""What a small detector learns from what each method chose, at equal images and at equal boxes; and from autolabels.

python -m benchmarks.detector_training --pool scenes voc5 --only images boxes autolabels [--quick] [--append]

A trained detector is noise of a point or two of AP: three selections (of three pools) and two trainings of each.
"""

import io
import json
import statistics
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset
from torchvision.ops import box_iou

from benchmarks.common import data_folder, mean_and_spread, parser_of, progress, quiet, show
from benchmarks.detection_pools import VOC5, DetectionPool, thinned, voc5_pool
from lightning_coreset import Coreset, Pool, select
from lightning_coreset.detection import (
    GroundTruthProposer,
    Objects,
    TorchvisionProposer,
    calibrate,
    propose_objects,
    read_objects,
    true_units,
    with_classes,
    with_human_labels,
)
from lightning_coreset.detection.report import class_balance
from lightning_coreset.detection.rows import joined_tables
from lightning_coreset.storage import write_atomic
from tests.helpers.fastestdet import FastestDet, load_fastestdet
from tests.helpers.zipped import ZippedCoco

# The examples' own detector, which imports what lies beside it.
sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from digit_scenes import PROPOSER_WRITERS, TEST_WRITERS, DigitScenes, digit_scenes
from small_detector import SceneData, SceneImages, SmallDetector, fitted, rarest, tested, trained_proposer

METHODS = ("random", "uniform", "csod", "ofds", "class_balance")
HEADER = ["method", "images", "boxes", "balance", "rare boxes", "duplicates", "AP50 %", "AP rare %"]
SIDE = 352
DIRECTIONS = 64


@dataclass(frozen=True)
class Task:
    """A pool to choose from, and a detector to train on what was chosen.

    Attributes:
        name: For the tables.
        truth: Annotated boxes, with the embeddings of CSOD.
        proposals: Floor-score proposals, with the true units of each image.
        threshold: Of proposals that count for selection.
        autolabels: Proposals above the threshold with the best F1.
        images: What the detector sees of each image.
        scale: From boxes in pixels of the stored image to those of the detector's input ``[N, 4]``.
        test: Dataset to test on.
        groups: Near duplicates ``[N]``.
        rare: Classes that are judged on their own.
        make: A fresh detector for a seed.
        cache: Where finished trainings are kept.
        features: An embedding of each image ``[N, d]``, where there is one.
    """

    name: str
    truth: Objects
    proposals: Objects
    threshold: float
    autolabels: Objects
    images: Any
    scale: Tensor
    test: Any
    groups: Tensor
    rare: list[int]
    make: Callable[[int], SmallDetector]
    cache: Path
    features: Tensor | None = None


class Drawn(Dataset[Any]):
    """Images with the objects of a table as targets."""

    def __init__(self, task: Task, objects: Objects) -> None:
        self.task = task
        self.boxes = objects.boxes * task.scale[objects.image]
        self.labels = objects.labels + 1
        self.bounds = torch.searchsorted(objects.image, torch.arange(objects.num_images + 1))

    def __len__(self) -> int:
        """Number of images."""
        return len(self.bounds) - 1

    def __getitem__(self, index: int) -> Any:
        """One image and its target."""
        rows = slice(int(self.bounds[index]), int(self.bounds[index + 1]))
        return self.task.images[index], {"boxes": self.boxes[rows], "labels": self.labels[rows]}


def scenes_task(seed: int, quick: bool, steps: int, cache: Path) -> Task:
    """Digits on photographs, a proposer trained on other writers."""
    scenes = digit_scenes(150 if quick else 800, seed=seed)
    pool = SceneImages(scenes)
    others = digit_scenes(550, seed=100 + seed, balanced=True, duplicates=0.0, writers=PROPOSER_WRITERS)
    known = SceneImages(others)
    proposer = kept_proposer(cache / f"proposer {seed} {steps}.pt", others, steps)
    seen = propose_objects(Subset(known, range(400, 550)), proposer)
    truth = known.objects.subset(range(400, 550))
    proposals = propose_objects(pool, proposer)
    f1 = calibrate(seen, truth, "f1", reference="other writers")
    embedded = propose_objects(pool, GroundTruthProposer(pool.objects), encoder=proposer)
    rare = rarest(pool.objects)
    unseen = digit_scenes(60 if quick else 200, seed=200, balanced=True, duplicates=0.0, writers=TEST_WRITERS)
    return Task(
        name=f"scenes{' quick' * quick} {seed}",
        truth=embedded,
        proposals=replace(proposals, units=true_units(pool.objects)),
        threshold=calibrate(seen, truth, reference="other writers").threshold,
        autolabels=f1.keep(proposals),
        images=scenes.images,
        scale=torch.ones(len(pool), 4),
        test=SceneImages(unseen),
        groups=scenes.groups,
        rare=rare,
        make=lambda training: SmallDetector(10, rare=rare, seed=training),
        cache=cache,
    )


def kept_proposer(path: Path, scenes: DigitScenes, steps: int) -> TorchvisionProposer:
    """A proposer trained now or by an earlier run."""
    if not path.exists():
        buffer = io.BytesIO()
        torch.save(trained_proposer(scenes, steps).module().state_dict(), buffer)
        write_atomic(path, buffer.getvalue())
    detector = SmallDetector(len(scenes.class_names))
    detector.load_state_dict(torch.load(path, weights_only=True))
    return TorchvisionProposer(detector.eval(), scenes.class_names)


class FrozenMaps(SmallDetector):
    """The same points on whitened maps of a backbone that has not seen detection, and that does not learn."""

    stride = 16

    def built(self, width: int) -> nn.Module:
        """Few layers: there are few images."""
        return nn.Sequential(*self._step(DIRECTIONS, width), *self._step(width, width))

    def prepared(self, image: Tensor) -> Tensor:
        """Maps are stored in half precision."""
        return image.float()


def whitened_maps(split: str, cache: Path) -> Tensor:
    """The same in the strongest directions of the train cells, each with a variance near 1 ``[N, 64, 22, 22]``.

    On the 336 raw channels the points learn three times slower, and more labels hardly help.
    """
    path = cache / f"voc5-{split}-whitened.pt"
    if not path.exists():
        cells = voc5_maps("train", cache)[::10].float().permute(0, 2, 3, 1).flatten(0, 2)
        mean = cells.mean(dim=0)
        variances, directions = torch.linalg.eigh((cells - mean).T @ (cells - mean) / len(cells))
        strongest = directions[:, -DIRECTIONS:] / (variances[-DIRECTIONS:] + 1e-3 * variances[-1]).sqrt()
        parts = [
            torch.einsum("nchw,cd->ndhw", part.float() - mean[:, None, None], strongest).half()
            for part in voc5_maps(split, cache).split(50)
        ]
        torch.save(torch.cat(parts), path)
    return torch.load(path, weights_only=True)


def voc5_maps(split: str, cache: Path) -> Tensor:
    """Maps of FastestDet's backbone before its training on COCO ``[N, 336, 22, 22]``, half precision."""
    path = cache / f"voc5-{split}-maps.pt"
    if path.exists():
        return torch.load(path, weights_only=True, mmap=True)
    folder = data_folder()
    assert folder is not None
    network = FastestDet().eval()
    state = torch.load(folder / "weights" / "fastestdet_backbone.pt", weights_only=True)
    network.backbone.load_state_dict(state)
    dataset = ZippedCoco(folder, "voc5", split)
    maps = torch.empty(len(dataset), 336, SIDE // 16, SIDE // 16, dtype=torch.float16)
    with torch.no_grad(), zipfile.ZipFile(dataset.path) as archive:
        for place, image in enumerate(dataset.ids):
            opened = Image.open(io.BytesIO(archive.read(f"images/{dataset._files[image]}"))).convert("RGB")
            pixels = torch.frombuffer(bytearray(opened.resize((SIDE, SIDE)).tobytes()), dtype=torch.uint8)
            blue_first = pixels.reshape(SIDE, SIDE, 3).permute(2, 0, 1).flip(0)[None].float() / 255
            second, third, fourth = network.backbone(blue_first)
            doubled = nn.functional.interpolate(fourth, scale_factor=2.0, mode="nearest")
            maps[place] = torch.cat([network.avg_pool(second), third, doubled], dim=1)[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(maps, path)
    return maps


def voc5_task(seed: int, quick: bool, cache: Path) -> Task:
    """Photographs with three classes thinned and a fifth doubled, FastestDet as proposer."""
    folder = data_folder()
    assert folder is not None
    whole = voc5_pool(cache, False)
    part: DetectionPool = thinned(whole, ((4, 0.08), (3, 0.15), (2, 0.40)), 0.2, seed)
    places = torch.tensor([int(name.split()[0]) for name in part.ids])
    maps = whitened_maps("train", cache)
    dataset = ZippedCoco(folder, "voc5", "val")
    annotated = read_objects(dataset)
    assert annotated is not None
    annotated = with_classes(annotated, VOC5)
    test_maps = whitened_maps("val", cache)
    images = range(60 if quick else len(dataset))
    # What images are, and how large: all that a set to test on needs of a task.
    unseen = Task(
        "", annotated, annotated, 0.0, annotated, test_maps, _scale(annotated), None, places, [], FrozenMaps, cache
    )
    # CSOD asks for embeddings of annotated boxes: those of the proposal that overlaps most stand for them.
    return Task(
        name=f"voc5{' quick' * quick} {seed}",
        truth=replace(part.truth, features=nearest_features(part.truth, part.proposals)),
        proposals=part.proposals,
        threshold=part.calibration.threshold,
        autolabels=above_best_f1(part.proposals, cache),
        images=_Picked(maps, places),
        scale=_scale(part.truth),
        test=Subset(Drawn(unseen, annotated), images),
        groups=part.groups,
        rare=part.rare,
        make=lambda training: FrozenMaps(5, rare=part.rare, seed=training),
        cache=cache,
        features=part.features,
    )


class _Picked:
    """Rows of a tensor at some places."""

    def __init__(self, rows: Tensor, places: Tensor) -> None:
        self.rows, self.places = rows, places.tolist()

    def __getitem__(self, index: int) -> Tensor:
        return self.rows[self.places[index]]


def _scale(objects: Objects) -> Tensor:
    assert objects.image_sizes is not None
    height, width = (SIDE / side for side in objects.image_sizes.float().unbind(1))
    return torch.stack([width, height, width, height], dim=1)


def above_best_f1(proposals: Objects, cache: Path) -> Objects:
    """Proposals above the threshold with the best F1 on tiny COCO."""
    folder = data_folder()
    assert folder is not None
    model, names = load_fastestdet(folder)
    found, annotated = [], []
    for split in ("train", "val"):
        small = ZippedCoco(folder, "tiny_coco", split)
        found.append(propose_objects(small, TorchvisionProposer(model, names), cache=cache / "proposals"))
        annotated.append(read_objects(small))
    sides = [with_classes(joined_tables(parts), VOC5) for parts in (found, annotated)]
    return calibrate(*sides, "f1", reference="tiny COCO").keep(proposals)


def nearest_features(truth: Objects, proposals: Objects) -> Tensor:
    """Of each annotated box the embedding of the proposal that overlaps most, else the mean of all ``[M, D]``."""
    assert proposals.features is not None
    rows = proposals.features.mean(dim=0).repeat(len(truth), 1)
    bounds = torch.searchsorted(proposals.image, torch.arange(proposals.num_images + 1))
    for row in range(len(truth)):
        start, stop = bounds[truth.image[row]], bounds[truth.image[row] + 1]
        if stop > start:
            shared = box_iou(truth.boxes[row : row + 1], proposals.boxes[start:stop])[0]
            rows[row] = proposals.features[start + int(shared.argmax())]
    return rows


def chosen_by(task: Task, method: str, unit: str, budget: int, seed: int) -> Coreset:
    """A selection; every method is charged true units."""
    arguments: dict[str, Any] = {}
    objects = replace(task.truth, features=None)
    if method == "csod":
        objects = task.truth
    elif method in ("ofds", "class_balance"):
        objects = task.proposals
        arguments = {"threshold": task.threshold, "charge": "oracle"}
    if unit != "images":
        arguments["budget_unit"] = unit
    return select(Pool(objects=objects), method=method, budget=budget, seed=seed, **arguments)


def described(task: Task, chosen: Tensor) -> list[float]:
    """Images, boxes, balance, boxes of rare classes and duplicate pairs of a selection."""
    part = task.truth.subset(chosen)
    counts = torch.bincount(part.labels, minlength=task.truth.num_classes)
    sizes = torch.bincount(task.groups[chosen])
    pairs = int((sizes * (sizes - 1) // 2).sum())
    return [len(chosen), len(part), class_balance(counts), int(counts[task.rare].sum()), pairs]


def summary(name: str, described_: Sequence[Sequence[float]], scores: Sequence[tuple[float, float]]) -> list[object]:
    """A line of a table from all selections and trainings."""
    columns = list(zip(*described_, strict=True))
    means = [f"{statistics.mean(column):.{digits}f}" for column, digits in zip(columns, (0, 0, 2, 1, 1), strict=True)]
    ap50, rare = zip(*scores, strict=True)
    return [name, *means, mean_and_spread(ap50, 1), mean_and_spread(rare, 1)]


def trained(task: Task, name: str, phases: Sequence[Any], steps: int, seed: int) -> tuple[float, float]:
    """AP50 and AP of rare classes after the phases, which share the steps; found again where a run was interrupted."""
    path = task.cache / "trainings" / f"{task.name} {name} {steps} {seed}.json"
    if path.exists():
        found = json.loads(path.read_text())
        return found["ap50"], found["rare"]
    detector = task.make(seed)
    for data in phases:
        detector = fitted(SceneData(data, task.test), steps // len(phases), detector=detector, seed=seed)
    ap50, rare = tested(detector, SceneData(task.test, task.test))
    write_atomic(path, json.dumps({"ap50": ap50, "rare": rare}).encode())
    return ap50, rare


def compare(tasks: Sequence[Task], unit: str, steps: int, trainings: int, append: bool) -> None:
    """All methods at equal images or at equal boxes."""
    rows = []
    budgets = []
    for task in tasks:
        boxes = round(0.15 * len(task.truth))
        budgets.append(boxes if unit == "boxes" else round(boxes * task.truth.num_images / len(task.truth)))
    for method in METHODS:
        lines, scores = [], []
        for seed, (task, budget) in enumerate(zip(tasks, budgets, strict=True)):
            chosen = chosen_by(task, method, unit, budget, seed).indices
            lines.append(described(task, chosen))
            data = Subset(Drawn(task, task.truth), chosen.tolist())
            name = f"{method} {budget} {unit}"
            scores += [trained(task, name, [data], steps, training) for training in range(trainings)]
        rows.append(summary(method, lines, scores))
        progress(rows[-1])
    note = (
        f"Budget: {' / '.join(map(str, budgets))} {unit}, 15 % of the pool's boxes or as many images as hold them on "
        f"average; {len(tasks)} selections x {trainings} trainings of {steps} steps."
    )
    show(f"A small detector on {tasks[0].name.split()[0]} at equal {unit}", note, HEADER, rows, append)


def pretrain(tasks: Sequence[Task], steps: int, trainings: int, append: bool) -> None:
    """Autolabels of the whole pool, alone and before the human labels of what OFDS chose."""
    names = ("human labels (OFDS)", "autolabels", "both together", "autolabels, then human")
    lines: dict[str, list[Any]] = {name: [] for name in names}
    scores: dict[str, list[Any]] = {name: [] for name in names}
    for seed, task in enumerate(tasks):
        chosen = chosen_by(task, "ofds", "boxes", round(0.15 * len(task.truth)), seed).indices
        people = Subset(Drawn(task, task.truth), chosen.tolist())
        autolabels = Drawn(task, task.autolabels)
        both = Drawn(task, with_human_labels(task.autolabels, task.truth, chosen))
        for name, phases in zip(names, ([people], [autolabels], [both], [autolabels, people]), strict=True):
            lines[name].append(described(task, chosen[:0] if name == "autolabels" else chosen))
            scores[name] += [trained(task, name, phases, steps, training) for training in range(trainings)]
            progress(task.name, name, scores[name][-trainings:])
    rows = [summary(name, lines[name], scores[name]) for name in names]
    note = (
        f"OFDS with 15 % of the boxes; autolabels above the threshold with the best F1 on the calibration set, human "
        f"labels in their place where there are any; {len(tasks)} selections x {trainings} trainings of {steps} steps "
        "in all phases together. Columns 2 to 6 count what people drew."
    )
    show(f"Autolabels on {tasks[0].name.split()[0]}", note, HEADER, rows, append)


def main() -> None:
    """The parts that were asked for."""
    parser = parser_of(__doc__)
    parser.add_argument("--pool", nargs="+", choices=("scenes", "voc5"), default=["scenes"])
    parts = ("images", "boxes", "autolabels")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--selections", type=int, default=3)
    parser.add_argument("--trainings", type=int, default=2)
    parser.add_argument("--steps", type=int, default=300)
    given = parser.parse_args()
    quiet()
    selections, trainings, steps = (1, 1, 20) if given.quick else (given.selections, given.trainings, given.steps)
    for pool in given.pool:
        tasks = [
            scenes_task(seed, given.quick, steps, given.cache)
            if pool == "scenes"
            else voc5_task(seed, given.quick, given.cache)
            for seed in range(selections)
        ]
        for unit in ("images", "boxes"):
            if unit in given.only:
                compare(tasks, unit, steps, trainings, given.append)
        if "autolabels" in given.only:
            pretrain(tasks, steps, trainings, given.append)


if __name__ == "__main__":
    main()
