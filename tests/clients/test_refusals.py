"""Clients that cannot be cut by index, and what they are told."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from lightning.pytorch.demos.boring_classes import BoringDataModuleNoLen, BoringModel, IterableBoringDataModule
from torch.utils.data import DataLoader, IterableDataset

from lightning_coreset import CoresetDataModule
from lightning_coreset.errors import UnsupportedSourceError
from tests.helpers.lightning_parts import quiet_trainer

pytestmark = pytest.mark.clients


class Pipeline(IterableDataset[Any]):
    """As webdataset's: a chain of steps with ``with_length``, so that it has ``__len__`` but no items by index."""

    def __init__(self, steps: tuple[Callable[[Any], Any], ...] = ()) -> None:
        self.steps = steps
        self.size = 0

    def map(self, step: Callable[[Any], Any]) -> "Pipeline":
        return Pipeline((*self.steps, step))

    def with_length(self, size: int) -> "Pipeline":
        self.size = size
        return self

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Any]:
        for item in range(self.size):
            for step in self.steps:
                item = step(item)
            yield item


class Shards(pl.LightningDataModule):
    """As people write it around webdataset: the pipeline makes the batches."""

    def train_dataloader(self) -> Any:
        return DataLoader(Pipeline().map(float).with_length(8), batch_size=None)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (BoringDataModuleNoLen, "RandomIterableDataset is an iterable dataset.*map-style dataset is accepted"),
        (Shards, "Pipeline is an iterable dataset.*map-style dataset is accepted"),
        (IterableBoringDataModule, r"train_dataloader\(\) gave a list; one torch DataLoader is accepted"),
    ],
)
def test_in_fit_before_anything_is_trained(source: type[pl.LightningDataModule], told: str, tmp_path: Path) -> None:
    datamodule = CoresetDataModule(source(), method="random", ratio=0.5)
    with pytest.raises(UnsupportedSourceError, match=told) as caught:
        quiet_trainer(tmp_path).fit(BoringModel(), datamodule=datamodule)
    assert "\n" not in str(caught.value)


def test_an_iterable_dataset_itself_at_once() -> None:
    with pytest.raises(UnsupportedSourceError, match="Pipeline is an iterable dataset"):
        CoresetDataModule(Pipeline().with_length(8), method="random", ratio=0.5)


def test_other_stages_of_an_iterable_source_still_run(tmp_path: Path) -> None:
    datamodule = CoresetDataModule(BoringDataModuleNoLen(), method="random", ratio=0.5)
    assert quiet_trainer(tmp_path).test(BoringModel(), datamodule=datamodule) == [{}]


def test_a_datamodule_of_the_other_package() -> None:
    other = pytest.importorskip(
        "pytorch_lightning", reason="pytorch-lightning is not installed: it comes with lightning"
    )
    from pytorch_lightning.demos.boring_classes import BoringDataModule

    assert not issubclass(other.LightningDataModule, pl.LightningDataModule)
    with pytest.raises(TypeError, match="BoringDataModule is a pytorch_lightning.*import lightning.pytorch as pl"):
        CoresetDataModule(BoringDataModule(), method="random", ratio=0.5)
