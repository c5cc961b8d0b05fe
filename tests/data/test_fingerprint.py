"""Keys: the same for the same data in every process, another for other data."""

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import IterableDataset, Subset, TensorDataset

from lightning_coreset.data import dataset_fingerprint, module_key, stable_key, tensor_key
from lightning_coreset.errors import UnsupportedSourceError
from tests.data.examples import Pictures, RandomItems, SampleDictionaries, Unreadable, shifted

IMAGES = torch.arange(16 * 12).reshape(16, 3, 2, 2).to(torch.uint8)
LABELS = torch.arange(16) % 3


def test_the_same_data_has_the_same_key() -> None:
    key = dataset_fingerprint(TensorDataset(IMAGES, LABELS), LABELS)
    assert dataset_fingerprint(TensorDataset(IMAGES.clone(), LABELS.clone()), LABELS) == key
    assert len(key) == 64


def test_other_data_has_another_key() -> None:
    dataset = TensorDataset(IMAGES, LABELS)
    changed_pixel = IMAGES.clone()
    # Of 16 items every second one is looked at.
    changed_pixel[14, 2, 1, 1] += 1
    changed_label = LABELS.clone()
    changed_label[15] += 1
    keys = {
        dataset_fingerprint(dataset, LABELS),
        dataset_fingerprint(dataset, None),
        dataset_fingerprint(dataset, changed_label),
        dataset_fingerprint(Subset(dataset, range(15)), LABELS[:15]),
        dataset_fingerprint(Subset(dataset, range(15, -1, -1)), LABELS),
        dataset_fingerprint(TensorDataset(changed_pixel, LABELS), LABELS),
        dataset_fingerprint(TensorDataset(IMAGES.float(), LABELS), LABELS),
        dataset_fingerprint(TensorDataset(IMAGES.reshape(16, 3, 4, 1), LABELS), LABELS),
    }
    assert len(keys) == 8


def test_transforms_do_not_matter() -> None:
    plain = dataset_fingerprint(Pictures(), None)
    assert dataset_fingerprint(Pictures(transform=shifted), None) == plain
    assert dataset_fingerprint(Pictures(transform=lambda image: torch.rand(3)), None) == plain
    augmenting = SampleDictionaries(transforms=lambda sample: {**sample, "image": torch.rand(3, 4, 4)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert dataset_fingerprint(augmenting, None) == dataset_fingerprint(SampleDictionaries(), None)


def test_pictures_of_another_mode_have_another_key() -> None:
    class Grey(Pictures):
        def __getitem__(self, index: int) -> Any:
            return super().__getitem__(index)[0].convert("L"), self.targets[index]

    assert dataset_fingerprint(Grey(), None) != dataset_fingerprint(Pictures(), None)


def test_random_items_are_left_out_with_one_warning() -> None:
    with pytest.warns(UserWarning, match="Two reads of one item of RandomItems differ") as caught:
        first = dataset_fingerprint(RandomItems(), LABELS[:6])
    assert len(caught) == 1
    with pytest.warns(UserWarning, match="pass a dataset that does not augment"):
        assert dataset_fingerprint(RandomItems(), LABELS[:6]) == first
    with pytest.warns(UserWarning, match="differ"):
        assert dataset_fingerprint(RandomItems(), LABELS[1:7]) != first


def test_the_random_state_stays_as_it_was() -> None:
    before = torch.get_rng_state()
    with pytest.warns(UserWarning, match="differ"):
        dataset_fingerprint(RandomItems(), None)
    assert torch.equal(torch.get_rng_state(), before)


def test_at_most_eight_items_are_read_twice() -> None:
    read = []

    class Counting(Unreadable):
        def __getitem__(self, index: int) -> Any:
            read.append(index)
            return torch.zeros(1), index

    dataset_fingerprint(Counting(1000), None)
    assert sorted(read) == sorted([0, 125, 250, 375, 500, 625, 750, 875] * 2)
    assert dataset_fingerprint(Counting(1), None) != dataset_fingerprint(Counting(2), None)


def test_items_of_many_kinds() -> None:
    items: list[Any] = [
        {"image": np.ones((2, 2, 3), dtype=np.uint8), 3: [1.5, None, "x", True], "box": object()},
        {"image": np.ones((2, 2, 3), dtype=">i2")[::-1, ::2], 3: (np.int64(3), np.zeros((0, 4)))},
        {
            "image": np.float32(3),
            "t": torch.ones(2, dtype=torch.bfloat16),
            "e": torch.empty(0),
            "b": torch.tensor([True]),
        },
    ]

    class Items(Unreadable):
        def __getitem__(self, index: int) -> Any:
            return items[index]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        key = dataset_fingerprint(Items(3), None)
    items[0]["image"][1, 1, 2] = 0
    assert dataset_fingerprint(Items(3), None) != key


def test_an_iterable_dataset_is_refused() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter([])

    with pytest.raises(UnsupportedSourceError, match="Stream is an iterable dataset"):
        dataset_fingerprint(Stream(), None)


def some_keys() -> list[str]:
    network = nn.Linear(3, 2)
    nn.init.constant_(network.weight, 0.5)
    nn.init.zeros_(network.bias)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    return [
        dataset_fingerprint(Pictures(), labels),
        dataset_fingerprint(SampleDictionaries(), None),
        module_key(network),
        stable_key({"b": 1, "a": [None, 0.1]}, "x"),
    ]


def test_keys_are_the_same_in_every_process() -> None:
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    answer = subprocess.run(
        [sys.executable, "-c", "from tests.data.test_fingerprint import some_keys; print(*some_keys())"],
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.split() == some_keys()


def test_keys_of_tensors_and_modules() -> None:
    tensor = torch.arange(6.0)
    assert tensor_key(tensor) == tensor_key(tensor.clone().requires_grad_())
    assert tensor_key(tensor.reshape(3, 2).T) == tensor_key(tensor.reshape(3, 2).T.contiguous())
    assert len({tensor_key(each) for each in (tensor, tensor.reshape(2, 3), tensor.double(), tensor + 1)}) == 4
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    key = module_key(network)
    assert module_key(network) == key
    network[1].running_mean[0] = 1  # type: ignore[index, union-attr]
    assert module_key(network) != key


def test_a_key_depends_on_where_a_value_stands() -> None:
    assert stable_key("a", "b") != stable_key("ab")
    assert stable_key(["a"], "b") != stable_key(["a", "b"])
    assert stable_key({"a": 1, "b": 2}) == stable_key({"b": 2, "a": 1})
