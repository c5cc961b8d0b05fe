"""One table for every form of targets: all forms of one set of boxes agree, and what cannot be is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.datasets import wrap_dataset_for_transforms_v2

from lightning_coreset.detection import Objects
from tests.detection import examples
from tests.detection.examples import NAMES

EXPECTED = Objects(
    image=[0, 0, 2],
    boxes=[box for boxes in examples.BOXES for box in boxes],
    labels=[label for labels in examples.LABELS for label in labels],
    crowd=[many for crowd in examples.CROWD for many in crowd],
    num_images=3,
    image_sizes=examples.SIZES,
    class_names=NAMES,
)
BY_ID = {3: "ant", 7: "bee", 11: "cat"}


def check(found: Objects, *, sizes: bool = True, crowd: bool = True) -> None:
    expected = EXPECTED if sizes else replace(EXPECTED, image_sizes=None)
    examples.same(found, expected if crowd else replace(expected, crowd=None))
    assert (found.boxes.dtype, found.labels.dtype) == (torch.float32, torch.int64)


def test_dicts_of_tensors() -> None:
    check(Objects.from_targets(examples.dicts(), class_names=NAMES), sizes=False)


def test_dicts_of_lists() -> None:
    targets = [{"boxes": b, "labels": c, "iscrowd": m} for b, c, m in
               zip(examples.BOXES, examples.LABELS, examples.CROWD, strict=True)]  # fmt: skip
    check(Objects.from_targets(targets, class_names=NAMES), sizes=False)
    check(Objects.from_targets(tuple(targets), class_names=NAMES), sizes=False)


@pytest.mark.parametrize("kind", ["XYXY", "XYWH", "CXCYWH"])
def test_boxes_of_any_format(kind: str) -> None:
    from torchvision.transforms.v2 import functional

    targets = examples.dicts()
    for target, size in zip(targets, examples.SIZES, strict=True):
        boxes = tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=size)
        target["boxes"] = functional.convert_bounding_box_format(boxes, new_format=tv_tensors.BoundingBoxFormat[kind])
    check(Objects.from_targets(targets, class_names=NAMES))


def test_coco_lists_with_gaps_in_their_ids() -> None:
    check(Objects.from_targets(examples.coco_lists(), class_names=BY_ID), sizes=False)
    without = Objects.from_targets(examples.coco_lists())
    assert without.labels.tolist() == [11, 3, 11]
    assert without.class_names is None


def test_a_coco_file(tmp_path: Path) -> None:
    check(Objects.from_targets(examples.coco_content()))
    path = examples.write_json(tmp_path / "instances.json", examples.coco_content())
    check(Objects.from_targets(path))
    check(Objects.from_targets(str(path)))


def test_voc_dicts() -> None:
    targets = [examples.voc_annotation(image) for image in range(3)]
    check(Objects.from_targets(targets, class_names=NAMES))
    alphabetical = Objects.from_targets(targets)
    assert alphabetical.class_names == ["ant", "cat"]
    assert alphabetical.labels.tolist() == [1, 0, 1]


def test_a_yolo_folder(tmp_path: Path) -> None:
    found = Objects.from_targets(examples.write_yolo(tmp_path))
    assert torch.allclose(found.boxes, EXPECTED.boxes, atol=1e-3)
    check(replace(found, boxes=EXPECTED.boxes), crowd=False)


def test_outlines_in_a_yolo_folder(tmp_path: Path) -> None:
    examples.picture((10, 20)).save(tmp_path / "one.jpg")
    (tmp_path / "one.txt").write_text("0 0.1 0.2 0.5 0.2 0.3 0.9\n\n1 0.5 0.5 0.2 0.2 0.75\n")
    (tmp_path / "classes.txt").write_text("ant\nbee\n")
    found = Objects.from_targets(tmp_path)
    assert torch.allclose(found.boxes, torch.tensor([[2.0, 2.0, 10.0, 9.0], [8.0, 4.0, 12.0, 6.0]]))
    assert found.class_names == ["ant", "bee"]


def test_the_wrapper_of_torchvision(tmp_path: Path) -> None:
    """For an image without annotations it gives nothing but an id."""
    wrapped = wrap_dataset_for_transforms_v2(examples.coco_dataset(tmp_path))
    targets = [wrapped[image][1] for image in range(3)]
    assert list(targets[1]) == ["image_id"]
    found = Objects.from_targets(targets, class_names=BY_ID)
    check(found, sizes=False, crowd=False)
    with_crowd = wrap_dataset_for_transforms_v2(
        examples.coco_dataset(tmp_path), target_keys=("boxes", "labels", "iscrowd", "image_id")
    )
    check(Objects.from_targets([with_crowd[image][1] for image in range(3)], class_names=BY_ID), sizes=False)


def test_coco_and_voc_agree_with_the_wrapper_on_boxes(tmp_path: Path) -> None:
    for make in (examples.coco_dataset, examples.voc_dataset):
        dataset = make(tmp_path)
        targets = [dataset[image][1] for image in range(3)]
        assert torch.equal(Objects.from_targets(targets).boxes, EXPECTED.boxes)


def test_boxes_without_area_are_no_objects_to_learn_from() -> None:
    found = Objects.from_targets([{"boxes": [[1, 1, 1, 5], [1, 1, 2, 2]], "labels": [0, 0]}])
    assert found.crowd is not None
    assert found.crowd.tolist() == [True, False]


def test_features_come_with_the_objects() -> None:
    found = Objects.from_targets(examples.dicts(), features=[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    assert found.features is not None
    assert found.features.tolist() == [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]


def test_a_table_stays_a_table() -> None:
    assert Objects.from_targets(EXPECTED) is EXPECTED


def test_no_images_and_no_objects() -> None:
    assert Objects.from_targets([]).num_images == 0
    empty = Objects.from_targets([{}, {"boxes": torch.empty(0, 4), "labels": torch.empty(0)}, {"image_id": 4}])
    assert empty.num_images == 3
    assert empty.boxes.shape == (0, 4)
    assert empty.labels.dtype == torch.int64


def test_masks_are_regions() -> None:
    mask = np.full((20, 30), 255)
    mask[2:8, 3:9] = 1
    mask[10:15, 3:9] = 1
    mask[2:8, 20:25] = 0
    for form in (mask, torch.from_numpy(mask), Image.fromarray(mask.astype(np.uint8)), torch.from_numpy(mask)[None]):
        found = Objects.from_targets([form, form], class_names=["road", "tree"])
        assert found.boxes[:3].tolist() == [[3, 2, 9, 8], [20, 2, 25, 8], [3, 10, 9, 15]]
        assert found.labels.tolist() == [1, 0, 1] * 2
        assert found.image_sizes is not None
        assert found.image_sizes.tolist() == [[20, 30]] * 2


@pytest.mark.parametrize(
    ("ids", "labels"),
    [
        ([3, 7, 11], [0, 1, 2]),
        ([0, 2, 0], [0, 2, 0]),
        ([1, 3, 3], [0, 2, 2]),
    ],
    ids=["every id occurs", "from 0", "from 1"],
)
def test_a_list_of_names_where_ids_tell_what_they_mean(ids: list[int], labels: list[int]) -> None:
    targets = [[{"bbox": [0, 0, 1, 1], "category_id": number}] for number in ids]
    assert Objects.from_targets(targets, class_names=NAMES).labels.tolist() == labels


def one(boxes: Any, labels: Any, **more: Any) -> list[dict[str, Any]]:
    return [{}, {"boxes": boxes, "labels": labels, **more}]


CANVAS = {"format": "XYXY", "canvas_size": (10, 10)}
BAD: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "outside": (
        lambda: one(tv_tensors.BoundingBoxes(torch.tensor([[0.0, 0.0, 12.0, 5.0]]), **CANVAS), [0]),
        {},
        r"boxes of object 0 \(image 1\) are .*: boxes inside their image",
    ),
    "outside with sizes of some images": (
        lambda: [*one([[0, 0, 1, 1]], [0]), *one(tv_tensors.BoundingBoxes([[0.0, 0.0, 12.0, 5.0]], **CANVAS), [0])],
        {},
        "boxes inside their image",
    ),
    "inverted": (lambda: one([[5, 0, 2, 5]], [0]), {}, r"x1 <= x2 and y1 <= y2 \(xyxy\)"),
    "not finite": (lambda: one([[0, 0, float("nan"), 5]], [0]), {}, "finite pixels"),
    "beyond the list": (lambda: one([[0, 0, 2, 2]], [3]), {"class_names": NAMES}, "label 3 is beyond the class list"),
    "negative": (lambda: one([[0, 0, 2, 2]], [-1]), {}, "labels of object 0"),
    "not a class": (lambda: one([[0, 0, 2, 2]], [0.5]), {}, "give integers"),
    "a name twice": (lambda: one([[0, 0, 2, 2]], [0]), {"class_names": ["a", "a"]}, "'a' twice"),
    "a name nobody knows": (
        lambda: [examples.voc_annotation(0)],
        {"class_names": ["ant", "cats"]},
        "names the class 'cat', which is not among the 2 known ones: did you mean 'cats'",
    ),
    "ids that tell nothing": (
        lambda: [[{"bbox": [0, 0, 1, 1], "category_id": 2}]],
        {"class_names": NAMES},
        r"COCO category ids 2 do not tell .* give class_names=\{id: name\}",
    ),
    "an id without a name": (lambda: examples.coco_lists(), {"class_names": {3: "ant"}}, "label 11 is beyond"),
    "no labels": (lambda: [{"boxes": [[0, 0, 1, 1]]}], {}, "has boxes and no labels"),
    "too few labels": (lambda: one([[0, 0, 2, 2], [0, 0, 3, 3]], [0]), {}, "has 2 boxes and 1 labels"),
    "several forms": (lambda: [examples.voc_annotation(0), examples.dicts()[0]], {}, r"several forms \(dict, voc\)"),
    "no targets": (lambda: 7, {}, "targets are a int"),
    "words": (lambda: ["ant", "bee"], {}, "unknown str"),
    "a float mask": (lambda: [np.zeros((4, 4))], {}, r"A mask is \[4, 4\] of float64"),
    "a mask value beyond": (lambda: [np.full((4, 4), 7)], {"class_names": NAMES}, "holds the value 7 and there are 3"),
    "no such file": (lambda: "missing.json", {}, "missing.json does not exist"),
    "no such folder": (lambda: "missing", {}, "is no folder and no .json file"),
    "an image nobody lists": (
        lambda: examples.coco_content() | {"images": examples.coco_content()["images"][:1]},
        {},
        "belongs to image 0, which is not among the 1 images",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_refused_in_one_line(case: str) -> None:
    make, arguments, message = BAD[case]
    with pytest.raises(ValueError, match=message) as caught:
        Objects.from_targets(make(), **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("line", ["0 0.5 0.5 0.1", "a 0.5 0.5 0.1 0.1", "0 0.1 0.1 0.2 0.2 0.3 0.3 0.4"])
def test_lines_that_are_no_labels_are_named(tmp_path: Path, line: str) -> None:
    examples.picture((10, 20)).save(tmp_path / "one.jpg")
    (tmp_path / "one.txt").write_text(f"0 0.5 0.5 0.1 0.1\n{line}\n")
    with pytest.raises(ValueError, match=r"one.txt, line 2, is"):
        Objects.from_targets(tmp_path)


def test_files_that_are_not_what_they_seem(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "list.json").write_text("[]")
    for name, message in (("broken.json", "is not JSON"), ("list.json", "is a list, not a COCO file")):
        with pytest.raises(ValueError, match=message):
            Objects.from_targets(tmp_path / name)
