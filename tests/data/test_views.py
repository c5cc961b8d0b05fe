"""Evaluation views: another transform on a copy, and the user's objects as they were."""

import copy
import pickle
import random
import warnings
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset, random_split
from torchvision.datasets import ImageFolder, VisionDataset

from lightning_coreset.data import EvaluationView, image_of, with_image
from lightning_coreset.data.views import as_tensor, random_state_kept
from lightning_coreset.errors import CoresetError
from tests.data.examples import (
    Pictures,
    SampleDictionaries,
    Unreadable,
    as_array,
    picture,
    shifted,
    write_image_folder,
)

Pair = namedtuple("Pair", ["image", "label"])


def pixels(seed: int) -> torch.Tensor:
    return torch.from_numpy(np.asarray(picture(seed)).copy())


def test_the_transform_is_replaced_on_a_copy() -> None:
    dataset = Pictures(transform=shifted)
    before = dict(vars(dataset))
    view = EvaluationView(dataset, as_array)
    assert view.replaced
    assert len(view) == 6
    image, label = view[4]
    assert torch.equal(image, pixels(4))
    assert label == 1
    assert vars(dataset) == before
    assert torch.equal(dataset[4][0], shifted(None))


def test_through_subsets_splits_and_concatenations() -> None:
    first, second = Pictures(transform=shifted), Pictures(4, transform=shifted)
    whole = ConcatDataset([Subset(first, [5, 0]), second])
    part = random_split(Subset(whole, [0, 2, 1]), [2, 1], generator=torch.Generator().manual_seed(0))[0]
    objects = [first, second, whole, whole.datasets[0], part, part.dataset]
    before = [dict(vars(each)) for each in objects]
    order = [[5, 0, 1], part.indices]
    view = EvaluationView(part, as_array)
    assert view.replaced
    for place, index in enumerate(part.indices):
        assert torch.equal(view[place][0], pixels([5, 0, 0][index])), order
    assert [dict(vars(each)) for each in objects] == before
    assert torch.equal(part[0][0], shifted(None))


def test_a_wrapper_without_a_transform_leaves_the_one_below() -> None:
    """The dataset below augments, the wrapper's own attribute is None."""

    class Wrapper(Unreadable):
        def __getitem__(self, index: int) -> Any:
            image, label = self.dataset[index]
            return (image if self.transform is None else self.transform(image)), label

    wrapper = Wrapper(6, dataset=Pictures(transform=shifted), transform=None)
    assert torch.equal(EvaluationView(wrapper, as_array)[2][0], pixels(2))
    wrapper = Wrapper(6, dataset=Pictures(), transform=shifted)
    assert torch.equal(EvaluationView(wrapper, as_array)[2][0], pixels(2))


def test_a_folder_of_images_keeps_its_target_transform(tmp_path: Path) -> None:
    labels = write_image_folder(tmp_path)
    dataset = ImageFolder(str(tmp_path), transform=shifted, target_transform=lambda label: label + 10)
    view = EvaluationView(dataset, as_array)
    for index, label in enumerate(labels):
        assert torch.equal(view[index][0], pixels(index))
        assert view[index][1] == label + 10
    assert dataset.transform is shifted
    assert dataset.transforms.transform is shifted


def both(image: Any, target: Any) -> Any:
    return shifted(image), target


@pytest.mark.parametrize(
    "given", [{"transforms": both}, {"transform": shifted}, {}], ids=["transforms", "transform", "neither"]
)
def test_vision_datasets_that_transform_image_and_target_together(given: dict[str, Any], tmp_path: Path) -> None:
    class Boxes(VisionDataset):
        """torchvision's detection datasets."""

        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> Any:
            image, target = picture(index), {"boxes": torch.zeros(index, 4)}
            return (image, target) if self.transforms is None else self.transforms(image, target)

    dataset = Boxes(str(tmp_path), **given)
    before = dict(vars(dataset))
    image, target = EvaluationView(dataset, as_array)[2]
    assert torch.equal(image, pixels(2))
    assert target["boxes"].shape == (2, 4)
    assert vars(dataset) == before


