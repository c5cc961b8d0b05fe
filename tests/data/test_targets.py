"""Labels of every form of dataset, without decoding an image."""

import pickle
import random
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import savemat
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset, random_split
from torchvision import datasets as vision

from lightning_coreset.data import read_labels
from tests.data.examples import Unreadable, picture, write_image_folder, write_mnist


class Cifar(vision.CIFAR10):
    """CIFAR-10 on files of the test, whose checksums are others."""

    train_list = (["data_batch_1", None],)
    test_list = ()
    meta = {"filename": "batches.meta", "key": "label_names", "md5": None}


class Svhn(vision.SVHN):
    split_list = {"train": ["", "train_32x32.mat", None]}


class Flowers(vision.Flowers102):
    _file_dict = {
        "label": ("imagelabels.mat", None),
        "setid": ("setid.mat", None),
        "image": ("102flowers.tgz", None),
    }


def cifar(root: Path) -> tuple[Any, list[int]]:
    labels = [3, 5, 3, 9]
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    batch = {"data": np.zeros((4, 3072), dtype=np.uint8), "labels": labels}
    (folder / "data_batch_1").write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [str(label) for label in range(10)]}))
    return Cifar(str(root)), labels


def mnist(root: Path) -> tuple[Any, list[int]]:
    labels = [7, 0, 1, 7, 2]
    write_mnist(root, labels)
    return vision.MNIST(str(root)), labels


def folder(root: Path) -> tuple[Any, list[int]]:
    labels = write_image_folder(root / "images")
    return vision.ImageFolder(str(root / "images")), labels


def svhn(root: Path) -> tuple[Any, list[int]]:
    savemat(root / "train_32x32.mat", {"X": np.zeros((32, 32, 3, 4), dtype=np.uint8), "y": [[1], [10], [2], [10]]})
    return Svhn(str(root)), [1, 0, 2, 0]


def flowers(root: Path) -> tuple[Any, list[int]]:
    base = root / "flowers-102"
    (base / "jpg").mkdir(parents=True)
    savemat(base / "imagelabels.mat", {"labels": [[4, 2, 9, 2]]})
    savemat(base / "setid.mat", {"trnid": [[4, 1, 3]]})
    return Flowers(str(root)), [1, 3, 8]


def signs(root: Path) -> tuple[Any, list[int]]:
    """German traffic signs: torchvision keeps pairs in ``_samples``, as it does for cars and Imagenette."""
    base = root / "gtsrb" / "GTSRB" / "Training"
    for place, name in enumerate(("00000", "00001")):
        (base / name).mkdir(parents=True)
        picture(place).save(base / name / "1.ppm")
        picture(place).save(base / name / "2.ppm")
    return vision.GTSRB(str(root)), [0, 0, 1, 1]


@pytest.mark.parametrize("make", [cifar, mnist, folder, svhn, flowers, signs])
def test_torchvision(make: Callable[[Path], tuple[Any, list[int]]], tmp_path: Path) -> None:
    dataset, labels = make(tmp_path)
    type_of = type(dataset)
    # The same class, so that nothing but the reading of items is different.
    dataset.__class__ = type(type_of.__name__, (type_of,), {"__getitem__": Unreadable.__getitem__})
    found = read_labels(dataset)
    assert found is not None
    assert found.dtype == torch.int64
    assert found.tolist() == labels


def test_fake_data_has_no_labels_to_read_but_items_that_do() -> None:
    dataset = vision.FakeData(5, image_size=(3, 4, 4), num_classes=3)
    assert read_labels(dataset) is None
    with pytest.warns(UserWarning, match="labels of FakeData are read by loading all of its 5 items") as caught:
        found = read_labels(dataset, decode=True)
    assert found is not None
    assert found.tolist() == [dataset[index][1] for index in range(5)]
    assert len(caught) == 1


def test_subsets_and_concatenations_of_any_depth() -> None:
    first = Unreadable(4, targets=[0, 1, 2, 3])
    second = Unreadable(3, labels=np.array([7, 8, 9]))
    joined = ConcatDataset([Subset(first, [3, 1]), second])
    assert read_labels(joined).tolist() == [3, 1, 7, 8, 9]
    assert read_labels(Subset(Subset(joined, [4, 0, 2]), [2, 0])).tolist() == [7, 9]
    parts = random_split(joined, [3, 2], generator=torch.Generator().manual_seed(0))
    for part in parts:
        assert read_labels(part).tolist() == [[3, 1, 7, 8, 9][index] for index in part.indices]


