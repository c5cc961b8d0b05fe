"""Proposals as labels: files that other tools read, and a dataset in which human labels go first."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from lightning_coreset.data import RawImages
from lightning_coreset.detection.calibration import Calibration
from lightning_coreset.detection.masks import encoded, mask_of, polygons_of
from lightning_coreset.detection.objects import Objects
from lightning_coreset.detection.proposals import Proposals, objects_from_proposals
from lightning_coreset.detection.rows import joined_tables
from lightning_coreset.storage import join, write_atomic

_UNLABELLED = 255


def write_autolabels(
    path: Any,
    proposals: Objects | Sequence[Proposals],
    *,
    class_names: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    ids: Sequence[int] | None = None,
    category_ids: Mapping[str, int] | None = None,
    calibration: Calibration | None = None,
    masks: str = "rle",
) -> int:
    """Write proposals as a COCO file whose annotations have scores; images without any stay listed.

    Args:
        path: The ``.json`` file; written atomically.
        proposals: One table, or one `Proposals` for each image, which may hold masks.
        class_names: Names of the classes where the proposals do not tell them.
        names: File names of the images ``N``.
        ids: COCO ids of the images ``N``; None numbers them from 1.
        category_ids: COCO ids of the classes by name; None numbers them from 1.
        calibration: Leaves out what is below its threshold, by the rule ``"f1"`` as a rule.
        masks: ``"rle"`` for run lengths, ``"polygons"`` for outlines without holes.

    Returns:
        Number of annotations written.

    Raises:
        ValueError: No class names, or columns of another length.

    Example:
        >>> found = Objects([1], [[2, 1, 6, 4]], [0], num_images=2, scores=[0.5], class_names=["cat"])
        >>> write_autolabels("memory://autolabels.json", found)
        1
    """
    if masks not in ("rle", "polygons"):
        msg = f"masks={masks!r} is not accepted: give 'rle' or 'polygons'."
        raise ValueError(msg)
    table = proposals if isinstance(proposals, Objects) else objects_from_proposals(proposals)
    segments = _segments(proposals, masks)
    table = table if class_names is None else replace(table, class_names=list(class_names))
    if table.class_names is None:
        msg = "autolabels need the names of the classes and the proposals tell none: give class_names=."
        raise ValueError(msg)
    for told, column in (("names", names), ("ids", ids)):
        if column is not None and len(column) != table.num_images:
            msg = f"{told} are {len(column)} for {table.num_images} images: give one for each image."
            raise ValueError(msg)
    numbered = list(range(1, table.num_images + 1)) if ids is None else list(ids)
    categories = _categories(table.class_names, category_ids)
    kept = _kept_rows(table, calibration)
    annotations: list[dict[str, Any]] = []
    for row in kept.tolist():
        x1, y1, x2, y2 = table.boxes[row].tolist()
        label = table.class_names[int(table.labels[row])]
        entry: dict[str, Any] = {
            "id": len(annotations) + 1,
            "image_id": numbered[int(table.image[row])],
            "category_id": categories[label],
            "bbox": [round(value, 3) for value in (x1, y1, x2 - x1, y2 - y1)],
            "area": round((x2 - x1) * (y2 - y1), 3),
            "iscrowd": 0,
        }
        if table.scores is not None:
            entry["score"] = round(float(table.scores[row]), 6)
        if segments is not None:
            entry |= segments(row)
        annotations.append(entry)
    content = {
        "info": {"description": "autolabels", "calibration": None if calibration is None else _told(calibration)},
        "images": [_image(table, place, number, names) for place, number in enumerate(numbered)],
        "annotations": annotations,
        "categories": [{"id": categories[name], "name": name} for name in table.class_names],
    }
    write_atomic(path, json.dumps(content).encode())
    return len(annotations)


def write_label_maps(
    folder: Any,
    proposals: Sequence[Proposals],
    names: Sequence[str],
    *,
    calibration: Calibration | None = None,
    class_names: Sequence[str] | None = None,
) -> list[str]:
    """Write one 8-bit PNG for each image: the class of each pixel, 255 where no proposal reaches.

    Where masks overlap the higher score counts.

    Args:
        folder: Folder or fsspec URL.
        proposals: One for each image, with masks.
        names: File names of the images ``N``; the last part, with another suffix, is the name of the label map.
        calibration: Leaves out what is below its threshold.
        class_names: Names of the classes, where the calibration has thresholds by class.

    Returns:
        Paths of the files.

    Raises:
        ValueError: Two images of one name, proposals without masks, more than 255 classes.
    """
    stems = [PurePath(name).stem for name in names]
    if len(set(stems)) != len(proposals):
        msg = f"names hold {len(set(stems))} distinct file names for {len(proposals)} images: give one for each."
        raise ValueError(msg)
    paths = []
    for stem, part in zip(stems, proposals, strict=True):
        if len(part) and part.masks is None:
            msg = f"The proposals of {stem} have no masks to paint: give those of a segmenter."
            raise ValueError(msg)
        if len(part) and int(part.labels.max()) >= _UNLABELLED:
            msg = f"class {int(part.labels.max())} does not fit a map of 8 bits: at most {_UNLABELLED} classes."
            raise ValueError(msg)
        table = objects_from_proposals([part], class_names=class_names)
        canvas = torch.full(part.size, _UNLABELLED, dtype=torch.uint8)
        rows = _kept_rows(table, calibration)
        for row in rows[torch.argsort(part.scores[rows], stable=True)].tolist():
            assert part.masks is not None
            canvas[mask_of(part.masks[row], part.size)] = int(part.labels[row])
        buffer = io.BytesIO()
        Image.fromarray(canvas.numpy()).save(buffer, format="PNG")
        paths.append(join(folder, f"{stem}.png"))
        write_atomic(paths[-1], buffer.getvalue())
    return paths


def with_human_labels(autolabels: Objects, human: Objects, labelled: Tensor | Sequence[int]) -> Objects:
    """Autolabels in which the images that people labelled have theirs instead, also where they saw nothing.

    Args:
        autolabels: Objects of ``N`` images.
        human: Annotated objects of the same images; only those of ``labelled`` count.
        labelled: Positions of the images that people labelled ``[L]``.

    Raises:
        ValueError: Other images.

    Example:
        >>> guessed = Objects([0, 1], [[0, 0, 2, 2]] * 2, [0, 0], num_images=2, scores=[0.5, 0.5])
        >>> with_human_labels(guessed, Objects([], [], [], num_images=2), [1]).image.tolist()
        [0]
    """
    if autolabels.num_images != human.num_images:
        msg = f"autolabels are of {autolabels.num_images} images and human labels of {human.num_images}: give the same."
        raise ValueError(msg)
    by_people = torch.zeros(autolabels.num_images, dtype=torch.bool)
    by_people[torch.as_tensor(labelled, dtype=torch.int64)] = True
    guessed = replace(autolabels.where(~by_people[autolabels.image]), features=None, units=None)
    drawn = replace(human.where(by_people[human.image]), features=None, units=None)
    ones = torch.ones(len(drawn))
    both = joined_tables([guessed, drawn if guessed.scores is None else replace(drawn, scores=ones)])
    sizes = autolabels.image_sizes if autolabels.image_sizes is not None else human.image_sizes
    return replace(both, image=both.image % autolabels.num_images, num_images=autolabels.num_images, image_sizes=sizes)


class LabelledImages(Dataset[Any]):
    """A dataset's images with the objects of a table as targets, instead of its own.

    Over autolabels it is what a detector pretrains on; over `with_human_labels` what it is fine-tuned on. It is for
    training only: validate on the dataset itself.

    Args:
        dataset: A map-style dataset of ``N`` images, read before any transform of its own.
        objects: Objects of its images.
        transforms: Called as ``transforms(image, target)``, as torchvision's v2 transforms are.
        first_label: Number of the first class; 1 for torchvision's detectors, whose 0 is the background.

    Raises:
        ValueError: Objects of another number of images.

    Example:
        >>> images = LabelledImages([torch.zeros(3, 4, 6)], Objects([0], [[1, 1, 3, 2]], [2], num_images=1))
        >>> images[0][1]["labels"].tolist()
        [3]
    """

    def __init__(
        self,
        dataset: Any,
        objects: Objects,
        *,
        transforms: Callable[..., Any] | None = None,
        first_label: int = 1,
    ) -> None:
        if objects.num_images != len(dataset):
            msg = f"objects are of {objects.num_images} images and the dataset has {len(dataset)}: give its own."
            raise ValueError(msg)
        self.objects = objects
        self.transforms = transforms
        self.first_label = first_label
        self._images = RawImages(dataset)
        self._bounds = torch.searchsorted(objects.image, torch.arange(objects.num_images + 1))

    def __len__(self) -> int:
        """Number of images."""
        return len(self._images)

    def __getitem__(self, index: int) -> Any:
        """An image and its target: ``boxes``, ``labels``, ``image_id``, and ``scores`` where there are any."""
        image = self._images[index]
        height, width = image.shape[-2:] if isinstance(image, Tensor) else (image.size[1], image.size[0])
        rows = slice(int(self._bounds[index]), int(self._bounds[index + 1]))
        keep = slice(None) if self.objects.crowd is None else ~self.objects.crowd[rows]
        boxes = self.objects.boxes[rows][keep]
        target = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(int(height), int(width))),
            "labels": self.objects.labels[rows][keep] + self.first_label,
            "image_id": index,
        }
        if self.objects.scores is not None:
            target["scores"] = self.objects.scores[rows][keep]
        return (image, target) if self.transforms is None else self.transforms(image, target)


def _kept_rows(table: Objects, calibration: Calibration | None) -> Tensor:
    """Rows that reach the threshold ``[K]``."""
    if calibration is None:
        return torch.arange(len(table))
    return torch.nonzero(calibration.reached(table)).flatten()


def _segments(proposals: Any, masks: str) -> Callable[[int], dict[str, Any]] | None:
    """The segmentation of a row of the table, where the proposals have masks."""
    if isinstance(proposals, Objects) or all(part.masks is None for part in proposals):
        return None
    runs = [(counts, part.size) for part in proposals for counts in part.masks or [None] * len(part)]

    def of_row(row: int) -> dict[str, Any]:
        counts, size = runs[row]
        if counts is None:
            return {}
        if masks == "rle":
            return {"segmentation": {"size": list(size), "counts": encoded(counts)}, "area": int(np.sum(counts[1::2]))}
        return {"segmentation": polygons_of(mask_of(counts, size)), "area": int(np.sum(counts[1::2]))}

    return of_row


def _categories(class_names: Sequence[str], given: Mapping[str, int] | None) -> dict[str, int]:
    if given is None:
        return {name: place for place, name in enumerate(class_names, start=1)}
    missing = next((name for name in class_names if name not in given), None)
    if missing is not None:
        msg = f"category_ids lack the class {missing!r}: give an id for every class."
        raise ValueError(msg)
    return dict(given)


def _image(table: Objects, place: int, number: int, names: Sequence[str] | None) -> dict[str, Any]:
    entry: dict[str, Any] = {"id": number, "file_name": str(number) if names is None else names[place]}
    if table.image_sizes is not None:
        entry |= {"height": int(table.image_sizes[place, 0]), "width": int(table.image_sizes[place, 1])}
    return entry


def _told(calibration: Calibration) -> dict[str, Any]:
    thresholds = {"threshold": calibration.threshold, **calibration.thresholds}
    return {"rule": calibration.rule, "reference": calibration.reference, "thresholds": thresholds}