class GeoFolder(ImageFolder):
    """torchgeo's classification folders: an ImageFolder inside, ``transforms(sample)`` outside."""

    def __init__(self, root: str, transforms: Callable[[Any], Any] | None = None) -> None:
        super().__init__(root)
        self.transforms = transforms

    def __getitem__(self, index: int) -> Any:
        image, label = ImageFolder.__getitem__(self, index)
        channels_first = torch.from_numpy(np.array(image)).float().permute(2, 0, 1)
        sample = {"image": channels_first, "label": torch.tensor(label)}
        return sample if self.transforms is None else self.transforms(sample)


class GeoChild(GeoFolder):
    """As UCMerced: the reading is inherited."""


class GeoReader(GeoFolder):
    """A user's child that reads through its parent."""

    def __getitem__(self, index: int) -> Any:
        return {**super().__getitem__(index), "place": index}


def augment(sample: Any) -> Any:
    return {**sample, "image": shifted(sample["image"])}


@pytest.mark.parametrize("transforms", [None, augment])
@pytest.mark.parametrize("kind", [GeoFolder, GeoChild, GeoReader])
def test_torchgeo_folders(kind: type[GeoFolder], transforms: Callable[[Any], Any] | None, tmp_path: Path) -> None:
    write_image_folder(tmp_path)
    dataset = kind(str(tmp_path), transforms)
    view = EvaluationView(dataset, as_array)
    assert view.replaced
    sample = view[3]
    assert torch.equal(sample["image"], pixels(3).permute(2, 0, 1).float() + 100)
    assert sample["label"].item() == 1
    assert dataset.transforms is transforms


@pytest.mark.parametrize("transforms", [None, augment])
def test_samples_as_dictionaries(transforms: Callable[[Any], Any] | None) -> None:
    dataset = SampleDictionaries(transforms=transforms)
    view = EvaluationView(Subset(dataset, [3]), as_array)
    assert view.replaced
    assert torch.equal(view[0]["image"], torch.full((3, 4, 4), 103.0))
    assert view[0]["label"] == 1
    assert dataset.transforms is transforms


def test_items_without_a_transform_to_replace_are_used_as_they_come() -> None:
    rows = torch.arange(24.0).reshape(2, 3, 2, 2)
    view = EvaluationView(TensorDataset(rows), as_array)
    assert not view.replaced
    assert torch.equal(view[1][0], rows[1])


@pytest.mark.parametrize(
    "item",
    [(picture(0), 3), {"label": 3, "img": picture(0)}, picture(0), np.asarray(picture(0)), Pair(picture(0), 3)],
    ids=["tuple", "dict", "image", "array", "namedtuple"],
)
def test_images_that_are_no_tensors_still_go_through_the_transform(item: Any) -> None:
    changed = EvaluationView([item], lambda image: torch.from_numpy(np.asarray(image).copy()))[0]
    assert type(changed) is type(item) or isinstance(item, Image.Image | np.ndarray)
    assert torch.equal(image_of(changed), pixels(0))


@pytest.mark.parametrize("item", ["a text", ("a text", 1), {"text": "a", "label": 1}, 3, ([torch.ones(3)] * 2, 1)])
def test_items_without_an_image_are_read_all_the_same(item: Any) -> None:
    # Who needs an image says so; a fingerprint or a selection from given embeddings does not.
    assert EvaluationView([item], as_array)[0] is item


def test_no_transform_leaves_the_datasets_own() -> None:
    view = EvaluationView(Pictures(transform=shifted), None)
    assert not view.replaced
    assert torch.equal(view[0][0], shifted(None))


