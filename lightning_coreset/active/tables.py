"""Requests as CSV and COCO JSON, and labels back from them."""

import csv
import io
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_coreset.active.files import Item, boxes_target
from lightning_coreset.active.returned import Review
from lightning_coreset.detection.masks import as_counts, counts_of, encoded, mask_of
from lightning_coreset.errors import CoresetError

_CORNERS = ("x_min", "y_min", "x_max", "y_max")
_STATUS = {"": None, "done": "done", "reviewed": "done", "skip": "skip", "skipped": "skip", "cancelled": "skip"}


def csv_request(items: list[Item], *, boxes: bool) -> bytes:
    """A table to fill in: ``label``, for boxes one row each with their corners in pixels, and ``status``.

    ``status`` is ``done`` for an image that was looked at (with no label: it shows nothing), ``skip`` for one that
    cannot be labelled, and empty for one that nobody looked at; a label says ``done`` too.
    """
    columns = ["order", "id", "name", "file", "width", "height", "reserve", "status", "label"]
    columns += _CORNERS if boxes else ()
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\r\n")
    table.writerow(columns)
    for order, item in enumerate(items):
        row = [order, item.id, item.name, item.file or "", item.width or "", item.height or "", int(item.reserve)]
        table.writerow([*row, *[""] * (len(columns) - len(row))])
    return text.getvalue().encode("utf-8", "surrogatepass")


def read_csv(data: bytes, names: Mapping[int, str], *, boxes: bool, path: Any) -> list[Review]:
    """Reviews of a table, one for each id.

    Raises:
        CoresetError: Not such a table, or a label, status or corner that means nothing; the line is named.
    """
    text = data.decode("utf-8-sig", "surrogatepass")
    table = csv.DictReader(io.StringIO(text, newline=""))
    if table.fieldnames is None or not {"id", "label"} <= set(table.fieldnames):
        msg = f"{path} has the columns {table.fieldnames}: give a table with id and label, as in the request."
        raise CoresetError(msg)
    numbers = {name: number for number, name in names.items()}
    rows: dict[tuple[str, str], list[tuple[str | None, str, list[str]]]] = {}
    for row in table:
        line = table.line_num
        word = (row.get("status") or "").strip().lower()
        if word not in _STATUS:
            msg = f"{path}, line {line}: the status {word!r} is not known; give done, skip or nothing."
            raise CoresetError(msg)
        key = (row["id"] or "", row.get("name") or "")
        corners = [(row.get(name) or "").strip() for name in _CORNERS]
        rows.setdefault(key, []).append((_STATUS[word], row["label"] or "", [*corners, str(line)]))
    return [_row_review(key, parts, numbers, boxes, path) for key, parts in rows.items()]


def _row_review(
    key: tuple[str, str],
    parts: list[tuple[str | None, str, list[str]]],
    numbers: Mapping[str, int],
    boxes: bool,
    path: Any,
) -> Review:
    name, shown = key
    known: dict[str, Any] = {"id": name or None, "name": shown or None}
    if any(status == "skip" for status, _, _ in parts):
        return Review(**known, skipped=True)
    filled = [(label, corners) for _, label, corners in parts if label != ""]
    if not filled:
        done = any(status == "done" for status, _, _ in parts)
        if not boxes:
            # An image without any class cannot be trained on.
            return Review(**known, skipped=done)
        return Review(**known, target=boxes_target([], []) if done else None)
    labels = [_number(label, numbers, f"{path}, line {corners[-1]}") for label, corners in filled]
    if boxes:
        return Review(**known, target=boxes_target([_corners(row, path) for _, row in filled], labels))
    if len(set(labels)) > 1:
        msg = f"{path} says different things of {name or shown!r}: {sorted(set(labels))}; leave one label."
        raise CoresetError(msg)
    return Review(**known, target=labels[0])


def coco_request(
    items: list[Item], names: Mapping[int, str], predictions: Mapping[Any, Any], round: int
) -> dict[str, Any]:
    """Images without annotations in COCO's form; image ids are positions, and ``reviewed`` is there to be set."""
    images = [
        {
            "id": item.position,
            "file_name": item.name,
            "width": item.width or 0,
            "height": item.height or 0,
            "global_id": item.id,
            "reserve": item.reserve,
            "reviewed": False,
        }
        for item in items
    ]
    annotations: list[dict[str, Any]] = []
    for item in items:
        target = predictions.get(item.id)
        for place, (box, label) in enumerate(_objects(target)):
            score = float(target["scores"][place]) if target is not None and "scores" in target else None
            entry = {
                "id": len(annotations) + 1,
                "image_id": item.position,
                "category_id": label,
                "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                "area": (box[2] - box[0]) * (box[3] - box[1]),
                "iscrowd": 0,
                "predicted": True,
            }
            entry |= {} if score is None else {"score": score}
            annotations.append(entry | _segmentation(target, place))
    return {
        "info": {"description": f"Request of round {round}"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in names.items()],
    }


