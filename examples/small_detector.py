"""A small detector that trains in a minute on one CPU core, and what the detection examples share around it.

It is called as torchvision's detectors are (a list of images in, a dict of boxes, labels and scores for each out; label
1 is the first class) and has their ``transform`` and ``backbone``, so that `TorchvisionProposer` finds features in it.
"""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import matplotlib
import torch
from digit_scenes import DigitScenes
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchmetrics.detection import MeanAveragePrecision
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import batched_nms

from lightning_coreset.active.detections import Detections
from lightning_coreset.detection import Objects, TorchvisionProposer

matplotlib.use("Agg")
import matplotlib.pyplot as plt

BATCH_SIZE = 16


class Stacked(nn.Module):
    """Images of one size as torchvision's detectors pass them on."""

    def forward(self, images: Sequence[Tensor], targets: Any = None) -> tuple[ImageList, Any]:
        """A batch, and targets as they are."""
        return ImageList(torch.stack(list(images)), [tuple(image.shape[-2:]) for image in images]), targets


class SmallDetector(pl.LightningModule):
    """Objects as points (Zhou et al. 2019): each cell says which class is centred there, and how far its edges are."""

    stride = 4

    def __init__(self, classes: int, *, width: int = 48, rare: Sequence[int] = (), seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.transform = Stacked()
            self.backbone = self.built(width)
            self.centers = nn.Conv2d(width, classes, 1)
            self.edges = nn.Conv2d(width, 4, 1)
        # Few cells are centres: learning begins from there.
        nn.init.constant_(self.centers.bias, -4.0)
        self.classes = classes
        self.rare = list(rare)
        self.metric: Any = None

    def built(self, width: int) -> nn.Module:
        """From images to a map of one cell for ``stride`` pixels."""
        return nn.Sequential(
            *self._step(3, 16, stride=2),
            *self._step(16, 32, stride=2),
            *self._step(32, width),
            *self._step(width, width),
            *self._step(width, width),
        )

    def prepared(self, image: Tensor) -> Tensor:
        """An image as it is stored, in [0, 1]."""
        return image.float() / 255

    @staticmethod
    def _step(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

    def forward(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Boxes, labels (from 1), scores and cells of each image ``[3, H, W]`` in [0, 1], the best 100."""
        listed, _ = self.transform(images)
        chances, edges = self.points(self.backbone(listed.tensors))
        return [self.decoded(*one) for one in zip(chances, edges, strict=True)]

    def points(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """How likely a class is centred in each cell ``[B, C, h, w]``, and how far the edges are ``[B, 4, h, w]``."""
        return self.centers(maps).sigmoid(), nn.functional.softplus(self.edges(maps)) * 2 * self.stride

    def decoded(self, chances: Tensor, edges: Tensor) -> dict[str, Tensor]:
        """The boxes of one image and the cells they come from."""
        # The highest cell of each neighbourhood.
        peaks = chances * (nn.functional.max_pool2d(chances[None], 3, 1, 1)[0] == chances)
        scores, places = peaks.flatten().topk(min(200, peaks.numel()))
        rows, columns = chances.shape[1:]
        labels, cells = places // (rows * columns), places % (rows * columns)
        y, x = (cells // columns + 0.5) * self.stride, (cells % columns + 0.5) * self.stride
        left, top, right, bottom = edges.flatten(1)[:, cells]
        height, width = rows * self.stride, columns * self.stride
        boxes = torch.stack([x - left, y - top, x + right, y + bottom], dim=1)
        boxes = torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height, width, height]))
        kept = batched_nms(boxes, scores, labels, 0.5)[:100]
        return {"boxes": boxes[kept], "labels": labels[kept] + 1, "scores": scores[kept], "cells": cells[kept]}

    def training_step(self, batch: tuple[Sequence[Tensor], Sequence[dict[str, Tensor]]]) -> Tensor:
        """Focal loss of the centres, absolute error of the edges."""
        images, targets = batch
        chances, edges = self.points(self.backbone(torch.stack([self.prepared(image) for image in images])))
        wanted, distances, centers = _drawn(targets, chances.shape, self.stride)
        chances = chances.clamp(1e-4, 1 - 1e-4)
        right = (wanted == 1) * (1 - chances) ** 2 * chances.log()
        wrong = (wanted < 1) * (1 - wanted) ** 4 * chances**2 * (1 - chances).log()
        count = max(1, int(centers.sum()))
        missed = (nn.functional.l1_loss(edges, distances, reduction="none") * centers[:, None]).sum()
        return -(right + wrong).sum() / count + 0.2 / self.stride * missed / count

    def on_test_epoch_start(self) -> None:
        """A fresh metric; its backend is in the extra ``[detection]``."""
        self.metric = MeanAveragePrecision(backend="faster_coco_eval", class_metrics=True)

    def test_step(self, batch: tuple[Sequence[Tensor], Sequence[dict[str, Tensor]]]) -> None:
        """Compare with what people drew."""
        images, targets = batch
        self.metric.update(self([self.prepared(image) for image in images]), list(targets))

    def on_test_epoch_end(self) -> None:
        """AP at an overlap of 0.5, over all classes and over the rare ones."""
        found = self.metric.compute()
        self.log("ap50", found["map_50"])
        # The metric has AP over overlaps for single classes; classes that do not occur are -1.
        by_class = dict(zip(found["classes"].tolist(), found["map_per_class"].tolist(), strict=True))
        values = [by_class[label + 1] for label in self.rare if by_class.get(label + 1, -1) >= 0]
        self.log("ap_rare", sum(values) / max(1, len(values)))

    def on_validation_epoch_start(self) -> None:
        """As for testing."""
        self.on_test_epoch_start()

    def validation_step(self, batch: tuple[Sequence[Tensor], Sequence[dict[str, Tensor]]]) -> None:
        """As for testing."""
        self.test_step(batch)

    def on_validation_epoch_end(self) -> None:
        """As for testing."""
        self.on_test_epoch_end()

    def configure_optimizers(self) -> Any:
        """Adam, cooling down to the end of training."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=3e-3, weight_decay=1e-4)
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps + 1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _drawn(targets: Sequence[dict[str, Tensor]], shape: Sequence[int], stride: int) -> tuple[Tensor, Tensor, Tensor]:
    """Maps to learn: soft centres ``[B, C, h, w]``, distances to the edges ``[B, 4, h, w]``, cells with an object."""
    wanted = torch.zeros(*shape)
    distances = torch.zeros(shape[0], 4, *shape[2:])
    centers = torch.zeros(shape[0], *shape[2:])
    y, x = torch.meshgrid(torch.arange(shape[2]), torch.arange(shape[3]), indexing="ij")
    for place, target in enumerate(targets):
        for box, label in zip(target["boxes"].as_subclass(Tensor), target["labels"].tolist(), strict=True):
            middle = ((box[:2] + box[2:]) / 2 / stride).long().clamp(max=torch.tensor([shape[3] - 1, shape[2] - 1]))
            radius = float(((box[2:] - box[:2]) / stride).mean()) / 6 + 0.3
            soft = torch.exp(-((x - middle[0]) ** 2 + (y - middle[1]) ** 2) / (2 * radius**2))
            torch.maximum(wanted[place, label - 1], soft, out=wanted[place, label - 1])
            wanted[place, label - 1, middle[1], middle[0]] = 1.0
            # The cells beside the middle learn the edges too.
            for row in range(max(0, int(middle[1]) - 1), min(shape[2], int(middle[1]) + 2)):
                for column in range(max(0, int(middle[0]) - 1), min(shape[3], int(middle[0]) + 2)):
                    here = torch.tensor([column + 0.5, row + 0.5]) * stride
                    distances[place, :, row, column] = torch.cat([here - box[:2], box[2:] - here]).clamp(min=0)
                    centers[place, row, column] = 1.0
    return wanted, distances, centers


class SceneImages(Dataset[Any]):
    """Scenes as a detection dataset: an image and its target, labels from 1; ``objects`` is their table."""

    def __init__(self, scenes: DigitScenes) -> None:
        self.images = scenes.images
        self.class_names = scenes.class_names
        self.objects = Objects.from_targets(scenes.targets, class_names=scenes.class_names)
        self._targets = [target | {"labels": target["labels"] + 1} for target in scenes.targets]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        """One image and its target."""
        return self.images[index], self._targets[index]


def collate(items: list[Any]) -> tuple[list[Any], list[Any]]:
    """Images and targets of a batch; each image has its own number of boxes."""
    images, targets = zip(*items, strict=True)
    return list(images), list(targets)


class SceneData(pl.LightningDataModule):
    """The datamodule somebody has already: nothing in it knows of coresets."""

    def __init__(self, train: Any, test: Any) -> None:
        super().__init__()
        self.train, self.test = train, test

    def train_dataloader(self) -> DataLoader:
        """Shuffled batches."""
        return DataLoader(self.train, BATCH_SIZE, shuffle=True, collate_fn=collate)

    def test_dataloader(self) -> DataLoader:
        """Images that no method ever sees."""
        return DataLoader(self.test, BATCH_SIZE, collate_fn=collate)


class WatchedData(SceneData):
    """The same, with test images that are looked at after each round of active learning."""

    def val_dataloader(self) -> DataLoader:
        """Images that no method ever sees."""
        return self.test_dataloader()


def detections(detector: SmallDetector, items: list[Any], floor: float = 0.1) -> Detections:
    """What queries of active learning look at: classes, features and corners of the boxes above a score."""
    maps = detector.backbone(torch.stack([detector.prepared(item[0]) for item in items]))
    chances, edges = detector.points(maps)
    image, probabilities, features, boxes = [], [], [], []
    for place in range(len(items)):
        found = detector.decoded(chances[place], edges[place])
        kept = found["scores"] >= floor
        cells = found["cells"][kept]
        image.append(torch.full((len(cells),), place))
        probabilities.append(chances[place].flatten(1)[:, cells].T)
        features.append(maps[place].flatten(1)[:, cells].T)
        boxes.append(found["boxes"][kept])
    columns = (torch.cat(column) for column in (image, probabilities, features))
    # Targets count classes from 1.
    return Detections(*columns, len(items), torch.cat(boxes), range(1, detector.classes + 1))


def fitted(data: pl.LightningDataModule, steps: int, *, detector: SmallDetector, seed: int = 0) -> SmallDetector:
    """A detector after so many steps on a datamodule, the same number whatever the size of its train set."""
    pl.seed_everything(seed, verbose=False)
    trainer_of(steps).fit(detector, datamodule=data)
    return detector


def tested(detector: SmallDetector, data: pl.LightningDataModule) -> tuple[float, float]:
    """AP50 over all classes and AP over the rare ones, in percent."""
    found = trainer_of(1).test(detector, datamodule=data, verbose=False)[0]
    return 100 * found["ap50"], 100 * found["ap_rare"]


def trainer_of(steps: int, *, watched: bool = False) -> pl.Trainer:
    """A trainer that leaves nothing on the disk; watched, it validates once, after the last step."""
    often: dict[str, Any] = {"val_check_interval": steps, "check_val_every_n_epoch": None} if watched else {}
    return pl.Trainer(
        max_steps=steps,
        max_epochs=-1,
        num_sanity_val_steps=0,
        **often,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def trained_proposer(scenes: DigitScenes, steps: int, floor: float = 0.05) -> TorchvisionProposer:
    """A proposer trained on scenes of its own: the detector that somebody has from another project."""
    images = SceneImages(scenes)
    detector = fitted(SceneData(images, images), steps, detector=SmallDetector(len(scenes.class_names)))
    return TorchvisionProposer(detector, scenes.class_names, floor=floor)


def rarest(objects: Objects, count: int = 4) -> list[int]:
    """The classes with the fewest objects."""
    return torch.bincount(objects.labels, minlength=objects.num_classes).argsort(stable=True)[:count].tolist()


def quiet() -> None:
    """Leave the tables readable."""
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def draw(
    images: Any, objects: Objects, chosen: Sequence[int], reasons: Sequence[int], path: Path, title: str, most: int = 24
) -> None:
    """The first chosen images; boxes of the class for which an image was chosen in its colour, others white."""
    colors = plt.get_cmap("tab10")
    names = objects.class_names or []
    columns = 8
    rows = -(-min(most, len(chosen)) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(1.7 * columns, 1.9 * rows + 0.6), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, reason in zip(axes.flat, chosen, reasons, strict=False):
        axis.imshow(images[image].permute(1, 2, 0))
        axis.set_title(f"for {names[reason]}", fontsize=8, color=colors(reason % 10))
        here = objects.image == image
        for box, label in zip(objects.boxes[here].tolist(), objects.labels[here].tolist(), strict=True):
            why = label == reason
            edge = {"edgecolor": colors(reason % 10) if why else "white", "linewidth": 2.0 if why else 0.6}
            axis.add_patch(plt.Rectangle((box[0], box[1]), box[2] - box[0], box[3] - box[1], fill=False, **edge))
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def table(rows: Sequence[Sequence[Any]]) -> None:
    """Print a table of methods."""
    header = ("method", "images", "boxes", "balance", "rare boxes", "duplicates", "AP50 %", "AP rare %")
    for row in (header, *rows):
        cells = [f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row]
        print(f"{cells[0]:28}" + "".join(f"{cell:>11}" for cell in cells[1:]), flush=True)


def chosen_row(scenes: DigitScenes, objects: Objects, chosen: Tensor, rare: Sequence[int]) -> list[Any]:
    """Images, boxes, balance of classes, boxes of rare classes and duplicate pairs of a selection."""
    from lightning_coreset.detection.report import class_balance

    part = objects.subset(chosen)
    counts = torch.bincount(part.labels, minlength=objects.num_classes)
    return [len(chosen), len(part), class_balance(counts), int(counts[rare].sum()), scenes.duplicate_pairs(chosen)]


def labelled_part(images: SceneImages, chosen: Tensor) -> Subset[Any]:
    """The images that people labelled."""
    return Subset(images, chosen.tolist())
