"""Objects of datasets, without decoding an image."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import ConcatDataset, Subset, random_split
from torchvision.datasets import wrap_dataset_for_transforms_v2

from lightning_coreset.detection import Objects, read_names, read_objects
from lightning_coreset.detection.reading import read_image_ids, read_sizes
from tests.data.examples import Unreadable
from tests.detection import examples

WHOLE = Objects.from_targets(examples.coco_content())


def unreadable(dataset: Any) -> Any:
    """The same class, so that nothing but the reading of items is different."""
    kind = type(dataset)
    dataset.__class__ = type(kind.__name__, (kind,), {"__getitem__": Unreadable.__getitem__})
    return dataset


def test_torchvision(tmp_path: Path) -> None:
    coco = unreadable(examples.coco_dataset(tmp_path))
    examples.same(read_objects(coco), WHOLE)
    assert read_names(coco) == ["0.png", "1.png", "2.png"]
    assert read_image_ids(coco) == [0, 10, 20]
    assert read_sizes(coco) == examples.SIZES
    voc = unreadable(examples.voc_dataset(tmp_path))
    examples.same(read_objects(voc, class_names=examples.NAMES), WHOLE)
    assert [Path(name).name for name in read_names(voc) or []] == ["0.jpg", "1.jpg", "2.jpg"]
    assert read_sizes(voc) == examples.SIZES


def test_wrapped_for_transforms(tmp_path: Path) -> None:
    for dataset in (examples.coco_dataset(tmp_path), examples.voc_dataset(tmp_path)):
        wrapped = wrap_dataset_for_transforms_v2(dataset)
        examples.same(read_objects(wrapped), read_objects(dataset))


def test_subsets_and_concatenations_of_any_depth(tmp_path: Path) -> None:
    coco = unreadable(examples.coco_dataset(tmp_path))
    other = Unreadable(2, targets=[{"boxes": [[0, 0, 1, 1]], "labels": [1]}, {"boxes": [], "labels": []}])
    examples.same(read_objects(Subset(coco, [2, 0])), WHOLE.subset([2, 0]))
    part, _ = random_split(coco, [2, 1], generator=torch.Generator().manual_seed(0))
    examples.same(read_objects(part), WHOLE.subset(part.indices))
    assert read_names(Subset(coco, [2, 0])) == ["2.png", "0.png"]
    joined = ConcatDataset([Subset(coco, [2, 0]), coco])
    found = read_objects(Subset(joined, [0, 2]))
    assert found is not None
    assert found.boxes.tolist() == [*examples.BOXES[2], *examples.BOXES[0]]
    assert read_names(joined) is None, "names that stand twice tell nothing apart"
    with pytest.raises(ValueError, match="Some datasets name their classes"):
        read_objects(ConcatDataset([coco, other]))


def test_classes_of_several_datasets_are_matched_by_name(tmp_path: Path) -> None:
    first = examples.voc_dataset(tmp_path)
    second = Unreadable(1, objects=Objects([0], [[0, 0, 1, 1]], [0], num_images=1, class_names=["cat"]))
    found = read_objects(ConcatDataset([first, second]))
    assert found is not None
    assert found.class_names == ["ant", "cat"]
    assert found.labels.tolist() == [1, 0, 1, 1]


def test_wrappers_of_the_same_length_are_looked_through(tmp_path: Path) -> None:
    coco = examples.coco_dataset(tmp_path)
    examples.same(read_objects(Unreadable(3, dataset=coco)), WHOLE)
    assert read_objects(Unreadable(2, dataset=coco)) is None


def test_nothing_to_be_found() -> None:
    for dataset in (Unreadable(3), Unreadable(3, targets=[0, 1, 2]), Unreadable(3, labels=[[1], [2], [3]])):
        assert read_objects(dataset) is None
        assert read_names(dataset) is None


def test_given_objects_win_and_must_fit(tmp_path: Path) -> None:
    coco = examples.coco_dataset(tmp_path)
    table = Objects([1], [[0, 0, 1, 1]], [0], num_images=3)
    assert read_objects(coco, table) is table
    assert read_objects(coco, lambda asked: table if asked is coco else None) is table
    examples.same(read_objects(Unreadable(3), examples.write_json(tmp_path / "a.json", examples.coco_content())), WHOLE)
    with pytest.raises(ValueError, match="objects tell of 2 images and the dataset has 3"):
        read_objects(coco, [{}, {}])


class Items(Unreadable):
    def __getitem__(self, index: int) -> Any:
        return self.items[index]


@pytest.mark.parametrize(
    "item",
    [
        lambda target: (torch.zeros(3, 40, 60), target),
        lambda target: {"image": torch.zeros(3, 40, 60), **target},
        lambda target: {"image": torch.zeros(3, 40, 60), "target": target},
        lambda target: {"image": 0, "bbox_xyxy": target["boxes"], "label": target["labels"]},
    ],
    ids=["tuple", "flat", "nested", "torchgeo"],
)
def test_items_are_read_when_asked_with_one_warning(item: Any) -> None:
    dataset = Items(3, items=[item(target) for target in examples.dicts()])
    assert read_objects(dataset) is None
    with pytest.warns(UserWarning, match="read by loading all of its 3 items") as caught:
        found = read_objects(dataset, decode=True)
    assert found is not None
    assert torch.equal(found.boxes, WHOLE.boxes)
    assert len(caught) == 1


def test_items_that_hold_masks() -> None:
    mask = torch.zeros(8, 8, dtype=torch.int64)
    for item in ((torch.zeros(3, 8, 8), mask), {"image": torch.zeros(3, 8, 8), "mask": mask}):
        with pytest.warns(UserWarning, match="read by loading"):
            found = read_objects(Items(1, items=[item]), decode=True)
        assert found is not None
        assert found.boxes.tolist() == [[0, 0, 8, 8]]


def test_items_without_boxes() -> None:
    assert read_objects(Items(2, items=[(torch.zeros(3, 4, 4), 1)] * 2), decode=True) is None