@pytest.mark.parametrize("indices", [torch.tensor([2, 0]), np.array([2, 0]), range(2, -1, -2)], ids=str)
def test_subset_indices_of_any_type(indices: Any) -> None:
    assert read_labels(Subset(Unreadable(3, targets=[4, 5, 6]), indices)).tolist() == [6, 4]


def test_a_part_without_labels_leaves_the_whole_without() -> None:
    assert read_labels(ConcatDataset([Unreadable(2, targets=[0, 1]), Unreadable(2)])) is None
    assert read_labels(Subset(Unreadable(2), [0])) is None


@pytest.mark.parametrize(
    ("tensors", "labels"),
    [
        ((torch.zeros(3, 2), torch.tensor([7, 8, 9])), [7, 8, 9]),
        ((torch.zeros(3, 2), torch.zeros(3), torch.tensor([[7], [8], [9]], dtype=torch.uint8)), [7, 8, 9]),
        ((torch.zeros(3, 2), torch.tensor([0.5, 1.5, 2.5])), None),
        ((torch.zeros(3, 2), torch.tensor([[0, 1], [1, 0], [1, 1]])), None),
        ((torch.tensor([1, 2, 3]),), None),
    ],
    ids=["classes", "column", "regression", "several labels an item", "no labels"],
)
def test_tensor_datasets(tensors: tuple[torch.Tensor, ...], labels: list[int] | None) -> None:
    found = read_labels(TensorDataset(*tensors))
    assert labels == (None if found is None else found.tolist())


class Column(Sequence[Any]):
    """A column as Hugging Face gives it: a sequence, but no list."""

    def __init__(self, values: list[Any]) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Any) -> Any:
        return self.values[index]


class Table:
    """What is used of a Hugging Face dataset; reading an item fails."""

    def __init__(self, **columns: Any) -> None:
        self.columns = columns
        self.column_names = list(columns)

    def __len__(self) -> int:
        return 3

    def __getitem__(self, key: Any) -> Any:
        assert isinstance(key, str), "an item was decoded"
        return self.columns[key]


@pytest.mark.parametrize("wrap", [list, np.array, torch.tensor, Column], ids=["list", "array", "tensor", "column"])
@pytest.mark.parametrize("name", ["label", "labels", "fine_label"])
def test_a_table_with_a_label_column(wrap: Callable[[Any], Any], name: str) -> None:
    table = Table(image=[None] * 3, **{name: wrap([2, 0, 1])})
    assert read_labels(table).tolist() == [2, 0, 1]
    assert read_labels(Subset(table, [1])).tolist() == [0]  # type: ignore[arg-type]


def test_a_column_of_tensors_of_one_value() -> None:
    table = Table(label=Column([torch.tensor(2), torch.tensor(0), torch.tensor(1)]))
    assert read_labels(table).tolist() == [2, 0, 1]


def test_a_table_without_classes() -> None:
    assert read_labels(Table(image=[None] * 3)) is None
    assert read_labels(Table(label=["cat", "dog", "cat"])) is None


@pytest.mark.parametrize("form", [None, "torch", "numpy"])
def test_real_hugging_face_datasets(form: str | None) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])})
    rows = {"image": [picture(index) for index in range(4)], "label": [2, 0, 1, 2]}
    table = datasets.Dataset.from_dict(rows, features=features).with_format(form)
    assert read_labels(table).tolist() == [2, 0, 1, 2]
    assert read_labels(Subset(table.select([3, 1]), [0])).tolist() == [2]
    assert read_labels(random_split(table, [2, 2])[0]) is not None


def test_medmnist_keeps_one_column() -> None:
    """As PneumoniaMNIST has them: an array [n, 1]."""
    assert read_labels(Unreadable(3, labels=np.array([[1], [0], [1]], dtype=np.uint8))).tolist() == [1, 0, 1]


def test_wrappers_of_the_same_length_are_looked_through() -> None:
    inner = Unreadable(3, targets=[4, 5, 6])
    assert read_labels(Unreadable(3, dataset=inner)).tolist() == [4, 5, 6]
    assert read_labels(Unreadable(2, dataset=inner)) is None


@pytest.mark.parametrize(
    "values",
    [[0.5, 1.0, 2.0], [0, -1, 1], [[0, 1], [1, 0], [1, 1]], ["a", "b", "c"], [0, 1], [{}, {}, {}], lambda: [0, 1, 2]],
    ids=["floats", "unlabelled items", "several", "words", "another length", "boxes", "a method"],
)
def test_attributes_that_are_no_classes(values: Any) -> None:
    assert read_labels(Unreadable(3, targets=values)) is None


