"""Sources that make a dataset with each train loader: the same one again, or another."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset, random_split

from lightning_coreset import CoresetDataModule
from tests.helpers.lightning_parts import DigitsSource, LinearNet, digit_tensors, marks, quiet_trainer


class Remade(DigitsSource):
    """The same items in a new object each time; it counts them."""

    made = 0

    def train_dataloader(self) -> Any:
        self.made += 1
        return DataLoader(TensorDataset(*digit_tensors(200)), batch_size=self.batch_size, shuffle=True)


class Split(DigitsSource):
    """A common slip: an unseeded split where the loader is made."""

    def train_dataloader(self) -> Any:
        part, _ = random_split(TensorDataset(*digit_tensors(400)), [200, 200])
        return DataLoader(part, batch_size=self.batch_size, shuffle=True)


def wrapped(source: Any) -> CoresetDataModule:
    return CoresetDataModule(source, method="k_center", ratio=0.1, features="pixels", cache_dir=None)


def test_the_same_items_in_a_new_dataset_are_trained_on_without_a_word() -> None:
    datamodule = wrapped(Remade())
    datamodule.setup("fit")
    first = datamodule.train_dataset
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loader = datamodule.train_dataloader()
    assert datamodule.made == 2
    assert loader.dataset.dataset is not first.dataset


def test_other_items_do_not_take_the_place_of_those_selected(tmp_path: Path) -> None:
    datamodule, network = wrapped(Split()), LinearNet()
    with pytest.warns(UserWarning, match=r"Split gives other items with each train loader.*in setup\(\), or seed it"):
        quiet_trainer(tmp_path, max_epochs=3, reload_dataloaders_every_n_epochs=1).fit(network, datamodule=datamodule)
    assert len(network.seen) == 3
    assert [sorted(epoch) for epoch in network.seen] == [sorted(network.seen[0])] * 3
    chosen = torch.stack([image for image, _ in datamodule.train_dataset])
    assert sorted(network.seen[0]) == pytest.approx(sorted(marks(chosen).tolist()))


def test_making_a_loader_during_setup_leaves_the_random_state() -> None:
    datamodule = wrapped(Split())
    torch.manual_seed(5)
    state = torch.get_rng_state()
    datamodule.setup("fit")
    assert torch.equal(torch.get_rng_state(), state)


def test_items_without_an_image_need_none(tmp_path: Path) -> None:
    texts = [(f"text {place}", place % 2) for place in range(20)]
    embeddings = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    for method, features in (("random", "pixels"), ("k_center", embeddings)):
        datamodule = CoresetDataModule(texts, method=method, ratio=0.5, features=features, batch_size=5)
        datamodule.setup("fit")
        assert len(datamodule.train_dataloader()) == 2