def read_coco(
    found: dict[str, Any], names: Mapping[int, str], *, boxes: bool, path: Any, masks: bool = False
) -> list[Review]:
    """Reviews of a COCO file; an image without annotations counts as looked at where it says ``reviewed``.

    Args:
        found: The content of the file.
        names: Names of the classes by number.
        boxes: Whether objects are drawn, or one class chosen.
        path: For messages.
        masks: Whether objects have masks too: polygons or run lengths, which become ``masks`` ``[M, H, W]``, uint8.

    Raises:
        CoresetError: A category without a class, or a box or mask that is none.
    """
    numbers = {name: number for number, name in names.items()}
    categories = {entry["id"]: str(entry["name"]) for entry in found.get("categories", [])}
    of_image: dict[Any, list[dict[str, Any]]] = {}
    for entry in found.get("annotations", []):
        # Autolabels that nobody confirmed are no labels.
        if not entry.get("predicted", False):
            of_image.setdefault(entry["image_id"], []).append(entry)
    reviews = []
    for image in found["images"]:
        known = {"id": image.get("global_id", image.get("id")), "name": image.get("file_name")}
        entries = of_image.get(image["id"], [])
        if image.get("skipped", False):
            reviews.append(Review(**known, skipped=True))
            continue
        labels = [
            _number(categories.get(entry["category_id"], str(entry["category_id"])), numbers, path) for entry in entries
        ]
        target: Any = None
        if boxes and (entries or image.get("reviewed", False)):
            target = boxes_target([_from_xywh(entry["bbox"], path) for entry in entries], labels)
            target |= {"masks": _masks(image, entries, path)} if masks else {}
        elif not boxes and labels:
            if len(set(labels)) > 1:
                msg = f"{path} says different things of {known['name']!r}: leave one category."
                raise CoresetError(msg)
            target = labels[0]
        reviews.append(
            Review(**known, target=target, skipped=not boxes and not labels and image.get("reviewed", False))
        )
    return reviews


def _masks(image: Mapping[str, Any], entries: list[dict[str, Any]], path: Any) -> Tensor:
    """The masks of an image's objects ``[M, H, W]``."""
    size = image.get("height") or 0, image.get("width") or 0
    where = f"{path}, image {image.get('file_name', image['id'])!r}"
    if entries and not all(size):
        msg = f"{where} has the size {size[1]} x {size[0]}, and masks need one: write width and height of its file."
        raise CoresetError(msg)
    found = torch.zeros(len(entries), *size, dtype=torch.uint8)
    for place, entry in enumerate(entries):
        if not entry.get("segmentation"):
            msg = f"{where} has a {entry['category_id']} without a segmentation: draw masks, not boxes alone."
            raise CoresetError(msg)
        try:
            found[place] = mask_of(as_counts(entry["segmentation"], size), size)
        except (TypeError, ValueError, KeyError, IndexError) as error:
            msg = f"{where} has a segmentation that is none ({error}): give polygons or run lengths of its size."
            raise CoresetError(msg) from error
    return found


def _objects(target: Any) -> list[tuple[list[float], int]]:
    if not isinstance(target, Mapping) or "boxes" not in target:
        return []
    return [
        ([float(corner) for corner in box], int(label))
        for box, label in zip(target["boxes"], target["labels"], strict=True)
    ]


def _segmentation(target: Any, place: int) -> dict[str, Any]:
    if target.get("masks") is None:
        return {}
    mask = torch.as_tensor(target["masks"][place])
    counts = counts_of(mask)
    return {"segmentation": {"size": list(mask.shape), "counts": encoded(counts)}, "area": sum(counts[1::2])}


def _number(label: str, numbers: Mapping[str, int], where: Any) -> int:
    """A class by its name, or by its number where no class has such a name."""
    if label in numbers:
        return numbers[label]
    if label.strip().isdigit() and int(label) in numbers.values():
        return int(label)
    known = ", ".join(list(numbers)[:20])
    msg = f"{where}: the class {label!r} is not known; accepted are {known}."
    raise CoresetError(msg)


def _corners(values: list[str], path: Any) -> list[float]:
    try:
        box = [float(value) for value in values[:4]]
    except ValueError:
        box = []
    if len(box) != 4 or not (box[0] <= box[2] and box[1] <= box[3]):
        msg = f"{path}, line {values[-1]}: {values[:4]} is no box; give x_min, y_min, x_max, y_max in pixels."
        raise CoresetError(msg)
    return box


def _from_xywh(box: Any, path: Any) -> list[float]:
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(value, int | float) for value in box):
        msg = f"{path}: {json.dumps(box)[:80]} is no box; give [x, y, width, height] in pixels."
        raise CoresetError(msg)
    return [box[0], box[1], box[0] + box[2], box[1] + box[3]]
