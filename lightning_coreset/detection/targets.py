"""What users write as targets, in any of the usual forms, as one table of objects."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from lightning_coreset.detection.class_names import ClassNames
from lightning_coreset.detection.coco import CocoFile
from lightning_coreset.detection.objects import Objects
from lightning_coreset.detection.rows import ImageTarget, table_of
from lightning_coreset.detection.semantic import semantic_regions
from lightning_coreset.detection.voc import parse_voc
from lightning_coreset.detection.yolo import read_yolo

_BOX_KEYS = ("boxes", "bboxes", "bbox_xyxy", "bbox")
_LABEL_KEYS = ("labels", "label", "class_labels", "category_id")
_FORMS = (
    "dicts with boxes and labels, lists of COCO annotations, VOC annotations, semantic masks, a COCO JSON file or a "
    "YOLO folder"
)


def objects_from_targets(targets: Any, *, class_names: ClassNames = None, features: Any = None) -> Objects:
    """One table of the targets of ``N`` images.

    Boxes of a crowd, difficult ones and those without area are marked as ``crowd``: they count as annotation units,
    not as objects to learn from.

    Args:
        targets: One target for each image, all of one form: dicts as torchvision's detectors take them (``boxes`` as
            x1, y1, x2, y2 or as ``tv_tensors.BoundingBoxes`` of any format, ``labels``, ``iscrowd`` or ``difficult``; a
            dict without boxes is an image without objects), `CocoDetection`'s lists, `VOCDetection`'s dicts, or
            semantic masks ``[H, W]``, whose regions are the objects. Or the path of a COCO JSON file (images in
            ascending id) or of a YOLO folder (images in alphabetical order).
        class_names: Names of the classes, or names by category id where ids have gaps; None takes those of the form:
            the categories of a COCO file, VOC's names in alphabetical order, ids as they are otherwise.
        features: Embedding of each object ``[M, D]``, in the order of the targets.

    Raises:
        ValueError: Several forms, a class that is not named, boxes that cannot be.

    Example:
        >>> target = {"boxes": torch.tensor([[1.0, 1.0, 4.0, 3.0]]), "labels": torch.tensor([2])}
        >>> objects = objects_from_targets([target, {"image_id": 7}], class_names=["ant", "bee", "cat"])
        >>> objects.num_images, objects.boxes.tolist(), objects.labels.tolist()
        (2, [[1.0, 1.0, 4.0, 3.0]], [2])
    """
    if isinstance(targets, Objects):
        return targets
    if isinstance(targets, str | Path):
        return _from_path(Path(targets), class_names, features)
    if isinstance(targets, Mapping) and "images" in targets and "annotations" in targets:
        return coco_objects(CocoFile(targets), class_names=class_names, features=features)
    if isinstance(targets, Mapping) or not isinstance(targets, Sequence | Tensor | np.ndarray):
        msg = f"targets are a {type(targets).__name__}; one target per image is accepted: {_FORMS}."
        raise ValueError(msg)
    forms = {form for form in map(_form_of, targets) if form is not None}
    if len(forms) > 1:
        msg = f"targets are of several forms ({', '.join(sorted(forms))}): give all images one of {_FORMS}."
        raise ValueError(msg)
    form = next(iter(forms), "dict")
    parts = [_parse(target, form, place, class_names) for place, target in enumerate(targets)]
    return table_of(parts, class_names=class_names, features=features, categories=form == "coco")


def coco_objects(
    file: CocoFile, ids: Sequence[int] | None = None, *, class_names: ClassNames = None, features: Any = None
) -> Objects:
    """The objects of a COCO file's images, in ascending id or in the order of ``ids``."""
    parts = [file.target(image) for image in (file.ids if ids is None else ids)]
    named = file.categories if class_names is None else class_names
    return table_of(parts, class_names=named or None, features=features, categories=True)


def _from_path(path: Path, class_names: ClassNames, features: Any) -> Objects:
    if path.is_dir():
        parts, names = read_yolo(path)
        return table_of(parts, class_names=names if class_names is None else class_names, features=features)
    if path.suffix == ".json":
        return coco_objects(CocoFile.read(path), class_names=class_names, features=features)
    msg = f"targets={str(path)!r} is no folder and no .json file: give a COCO JSON file or a YOLO folder."
    raise ValueError(msg)


def _form_of(target: Any) -> str | None:
    """The form of one image's target; None where an empty one may be of any."""
    if isinstance(target, Mapping):
        if "annotation" in target:
            return "voc"
        return "dict" if any(key in target for key in _BOX_KEYS) else None
    if isinstance(target, Image.Image):
        return "mask"
    if isinstance(target, Tensor | np.ndarray):
        return "mask" if target.ndim == 2 or (target.ndim == 3 and target.shape[0] == 1) else "unknown array"
    if isinstance(target, list | tuple) and all(isinstance(entry, Mapping) and "bbox" in entry for entry in target):
        return "coco" if target else None
    return f"unknown {type(target).__name__}"


def _parse(target: Any, form: str, place: int, class_names: ClassNames) -> ImageTarget:
    if form == "voc":
        return parse_voc(target["annotation"])
    if form == "coco":
        return CocoFile.parse(target)
    if form == "mask":
        return semantic_regions(target, class_count=None if class_names is None else len(class_names)).target()
    if form == "dict":
        return _parse_dict(target, place)
    msg = f"The target of image {place} is {form}: give {_FORMS}."
    raise ValueError(msg)


def _parse_dict(target: Any, place: int) -> ImageTarget:
    found = next((target[key] for key in _BOX_KEYS if isinstance(target, Mapping) and key in target), None)
    if found is None or len(found) == 0:
        # The wrapper of torchvision leaves nothing but an id of an image without annotations.
        return ImageTarget(size=_canvas(found))
    labels = next((target[key] for key in _LABEL_KEYS if key in target), None)
    if labels is None:
        msg = f"The target of image {place} has boxes and no labels ({', '.join(map(str, target))}): add labels [K]."
        raise ValueError(msg)
    if isinstance(found, tv_tensors.BoundingBoxes):
        corners = functional.convert_bounding_box_format(found, new_format=tv_tensors.BoundingBoxFormat.XYXY)
        boxes = corners.as_subclass(Tensor)
    else:
        boxes = torch.as_tensor(np.asarray(found) if isinstance(found, list) else found)
    crowd = torch.zeros(len(boxes), dtype=torch.bool)
    for key in ("iscrowd", "difficult", "ignore"):
        if key in target:
            crowd |= torch.as_tensor(target[key]).reshape(-1).bool().cpu()
    return ImageTarget(boxes, torch.as_tensor(labels).reshape(-1), crowd, _canvas(found))


def _canvas(boxes: Any) -> tuple[int, int] | None:
    if not isinstance(boxes, tv_tensors.BoundingBoxes):
        return None
    height, width = boxes.canvas_size
    return int(height), int(width)
