"""Requests as Label Studio tasks with their labelling configuration, and labels back from its JSON export."""

import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from lightning_coreset.active.files import Item, boxes_target
from lightning_coreset.active.returned import Review
from lightning_coreset.errors import CoresetError

_LOCAL_FILES = "/data/local-files/?d="


def labelling_config(names: Mapping[int, str], *, boxes: bool) -> str:
    """The configuration of a project that fits the tasks: one choice, or boxes with labels.

    Example:
        >>> print(labelling_config({0: "cat & dog"}, boxes=False))
        <View>
          <Image name="image" value="$image"/>
          <Choices name="label" toName="image" choice="single" showInline="true">
            <Choice value="cat &amp; dog"/>
          </Choices>
        </View>
    """
    outer, inner = ("RectangleLabels", "Label") if boxes else ("Choices", "Choice")
    more = "" if boxes else ' choice="single" showInline="true"'
    lines = ["<View>", '  <Image name="image" value="$image"/>', f'  <{outer} name="label" toName="image"{more}>']
    lines += [f"    <{inner} value={_attribute(name)}/>" for name in names.values()]
    return "\n".join([*lines, f"  </{outer}>", "</View>"])


def _attribute(name: str) -> str:
    return quoteattr(name, {"\n": "&#10;", "\r": "&#13;", "\t": "&#9;"})


def tasks(
    items: list[Item],
    names: Mapping[int, str],
    predictions: Mapping[Any, Any],
    *,
    boxes: bool,
    round: int,
    image_url: Any = None,
    model_version: str = "lightning_coreset",
) -> list[dict[str, Any]]:
    """Tasks to import; ``data.id`` finds the way back, autolabels are predictions.

    Args:
        items: What is asked for.
        names: Names of the classes by number.
        predictions: Autolabels by id.
        boxes: Whether boxes are drawn, or one class chosen.
        round: The round that asks.
        image_url: Gives the address of an item's image; None is that of Label Studio's local file storage.
        model_version: What Label Studio shows as the origin of predictions.
    """
    found = []
    for order, item in enumerate(items):
        address = image_url(item) if image_url is not None else _LOCAL_FILES + quote(item.file or item.name)
        data = {"image": address, "id": item.id, "name": item.name, "round": round, "order": order}
        task: dict[str, Any] = {"data": {**data, "reserve": item.reserve}}
        if predictions.get(item.id) is not None:
            task["predictions"] = [_prediction(item, predictions[item.id], names, boxes, model_version)]
        found.append(task)
    return found


def _prediction(item: Item, target: Any, names: Mapping[int, str], boxes: bool, version: str) -> dict[str, Any]:
    common: dict[str, Any] = {"from_name": "label", "to_name": "image"}
    if not boxes:
        chosen = {"id": "c0", "type": "choices", **common, "value": {"choices": [names[int(target)]]}}
        return {"model_version": version, "result": [chosen]}
    if not item.width or not item.height:
        msg = f"The size of {item.name!r} is not known, and Label Studio takes boxes in percent: give its file."
        raise CoresetError(msg)
    scores = [float(score) for score in target["scores"]] if "scores" in target else None
    result: list[dict[str, Any]] = []
    for place, (box, label) in enumerate(zip(target["boxes"], target["labels"], strict=True)):
        left, top, right, bottom = (float(corner) for corner in box)
        left, right = (min(max(side, 0.0), item.width) for side in (left, right))
        top, bottom = (min(max(side, 0.0), item.height) for side in (top, bottom))
        value = {
            "x": 100 * left / item.width,
            "y": 100 * top / item.height,
            "width": 100 * (right - left) / item.width,
            "height": 100 * (bottom - top) / item.height,
            "rotation": 0,
            "rectanglelabels": [names[int(label)]],
        }
        size = {"original_width": item.width, "original_height": item.height, "image_rotation": 0}
        entry = {"id": f"b{place}", "type": "rectanglelabels", **common, **size, "value": value}
        result.append(entry if scores is None else {**entry, "score": scores[place]})
    told: dict[str, Any] = {"model_version": version, "result": result}
    return told if not scores else {**told, "score": sum(scores) / len(scores)}