def test_views_go_to_spawned_workers(tmp_path: Path) -> None:
    write_image_folder(tmp_path, ("ant", "bee"), 1)
    parts = ConcatDataset([ImageFolder(str(tmp_path), transform=shifted), Subset(Pictures(transform=shifted), [1])])
    view = EvaluationView(parts, as_array)
    loader = DataLoader(view, batch_size=3, num_workers=1, multiprocessing_context="spawn")
    images, labels = next(iter(loader))
    assert torch.equal(images, torch.stack([pixels(0), pixels(1), pixels(1)]))
    assert labels.tolist() == [0, 1, 1]


def test_views_of_samples_can_be_pickled() -> None:
    view = pickle.loads(pickle.dumps(EvaluationView(SampleDictionaries(transforms=augment), as_array)))
    assert torch.equal(view[2]["image"], torch.full((3, 4, 4), 102.0))


IMAGE = torch.ones(3, 2, 2)
OTHER = torch.zeros(2)
FORMS = {
    "tensor": IMAGE,
    "tuple": (3, IMAGE, OTHER),
    "list": [IMAGE, OTHER],
    "namedtuple": Pair(IMAGE, 3),
    "image": {"mask": OTHER, "image": IMAGE},
    "images": {"mask": OTHER, "images": IMAGE},
    "pixel_values": {"image": "file.png", "pixel_values": IMAGE},
    "img": {"mask": OTHER, "img": IMAGE},
    "another name": {"name": "x", "x": IMAGE, "mask": OTHER},
}


@pytest.mark.parametrize("form", FORMS)
def test_the_image_of_an_item(form: str) -> None:
    item = FORMS[form]
    assert image_of(item) is IMAGE
    before = copy.copy(item)
    new = torch.full((1,), 7.0)
    changed = with_image(item, new)
    assert image_of(changed) is new
    assert type(changed) is (torch.Tensor if form == "tensor" else type(item))
    # All else is the same, and the item that was given too.
    assert with_image(changed, IMAGE) == before if form != "tensor" else True
    assert image_of(item) is IMAGE


@pytest.mark.parametrize(
    ("item", "told"),
    [({"label": 3, "name": "x"}, "['label', 'name']"), ((3, "x"), "tuple"), ("x", "str"), (None, "NoneType")],
    ids=str,
)
def test_an_item_without_an_image(item: Any, told: str) -> None:
    with pytest.raises(CoresetError) as caught:
        image_of(item)
    message = str(caught.value)
    assert f"No image was found in an item with {told}" in message
    assert "inputs()" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("mode", "shape", "kind"),
    [
        ("L", (1, 3, 2), torch.uint8),
        ("RGB", (3, 3, 2), torch.uint8),
        ("RGBA", (4, 3, 2), torch.uint8),
        ("P", (3, 3, 2), torch.uint8),
        ("1", (3, 3, 2), torch.uint8),
        ("CMYK", (3, 3, 2), torch.uint8),
        ("I;16", (1, 3, 2), torch.uint16),
        ("F", (1, 3, 2), torch.float32),
    ],
)
def test_pictures_of_any_mode_become_tensors(mode: str, shape: tuple[int, ...], kind: torch.dtype) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = as_tensor(Image.new(mode, (2, 3)))
    assert tuple(tensor.shape) == shape
    assert tensor.dtype == kind


def test_arrays_become_tensors() -> None:
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert as_tensor(image).shape == (3, 2, 4)
    assert as_tensor(image)[1, 0, 2] == image[0, 2, 1]
    assert as_tensor(image[:, :, 0]).shape == (1, 2, 4)
    # Rows of tables are no images, and stay rows.
    assert as_tensor(image[0, :, 0]).tolist() == [0, 3, 6, 9]


def test_random_states_are_kept_even_when_reading_fails() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # type: ignore[index]

    @random_state_kept()
    def fail() -> None:
        raise KeyError(torch.rand(3), np.random.rand(), random.random())

    with pytest.raises(KeyError):
        fail()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # type: ignore[index]
    assert random.getstate() == before[2]
