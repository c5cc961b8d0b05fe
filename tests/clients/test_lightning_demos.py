"""Lightning's own demonstration datamodules."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel
from lightning.pytorch.demos.mnist_datamodule import _MNIST, MNISTDataModule
from sklearn.datasets import load_digits
from torch import Tensor, nn

from lightning_coreset import CoresetDataModule, select
from tests.helpers.clients import compare, rows

pytestmark = pytest.mark.clients

TRAIN, VAL, TEST = 240, 60, 80


class Classifier(pl.LightningModule):
    """A user's module for grey pictures of 28 x 28 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))

    def training_step(self, batch: list[Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self.body(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor]) -> None:
        self.log("accuracy", (self.body(batch[0]).argmax(1) == batch[1]).float().mean())

    def test_step(self, batch: list[Tensor]) -> None:
        self.validation_step(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Real handwritten digits in the files of the demonstration's MNIST."""
    monkeypatch.setenv("PL_USE_MOCKED_MNIST", "1")
    images, labels = load_digits(return_X_y=True)
    wide = nn.functional.interpolate(torch.tensor(images).view(-1, 1, 8, 8) * 15.9, 28, mode="bilinear")
    pictures, classes = wide.squeeze(1).to(torch.uint8), torch.tensor(labels)
    folder = tmp_path / "data" / "MNIST" / "complete"
    folder.mkdir(parents=True)
    known = TRAIN + VAL
    torch.save((pictures[:known].clone(), classes[:known].clone()), folder / "training.pt")
    torch.save((pictures[known : known + TEST].clone(), classes[known : known + TEST].clone()), folder / "test.pt")
    return tmp_path / "data"


def test_mnist(mnist: Path, tmp_path: Path) -> None:
    def make() -> MNISTDataModule:
        return MNISTDataModule(str(mnist), val_split=VAL, num_workers=0, batch_size=10)

    # 25 items in batches of 10, of which the source drops the last.
    chosen_by: Any = {"method": "facility_location", "budget": 25}
    ours = compare(
        make, Classifier, tmp_path, lambda batch: rows(batch[0]), expected_batches=2, features="pixels", **chosen_by
    )
    datamodule = ours.datamodule
    assert (datamodule.num_classes, datamodule.batch_size, datamodule.name) == (10, 10, "mnist")
    train = datamodule.source.dataset_train
    images = torch.stack([train[index][0] for index in range(TRAIN)])
    chosen = set(rows(images[datamodule.coreset.indices]))
    assert all(set(epoch) <= chosen for epoch in ours.seen)
    labels = torch.tensor([train[index][1] for index in range(TRAIN)])
    assert torch.equal(datamodule.coreset.labels, labels[datamodule.coreset.indices])
    # The demonstration normalises in its dataset, where no transform could be replaced: tensors as they are.
    by_hand = select(images.flatten(1), labels, **chosen_by)
    assert torch.equal(datamodule.coreset.indices, by_hand.indices)


def test_boring(tmp_path: Path) -> None:
    ours = compare(
        BoringDataModule,
        BoringModel,
        tmp_path,
        lambda batch: [tuple(row) for row in batch.tolist()],
        expected_batches=16,
        method="k_center",
        ratio=0.25,
        features="pixels",
    )
    source, coreset = ours.datamodule.source, ours.datamodule.coreset
    chosen = {tuple(source.random_train[index].tolist()) for index in coreset.indices.tolist()}
    assert [set(epoch) for epoch in ours.seen] == [chosen] * 2
    assert ours.datamodule.random_full is source.random_full


def test_labels_are_read_without_decoding(mnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datamodule = CoresetDataModule(
        MNISTDataModule(str(mnist), val_split=VAL, num_workers=0), method="uniform", ratio=0.2
    )
    read: list[int] = []
    get = _MNIST.__getitem__
    monkeypatch.setattr(_MNIST, "__getitem__", lambda self, index: read.append(index) or get(self, index))
    datamodule.setup("fit")
    assert len(set(read)) <= 8, "the fingerprint alone reads items"