def read_tasks(
    found: list[Any], names: Mapping[int, str], sizes: Mapping[str, tuple[int, int]], *, boxes: bool, path: Any
) -> list[Review]:
    """Reviews of an export: no annotation is not reviewed, an empty one is reviewed and empty, a cancelled one skipped.

    Of several annotations of a task the newest counts that was not cancelled.

    Args:
        found: The JSON of an export (``exportType=JSON``).
        names: Names of the classes by number.
        sizes: Width and height of images by id as text, where the export does not say them.
        boxes: Whether boxes are drawn, or one class chosen.
        path: For messages.

    Raises:
        CoresetError: No such export, a class or box that means nothing; the task is named.
    """
    numbers = {name: number for number, name in names.items()}
    return [_review(task, numbers, sizes, boxes, f"{path}, task {place + 1}") for place, task in enumerate(found)]


def _review(
    task: Any, numbers: Mapping[str, int], sizes: Mapping[str, tuple[int, int]], boxes: bool, where: str
) -> Review:
    if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
        msg = f"{where} has no data: give what Label Studio exports as JSON (not JSON-MIN)."
        raise CoresetError(msg)
    data = task["data"]
    known = {"id": data.get("id"), "name": data.get("name")}
    annotations = [entry for entry in task.get("annotations") or [] if isinstance(entry, dict)]
    finished = [entry for entry in annotations if not entry.get("was_cancelled", False)]
    if not finished:
        return Review(**known, skipped=bool(annotations))
    newest = max(enumerate(finished), key=lambda entry: (str(entry[1].get("updated_at") or ""), entry[0]))[1]
    results = newest.get("result")
    if not isinstance(results, list):
        msg = f"{where} has the result {str(results)[:40]!r}: give what Label Studio exports as JSON."
        raise CoresetError(msg)
    if not boxes:
        chosen = [name for entry in results for name in _value(entry, "choices", where)]
        if len(chosen) > 1:
            msg = f"{where} has {len(chosen)} classes {chosen[:5]}: leave one."
            raise CoresetError(msg)
        return Review(**known, target=_class(chosen[0], numbers, where)) if chosen else Review(**known, skipped=True)
    corners, labels = [], []
    for entry in results:
        for name in _value(entry, "rectanglelabels", where):
            labels.append(_class(name, numbers, where))
            corners.append(_box(entry, sizes.get(str(known["id"])), where))
    return Review(**known, target=boxes_target(corners, labels))


def _value(entry: Any, kind: str, where: str) -> list[str]:
    if not isinstance(entry, dict) or not isinstance(entry.get("value"), dict):
        msg = f"{where} has a result without a value: give what Label Studio exports as JSON."
        raise CoresetError(msg)
    # Relations, comments and regions of another kind are no labels of ours.
    return list(entry["value"].get(kind) or [])


def _class(name: str, numbers: Mapping[str, int], where: str) -> int:
    if name not in numbers:
        known = ", ".join(list(numbers)[:20])
        msg = f"{where} has the class {name!r}; known are {known}: use the configuration of the request."
        raise CoresetError(msg)
    return numbers[name]


def _box(entry: dict[str, Any], size: tuple[int, int] | None, where: str) -> list[float]:
    """Corners in pixels; of a turned box those of the upright one around it."""
    value = entry["value"]
    width, height = entry.get("original_width"), entry.get("original_height")
    if (not width or not height) and size is not None:
        width, height = size
    sides = [value.get(name) for name in ("x", "y", "width", "height")]
    if not width or not height or not all(isinstance(side, int | float) for side in sides):
        msg = f"{where} has the box {sides} of an image of {width} x {height}: give what Label Studio exports as JSON."
        raise CoresetError(msg)
    left, top = sides[0] * width / 100, sides[1] * height / 100
    across, down = sides[2] * width / 100, sides[3] * height / 100
    angle = math.radians(value.get("rotation") or 0)
    cosine, sine = (1.0, 0.0) if angle == 0 else (math.cos(angle), math.sin(angle))
    # Label Studio turns around the upper left corner.
    horizontal = [left, left + across * cosine, left - down * sine, left + across * cosine - down * sine]
    vertical = [top, top + across * sine, top + down * cosine, top + across * sine + down * cosine]
    return [min(horizontal), min(vertical), max(horizontal), max(vertical)]
