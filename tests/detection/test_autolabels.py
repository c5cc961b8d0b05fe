"""Autolabels: files that read back as they were, and human labels before them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from lightning_coreset.detection import (
    Calibration,
    LabelledImages,
    Objects,
    PrecomputedProposer,
    Proposals,
    propose_objects,
    read_objects,
    with_human_labels,
    write_autolabels,
    write_label_maps,
)
from lightning_coreset.detection.masks import as_counts, counts_of
from tests.detection import examples
from tests.detection.examples import NAMES

MASK = torch.zeros(40, 60, dtype=torch.bool)
MASK[5:10, 20:31] = True
RUNS = [counts_of(~MASK), counts_of(MASK)]
PARTS = [
    Proposals([[1, 2, 11, 22], [20, 5, 31, 10]], [2, 0], [0.75, 0.25], size=(40, 60), masks=RUNS),
    Proposals([], [], [], size=(50, 30), masks=[]),
    Proposals([[0, 0, 32, 16]], [1], [0.5], size=(32, 32), masks=[[0, 1024]]),
]  # fmt: skip
FOUND = Objects.from_proposals(PARTS, class_names=NAMES)
FILES = ["0.png", "1.png", "2.png"]


def test_a_file_and_back(tmp_path: Path) -> None:
    path = tmp_path / "auto" / "labels.json"
    assert write_autolabels(path, FOUND, names=FILES, ids=[0, 10, 20]) == 3
    dataset = examples.coco_dataset(tmp_path)
    examples.same(propose_objects(dataset, PrecomputedProposer(path)), FOUND)
    content = json.loads(path.read_text())
    assert [image["id"] for image in content["images"]] == [0, 10, 20], "images without any stay listed"
    assert len({entry["id"] for entry in content["annotations"]}) == 3
    as_targets = Objects.from_targets(path)
    assert torch.equal(as_targets.boxes, FOUND.boxes)
    assert as_targets.class_names == NAMES


def test_the_users_category_ids_stay(tmp_path: Path) -> None:
    write_autolabels(tmp_path / "a.json", FOUND, category_ids={"ant": 3, "bee": 7, "cat": 11})
    entries = json.loads((tmp_path / "a.json").read_text())["annotations"]
    assert [entry["category_id"] for entry in entries] == [11, 3, 7]


def test_only_what_reaches_the_threshold(tmp_path: Path) -> None:
    calibration = Calibration(0.5, "f1", "a set", thresholds={"bee": 0.9})
    assert write_autolabels(tmp_path / "a.json", FOUND, calibration=calibration) == 1
    assert json.loads((tmp_path / "a.json").read_text())["info"]["calibration"]["reference"] == "a set"


@pytest.mark.parametrize("masks", ["rle", "polygons"])
def test_masks(tmp_path: Path, masks: str) -> None:
    write_autolabels(tmp_path / "a.json", PARTS, class_names=NAMES, masks=masks)
    entries = json.loads((tmp_path / "a.json").read_text())["annotations"]
    assert as_counts(entries[1]["segmentation"], (40, 60)) == counts_of(MASK)
    assert [entry["area"] for entry in entries] == [40 * 60 - 55, 55, 1024]


@pytest.mark.oracle("pycocotools")
@pytest.mark.parametrize("masks", ["rle", "polygons"])
def test_pycocotools_reads_it(tmp_path: Path, masks: str) -> None:
    from pycocotools.coco import COCO

    write_autolabels(tmp_path / "a.json", PARTS, class_names=NAMES, masks=masks)
    index = COCO(tmp_path / "a.json")
    assert np.array_equal(index.annToMask(index.loadAnns([2])[0]), MASK.numpy())
    assert len(index.getAnnIds(imgIds=[2])) == 0


def test_label_maps(tmp_path: Path) -> None:
    paths = write_label_maps(tmp_path / "maps", PARTS, ["some/0.jpg", "1.jpg", "2.jpg"])
    assert [Path(path).name for path in paths] == ["0.png", "1.png", "2.png"]
    first, empty, full = (np.asarray(Image.open(path)) for path in paths)
    # Where masks overlap the higher score counts; here they do not.
    assert np.array_equal(first, np.where(MASK, 0, 2))
    assert np.all(empty == 255)
    assert empty.shape == (50, 30)
    assert np.all(full == 1)
    low = write_label_maps(tmp_path / "high", PARTS, FILES, calibration=Calibration(0.5, "f1", ""))
    assert np.array_equal(np.asarray(Image.open(low[0])), np.where(MASK, 255, 2))


def test_the_higher_score_is_on_top(tmp_path: Path) -> None:
    whole = [0, 100]
    part = Proposals([[0, 0, 10, 10]] * 3, [0, 1, 2], [0.5, 0.75, 0.25], size=(10, 10), masks=[whole] * 3)
    assert np.all(np.asarray(Image.open(write_label_maps(tmp_path, [part], ["a"])[0])) == 1)


class TestHumanLabels:
    HUMAN = Objects([0, 1, 2], [[0, 0, 5, 5]] * 3, [1, 1, 0], num_images=3, class_names=["cat", "ant"])

    def test_they_replace_those_of_the_same_image(self) -> None:
        both = with_human_labels(FOUND, self.HUMAN, [1, 2])
        assert both.image.tolist() == [0, 0, 1, 2]
        assert [NAMES[label] for label in both.labels] == ["cat", "ant", "ant", "cat"]
        assert both.scores is not None
        assert both.scores.tolist() == [0.75, 0.25, 1.0, 1.0]
        assert both.num_images == 3

    def test_an_image_that_people_saw_nothing_in_has_nothing(self) -> None:
        nothing = Objects([], [], [], num_images=3, class_names=NAMES)
        assert with_human_labels(FOUND, nothing, [0]).image.tolist() == [2]
        examples.same(with_human_labels(FOUND, nothing, []), FOUND)

    def test_other_images(self) -> None:
        with pytest.raises(ValueError, match="autolabels are of 3 images and human labels of 2"):
            with_human_labels(FOUND, self.HUMAN.subset([0, 1]), [0])


class TestLabelledImages:
    def test_images_with_other_targets(self, tmp_path: Path) -> None:
        dataset = examples.coco_dataset(tmp_path, transforms=lambda image, target: (None, None))
        labelled = LabelledImages(dataset, FOUND)
        image, target = labelled[0]
        assert image.size == (60, 40)
        assert isinstance(target["boxes"], tv_tensors.BoundingBoxes)
        assert target["boxes"].canvas_size == (40, 60)
        assert target["boxes"].tolist() == [[1, 2, 11, 22], [20, 5, 31, 10]]
        assert target["labels"].tolist() == [3, 1], "torchvision counts from 1"
        assert target["scores"].tolist() == [0.75, 0.25]
        empty = labelled[1][1]
        assert empty["boxes"].shape == (0, 4)
        assert len(labelled) == 3
        assert LabelledImages(dataset, FOUND, first_label=0)[2][1]["labels"].tolist() == [1]
        assert read_objects(labelled) is FOUND

    def test_transforms_see_both(self, tmp_path: Path) -> None:
        from torchvision.transforms import v2

        flip = v2.RandomHorizontalFlip(p=1.0)
        _, target = LabelledImages(examples.coco_dataset(tmp_path), FOUND, transforms=flip)[0]
        assert target["boxes"].tolist() == [[49, 2, 59, 22], [29, 5, 40, 10]]

    def test_crowds_are_not_learnt(self, tmp_path: Path) -> None:
        dataset = examples.coco_dataset(tmp_path)
        table = read_objects(dataset)
        assert table is not None
        assert LabelledImages(dataset, table)[0][1]["labels"].tolist() == [3]

    def test_other_images(self) -> None:
        with pytest.raises(ValueError, match="objects are of 3 images and the dataset has 1"):
            LabelledImages([torch.zeros(3, 4, 4)], FOUND)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda path: write_autolabels(path, PARTS), "need the names of the classes"),
        (lambda path: write_autolabels(path, FOUND, names=["a"]), "names are 1 for 3 images"),
        (lambda path: write_autolabels(path, FOUND, masks="bitmaps"), "masks='bitmaps' is not accepted"),
        (lambda path: write_autolabels(path, FOUND, category_ids={"ant": 1}), "category_ids lack the class 'bee'"),
        (lambda path: write_label_maps(path, PARTS, ["a", "b/a", "c"]), "2 distinct file names for 3 images"),
        (
            lambda path: write_label_maps(path, [Proposals([[0, 0, 1, 1]], [0], [1.0], size=(2, 2))], ["a"]),
            "have no masks to paint",
        ),
    ],
)
def test_what_cannot_be_written(tmp_path: Path, call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        call(tmp_path / "a.json")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a.json").exists()
