"""Real pools of detection benchmarks: proposals, image embeddings, thinned classes, near duplicates."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset
from torchvision.models import squeezenet1_0
from torchvision.transforms.functional import normalize, resize

from benchmarks.common import data_folder
from lightning_coreset.data.views import RawImages, as_tensor
from lightning_coreset.detection import (
    Calibration,
    Objects,
    TorchvisionProposer,
    calibrate,
    propose_objects,
    read_objects,
    with_classes,
)
from lightning_coreset.detection.matching import match
from lightning_coreset.detection.rows import joined_tables
from lightning_coreset.ops.local_patterns import local_patterns
from lightning_coreset.ops.random import seeded_generator
from tests.helpers.fastestdet import load_fastestdet
from tests.helpers.zipped import ZippedCoco

# The examples' own detector, which imports what lies beside it.
sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from digit_scenes import PROPOSER_WRITERS, digit_scenes
from small_detector import SceneData, SceneImages, SmallDetector, fitted, trained_proposer

VOC5 = ["car", "person", "cat", "train", "bus"]
_MEAN, _SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class DetectionPool:
    """What a benchmark selects from and what it judges by.

    Attributes:
        truth: Annotated boxes.
        proposals: Floor-score proposals, with the true units of each image.
        features: An embedding of each image ``[N, d]``.
        patterns: Five local patterns of each image ``[N, 5 d]``.
        groups: Near duplicates ``[N]``.
        ids: Names of the images.
        rare: Classes that are judged on their own.
        calibration: Thresholds.
    """

    truth: Objects
    proposals: Objects
    features: Tensor
    patterns: Tensor
    groups: Tensor
    ids: list[str]
    rare: list[int]
    calibration: Calibration

    def part(self, positions: Tensor) -> "DetectionPool":
        """Some images, in their order; one may be there twice, as its own duplicate."""
        names: list[str] = []
        seen: dict[int, int] = {}
        for place in positions.tolist():
            seen[place] = seen.get(place, -1) + 1
            names.append(f"{self.ids[place]} copy {seen[place]}" if seen[place] else self.ids[place])
        return replace(
            self,
            truth=repeated(self.truth, positions),
            proposals=repeated(self.proposals, positions),
            features=self.features[positions],
            patterns=self.patterns[positions],
            groups=self.groups[positions],
            ids=names,
        )

    def kept(self) -> Objects:
        """Proposals above the threshold."""
        return self.calibration.keep(self.proposals)


def repeated(objects: Objects, positions: Tensor) -> Objects:
    """Some images of a table, in their order, also more than once."""
    parts = [objects.subset(positions[place : place + 1]) for place in range(len(positions))]
    units = None if objects.units is None else objects.units[positions]
    return replace(joined_tables(parts), units=units)


def thinned(pool: DetectionPool, shares: Sequence[tuple[int, float]], copies: float, seed: int) -> DetectionPool:
    """Of the images that show a class keep a share, class after class; then add exact duplicates."""
    kept = torch.ones(pool.truth.num_images, dtype=torch.bool)
    shows = pool.truth.counts() > 0
    for label, share in shares:
        showing = torch.nonzero(shows[:, label] & kept).flatten()
        order = torch.randperm(len(showing), generator=seeded_generator(seed, "thinned", label))
        kept[showing[order[round(share * len(showing)) :]]] = False
    left = torch.nonzero(kept).flatten()
    drawn = torch.randperm(len(left), generator=seeded_generator(seed, "copies"))[: round(copies * len(left))]
    return pool.part(torch.cat([left, left[drawn]]))


def voc5_pool(cache: Path, quick: bool) -> DetectionPool:
    """The train images of VOC5 as FastestDet sees them, thresholds from tiny COCO."""
    folder = _folder()
    model, names = load_fastestdet(folder)
    proposer = TorchvisionProposer(model, names)
    found, annotated = [], []
    for split in ("train", "val"):
        small = ZippedCoco(folder, "tiny_coco", split)
        found.append(with_classes(propose_objects(small, proposer, cache=cache / "proposals"), VOC5))
        annotated.append(with_classes(_truth(small), VOC5))
    calibration = calibrate(joined_tables(found), joined_tables(annotated), reference="tiny COCO")
    dataset: Any = ZippedCoco(folder, "voc5", "train")
    if quick:
        dataset = Subset(dataset, range(150))
    proposals = with_classes(propose_objects(dataset, proposer, cache=cache / "proposals"), VOC5)
    return _pool(dataset, proposals, calibration, [3, 4], cache, f"voc5-{len(dataset)}")


class _Half(Dataset[Any]):
    """NEU-DET at half its size: an image and its target, labels from 1."""

    def __init__(self, dataset: Any, positions: Sequence[int], objects: Objects) -> None:
        self.images = [resize(as_tensor(dataset[place][0]), [100, 100], antialias=True) for place in positions]
        self.objects = replace(objects.subset(positions), features=None)
        halved = replace(self.objects, boxes=self.objects.boxes / 2, image_sizes=None)
        self.objects = replace(halved, image_sizes=torch.full((len(self.images), 2), 100))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        mine = self.objects.image == index
        return self.images[index], {"boxes": self.objects.boxes[mine], "labels": self.objects.labels[mine] + 1}


def neu_det_pool(cache: Path, quick: bool) -> DetectionPool:
    """The train images of NEU-DET as a small detector sees them that has learnt from 60 others.

    Those are val images, 10 of each class; the other val images are for calibration.
    """
    folder = _folder()
    val, train = (ZippedCoco(folder, "neu_det", split) for split in ("val", "train"))
    annotated = [_truth(dataset) for dataset in (val, train)]
    names = list(annotated[1].class_names or ())
    annotated = [with_classes(objects, names) for objects in annotated]
    # An image shows one main class: that of its first box.
    first = [int(annotated[0].labels[annotated[0].image == place][0]) for place in range(len(val))]
    learnt = [place for label in range(6) for place in range(len(val)) if first[place] == label]
    by_class = [[place for place in learnt if first[place] == label][:10] for label in range(6)]
    known = [place for places in by_class for place in places]
    reference = [place for place in range(len(val)) if place not in known]
    seen = _Half(val, known, annotated[0])
    detector = fitted(SceneData(seen, seen), 80 if quick else 150, detector=SmallDetector(6))
    proposer = TorchvisionProposer(detector, names, floor=0.05)
    others = _Half(val, reference[:60] if quick else reference, annotated[0])
    calibration = calibrate(propose_objects(others, proposer), others.objects, reference="NEU-DET val, 300 others")
    pool = _Half(train, range(120 if quick else len(train)), annotated[1])
    rare = [names.index(name) for name in ("pitted_surface", "scratches")]
    return _pool(
        pool, propose_objects(pool, proposer), calibration, rare, cache, f"neu_det-{len(pool)}", pool.objects, 112
    )


def digits_pools(seeds: Sequence[int], quick: bool) -> tuple[list[DetectionPool], float]:
    """Scenes of digits as a small detector sees them that has learnt from other writers, and its recall on them."""
    others = digit_scenes(550, seed=100, duplicates=0.0, balanced=True, writers=PROPOSER_WRITERS)
    known = SceneImages(others)
    learnt = others._replace(images=others.images[:400], targets=others.targets[:400])
    proposer = trained_proposer(learnt, 80 if quick else 250)
    held = range(400, 550)
    calibration = calibrate(
        propose_objects(Subset(known, held), proposer), known.objects.subset(held), reference="150 other scenes"
    )
    pools, found, total = [], 0, 0
    for seed in seeds:
        scenes = digit_scenes(200 if quick else 600, seed=seed)
        images = SceneImages(scenes)
        proposals = propose_objects(images, proposer)
        units = torch.bincount(images.objects.image, minlength=len(images))
        matches = match(calibration.keep(proposals), images.objects)
        found, total = found + int(matches.hits.sum()), total + int(matches.objects.sum())
        rows = torch.zeros(len(images), 1)
        names = [f"scene {place:04d}" for place in range(len(images))]
        table = replace(proposals, units=units)
        rare = [6, 7, 8, 9]
        pools.append(DetectionPool(images.objects, table, rows, rows, scenes.groups, names, rare, calibration))
    return pools, found / total


def _pool(
    dataset: Any,
    proposals: Objects,
    calibration: Calibration,
    rare: list[int],
    cache: Path,
    name: str,
    truth: Objects | None = None,
    side: int = 224,
) -> DetectionPool:
    truth = with_classes(_truth(dataset), list(proposals.class_names or ())) if truth is None else truth
    features, patterns = image_rows(dataset, cache / f"{name}.pt", side)
    units = torch.bincount(truth.image, minlength=len(dataset))
    return DetectionPool(
        truth=truth,
        proposals=replace(proposals, units=units),
        features=features,
        patterns=patterns,
        groups=torch.arange(len(dataset)),
        ids=[f"{place:05d}" for place in range(len(dataset))],
        rare=rare,
        calibration=calibration,
    )


def image_rows(dataset: Any, path: Path, side: int = 224) -> tuple[Tensor, Tensor]:
    """Mean and five local patterns of the last map of a SqueezeNet that knows ImageNet."""
    if path.exists():
        kept = torch.load(path, weights_only=True)
        return kept["features"], kept["patterns"]
    network: Any = squeezenet1_0(weights=None)
    state = torch.load(_folder() / "weights" / "squeezenet1_0_imagenet_fp16.pt", weights_only=True)
    network.load_state_dict({name: value.float() for name, value in state.items()})
    layers: nn.Module = network.eval().features
    images, features, patterns = RawImages(dataset), [], []
    with torch.no_grad():
        for place in range(len(dataset)):
            image = as_tensor(images[place])
            image = image.expand(3, -1, -1) if len(image) == 1 else image
            maps = layers(normalize(resize(image.float() / 255, [side, side], antialias=True), _MEAN, _SPREAD)[None])
            features.append(maps.mean(dim=(2, 3)))
            patterns.append(local_patterns(maps))
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = {"features": torch.cat(features), "patterns": torch.cat(patterns)}
    torch.save(rows, path)
    return rows["features"], rows["patterns"]


def _truth(dataset: Any) -> Objects:
    found = read_objects(dataset)
    if found is None:
        msg = f"{dataset} has no boxes: check the folder of real data."
        raise SystemExit(msg)
    return found


def _folder() -> Path:
    folder = data_folder()
    if folder is None:
        msg = "Give the folder of real data in LIGHTNING_CORESET_DATA."
        raise SystemExit(msg)
    return folder
