"""Annotations in the form of PASCAL VOC: parsed XML as `VOCDetection` gives it, or the file itself."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch

from lightning_coreset.detection.rows import ImageTarget

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def parse_voc(annotation: Mapping[str, Any]) -> ImageTarget:
    """What the annotation of one image says; corners stay as they are written, as in torchvision.

    Args:
        annotation: What stands under ``annotation``; without objects the key ``object`` may be missing.

    Example:
        >>> bounds = {"xmin": "1", "ymin": "2", "xmax": "5", "ymax": "6"}
        >>> parse_voc({"object": [{"name": "cat", "difficult": "1", "bndbox": bounds}]}).labels
        ['cat']
    """
    found = annotation.get("object", [])
    entries = [found] if isinstance(found, Mapping) else list(found)
    size = annotation.get("size") or {}
    boxes = [[float(entry["bndbox"][corner]) for corner in _CORNERS] for entry in entries]
    return ImageTarget(
        boxes=torch.tensor(boxes).reshape(-1, 4),
        labels=[str(entry["name"]) for entry in entries],
        crowd=torch.tensor([int(entry.get("difficult") or 0) > 0 for entry in entries], dtype=torch.bool),
        size=(int(size["height"]), int(size["width"])) if size else None,
    )


def read_voc(path: Any) -> ImageTarget:
    """The annotation in one XML file.

    Raises:
        ValueError: Not the XML of an annotation.
    """
    try:
        root = ElementTree.parse(Path(path)).getroot()
        size = root.find("size")
        return parse_voc(
            {
                "object": [_entry(element) for element in root.findall("object")],
                "size": {} if size is None else {part.tag: part.text for part in size},
            }
        )
    except (ElementTree.ParseError, KeyError, TypeError, ValueError) as error:
        msg = f"{path} cannot be read as a VOC annotation ({error}): mend the file or leave its image out."
        raise ValueError(msg) from error


def _entry(element: ElementTree.Element) -> dict[str, Any]:
    bounds = element.find("bndbox")
    return {
        "name": element.findtext("name"),
        "difficult": element.findtext("difficult"),
        "bndbox": {} if bounds is None else {part.tag: part.text for part in bounds},
    }
