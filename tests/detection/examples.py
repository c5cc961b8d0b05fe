"""The same boxes in every form that users have them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets import CocoDetection, VOCDetection

from lightning_coreset.detection import Objects, Proposals

NAMES = ["ant", "bee", "cat"]
SIZES = [(40, 60), (50, 30), (32, 32)]
BOXES = [[[1.0, 2.0, 11.0, 22.0], [30.0, 5.0, 60.0, 40.0]], [], [[0.0, 0.0, 32.0, 16.0]]]
LABELS = [[2, 0], [], [2]]
CROWD = [[False, True], [], [False]]


def picture(size: tuple[int, int], seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def dicts() -> list[dict[str, Any]]:
    return [
        {
            "boxes": torch.tensor(boxes).reshape(-1, 4),
            "labels": torch.tensor(labels, dtype=torch.int64),
            "iscrowd": crowd,
        }
        for boxes, labels, crowd in zip(BOXES, LABELS, CROWD, strict=True)
    ]


def xywh(box: Sequence[float]) -> list[float]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def coco_lists() -> list[list[dict[str, Any]]]:
    return [
        [
            {"image_id": 10 * image, "category_id": 3 + 4 * label, "bbox": xywh(box), "iscrowd": int(many)}
            for box, label, many in zip(BOXES[image], LABELS[image], CROWD[image], strict=True)
        ]
        for image in range(3)
    ]


def coco_content() -> dict[str, Any]:
    """Ids with gaps, and images that do not stand in the order of their ids."""
    images = [
        {"id": 10 * image, "file_name": f"{image}.png", "height": size[0], "width": size[1]}
        for image, size in enumerate(SIZES)
    ]
    return {
        "images": images[::-1],
        "annotations": [entry for entries in coco_lists() for entry in entries],
        "categories": [{"id": 3 + 4 * label, "name": name} for label, name in reversed(list(enumerate(NAMES)))],
    }


def voc_annotation(image: int) -> dict[str, Any]:
    entries = [
        {
            "name": NAMES[label],
            "difficult": str(int(many)),
            "bndbox": dict(zip(("xmin", "ymin", "xmax", "ymax"), map(str, box), strict=True)),
        }
        for box, label, many in zip(BOXES[image], LABELS[image], CROWD[image], strict=True)
    ]
    size = {"height": str(SIZES[image][0]), "width": str(SIZES[image][1]), "depth": "3"}
    return {"annotation": {"size": size, **({"object": entries} if entries else {})}}


def voc_xml(image: int) -> str:
    annotation = voc_annotation(image)["annotation"]
    size = "".join(f"<{key}>{value}</{key}>" for key, value in annotation["size"].items())
    objects = "".join(
        f"<object><name>{entry['name']}</name><difficult>{entry['difficult']}</difficult><bndbox>"
        + "".join(f"<{key}>{value}</{key}>" for key, value in entry["bndbox"].items())
        + "</bndbox><part><name>head</name></part></object>"
        for entry in annotation.get("object", [])
    )
    return f"<annotation><size>{size}</size>{objects}</annotation>"


def write_yolo(root: Path) -> Path:
    for name in ("images", "labels"):
        (root / name / "a").mkdir(parents=True)
    for image, size in enumerate(SIZES):
        picture(size).save(root / "images" / "a" / f"{image}.png")
        lines = [
            f"{label} {(x1 + x2) / 2 / size[1]} {(y1 + y2) / 2 / size[0]} {(x2 - x1) / size[1]} {(y2 - y1) / size[0]}"
            for (x1, y1, x2, y2), label in zip(BOXES[image], LABELS[image], strict=True)
        ]
        if lines:
            (root / "labels" / "a" / f"{image}.txt").write_text("\n".join(lines) + "\n")
    (root / "data.yaml").write_text("names:\n" + "".join(f"  {label}: {name}\n" for label, name in enumerate(NAMES)))
    return root


class CocoIndex:
    """What torchvision's `CocoDetection` asks of pycocotools, without it."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.dataset = content
        self.imgs = {image["id"]: image for image in content["images"]}

    def loadImgs(self, image: int) -> list[dict[str, Any]]:
        return [self.imgs[image]]

    def getAnnIds(self, image: int) -> list[int]:
        return [place for place, entry in enumerate(self.dataset["annotations"]) if entry["image_id"] == image]

    def loadAnns(self, places: list[int]) -> list[dict[str, Any]]:
        return [self.dataset["annotations"][place] for place in places]


class Coco(CocoDetection):
    """Torchvision's own class over an index in memory."""

    def __init__(self, root: Path, content: dict[str, Any] | None = None, **arguments: Any) -> None:
        super(CocoDetection, self).__init__(root, **arguments)
        self.coco = CocoIndex(coco_content() if content is None else content)
        self.ids = sorted(self.coco.imgs)


def coco_dataset(root: Path, **arguments: Any) -> Coco:
    for image, size in enumerate(SIZES):
        picture(size, image).save(root / f"{image}.png")
    return Coco(root, **arguments)


def voc_dataset(root: Path) -> VOCDetection:
    base = root / "VOCdevkit" / "VOC2012"
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (base / name).mkdir(parents=True)
    for image, size in enumerate(SIZES):
        picture(size, image).save(base / "JPEGImages" / f"{image}.jpg")
        (base / "Annotations" / f"{image}.xml").write_text(voc_xml(image))
    (base / "ImageSets" / "Main" / "train.txt").write_text("0\n1\n2\n")
    return VOCDetection(root)


class Scenes(Dataset[Any]):
    """Images of several sizes, each of which shows its own number of bright squares."""

    def __init__(self, count: int = 12) -> None:
        self.count = count
        self.reads = 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        self.reads += 1
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(0, 100, (3, 20 + index, 30), generator=generator, dtype=torch.uint8)
        for place in range(index % 4):
            image[:, 2:8, 3 + 7 * place : 8 + 7 * place] = 255
        return image, {}


def squares(images: Sequence[Tensor]) -> list[Proposals]:
    """Finds the bright squares of `Scenes`; the class is the number of those before."""
    found = []
    for image in images:
        starts = [3 + 7 * place for place in range(3) if int(image[0, 2, 3 + 7 * place]) == 255]
        boxes = torch.tensor([[start, 2.0, start + 5.0, 8.0] for start in starts]).reshape(-1, 4)
        features = torch.tensor([[float(image.float().mean()), start / 3] for start in starts]).reshape(-1, 2)
        scores = torch.tensor([1 / (1 + start) for start in starts])
        labels = torch.arange(len(starts))
        found.append(Proposals(boxes, labels, scores, features, (image.shape[-2], image.shape[-1])))
    return found


def same(first: Objects, second: Objects, *, names: bool = True) -> None:
    """Every column of two tables is the same."""
    assert first.num_images == second.num_images
    for column in ("image", "boxes", "labels", "scores", "features", "crowd", "image_sizes", "units"):
        one, other = getattr(first, column), getattr(second, column)
        assert (one is None) == (other is None), column
        if one is not None:
            assert torch.equal(one, other), column
    if names:
        assert first.class_names == second.class_names


def write_json(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path