def test_the_target_transform_is_asked_once_a_class() -> None:
    asked = []

    def merge(label: int) -> int:
        asked.append(label)
        return label // 2

    dataset = Unreadable(6, targets=[5, 4, 5, 1, 0, 4], target_transform=merge)
    assert read_labels(dataset).tolist() == [2, 2, 2, 0, 0, 2]
    assert sorted(asked) == [0, 1, 4, 5]


@pytest.mark.parametrize(
    "transform",
    [
        lambda label: torch.eye(3)[label],
        lambda label: np.eye(3)[label],
        lambda label: torch.eye(3, dtype=torch.int64)[label].tolist(),
        lambda label: label / 10,
        lambda label: torch.tensor(label / 10),
        lambda label: f"class {label}",
        lambda label: label.item(),
    ],
    ids=["one-hot tensor", "one-hot array", "one-hot list", "number", "scalar", "word", "for tensors only"],
)
def test_a_target_transform_to_something_else_leaves_the_classes(transform: Callable[[Any], Any]) -> None:
    dataset = Unreadable(4, targets=[2, 0, 1, 2], target_transform=transform)
    assert read_labels(dataset).tolist() == [2, 0, 1, 2]


def test_a_target_transform_to_tensors() -> None:
    dataset = Unreadable(3, targets=torch.tensor([2, 0, 1]), target_transform=lambda label: torch.tensor(label + 1))
    assert read_labels(dataset).tolist() == [3, 1, 2]


@pytest.mark.parametrize(
    "given",
    [[2, 0, 1], np.array([[2], [0], [1]]), torch.tensor([2, 0, 1], dtype=torch.uint8)],
    ids=lambda given: type(given).__name__,
)
def test_given_labels_win(given: Any) -> None:
    dataset = Unreadable(3, targets=[9, 9, 9])
    assert read_labels(dataset, given).tolist() == [2, 0, 1]
    assert read_labels(dataset, given).dtype == torch.int64
    assert read_labels(dataset, lambda asked: given if asked is dataset else None).tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([0, 1], r"labels have shape \[2\], the train dataset has 3 items: give one class per item"),
        (torch.zeros(3, 2, dtype=torch.int64), r"labels have shape \[3, 2\]"),
        ([0.0, 1.0, 2.0], "labels are torch.float64: give integers, 0 to C-1"),
        ([0, 1, -1], "label of item 2 is -1: classes start at 0, and unlabelled items belong"),
        (["a", "b", "c"], "labels are .*: give integers, 0 to C-1"),
        (lambda dataset: None, "labels are .*: give integers, 0 to C-1"),
        ([[0], [1, 2], [3]], "labels are .*: give integers, 0 to C-1"),
    ],
    ids=["short", "several", "floats", "negative", "words", "nothing", "ragged"],
)
def test_given_labels_that_are_refused(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_labels(Unreadable(3), given)
    assert "\n" not in str(caught.value)


class Items(Dataset[Any]):
    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


@pytest.mark.parametrize(
    "items",
    [
        [("image", 2), ("image", 0)],
        [["image", torch.tensor(2), "more"], ["image", torch.tensor(0), "more"]],
        [("image", np.array([2])), ("image", np.array([0]))],
        [("image", np.int64(2)), ("image", np.int64(0))],
        [{"img": 1, "label": torch.tensor([2])}, {"img": 1, "label": torch.tensor([0])}],
    ],
    ids=["tuple", "list", "array", "numpy number", "dict"],
)
def test_items_are_read_when_asked_with_one_warning(items: list[Any]) -> None:
    dataset = Items(items)
    assert read_labels(dataset) is None
    with pytest.warns(UserWarning, match="pass labels= to avoid it") as caught:
        assert read_labels(dataset, decode=True).tolist() == [2, 0]
    assert len(caught) == 1


@pytest.mark.parametrize(
    "items",
    [["image", "image"], [("image", 0.5)] * 2, [("image", torch.tensor([0, 1]))] * 2, [{"img": 1}] * 2],
    ids=str,
)
def test_items_without_a_class(items: list[Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_labels(Items(items), decode=True) is None


class Augmenting(Dataset[Any]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        return torch.rand(3) + np.random.rand() + random.random(), index % 3


def test_reading_items_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # type: ignore[index]
    with pytest.warns(UserWarning, match="loading all"):
        assert read_labels(Augmenting(), decode=True).tolist() == [0, 1, 2, 0]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # type: ignore[index]
    assert random.getstate() == before[2]
