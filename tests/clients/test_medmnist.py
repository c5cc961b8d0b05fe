"""medmnist: labels ``[n, 1]`` and pictures in an array; the real file where there is one."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from lightning_coreset import CoresetDataModule
from tests.conftest import data_folder
from tests.helpers.clients import compare, rows, written_pictures

medmnist = pytest.importorskip("medmnist", reason="medmnist is not installed: tox run -e clients")

pytestmark = pytest.mark.clients

SIZES = {"train": 90, "val": 20, "test": 30}


@pytest.fixture
def pneumonia(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of PneumoniaMNIST: 4,708 real radiographs, else a small file of its form."""
    real = (data_folder() or tmp_path) / "pneumoniamnist" / "pneumoniamnist.npz"
    arrays: dict[str, Any] = {}
    if real.is_file():
        with np.load(real) as stored:
            for split in SIZES:
                arrays[f"{split}_images"] = stored[f"{split}_images"]
                # The package's own file has one column.
                arrays[f"{split}_labels"] = stored[f"{split}_labels"].reshape(-1, 1)
        np.savez(tmp_path / "pneumoniamnist.npz", **arrays)
        return tmp_path
    for place, (split, count) in enumerate(SIZES.items()):
        arrays[f"{split}_images"] = written_pictures(count, 28, channels=1, seed=place).squeeze(-1).numpy()
        arrays[f"{split}_labels"] = (np.arange(count, dtype=np.uint8) % 4 > 0)[:, None].astype(np.uint8)
    np.savez(tmp_path / "pneumoniamnist.npz", **arrays)
    monkeypatch.setitem(medmnist.INFO["pneumoniamnist"], "n_samples", SIZES)
    return tmp_path


class Flipping:
    """A transform of training: flips at random."""

    def __init__(self) -> None:
        self.steps = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.RandomHorizontalFlip()])

    def __call__(self, image: Any) -> Tensor:
        return self.steps(image)


def dataset(folder: Path, name: str, transform: Any) -> Any:
    return medmnist.PneumoniaMNIST(split=name, root=str(folder), download=False, transform=transform)


class Radiographs(pl.LightningDataModule):
    """A user's datamodule around the package's datasets."""

    def __init__(self, folder: Path, train_transform: Any) -> None:
        super().__init__()
        self.folder, self.train_transform, self.batch_size = folder, train_transform, 16

    def setup(self, stage: str) -> None:
        plain = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
        self.train = dataset(self.folder, "train", self.train_transform)
        self.held_out = {name: dataset(self.folder, name, plain) for name in ("val", "test")}

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(self.train, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(self.held_out["val"], batch_size=64)

    def test_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(self.held_out["test"], batch_size=64)


class Classifier(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(784, 2))

    def training_step(self, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(self.body(batch[0]), batch[1].squeeze(1))

    def validation_step(self, batch: Any) -> None:
        self.log("accuracy", (self.body(batch[0]).argmax(1) == batch[1].squeeze(1)).float().mean())

    def test_step(self, batch: Any) -> None:
        self.validation_step(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_radiographs(pneumonia: Path, tmp_path: Path) -> None:
    plain = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    ours = compare(
        lambda: Radiographs(pneumonia, plain),
        Classifier,
        tmp_path,
        lambda batch: rows(batch[0]),
        expected_batches=2,
        method="facility_location",
        budget=24,
        features="pixels",
    )
    datamodule = ours.datamodule
    chosen, train = datamodule.coreset.indices, datamodule.train
    labels = torch.from_numpy(train.labels).squeeze(1).long()
    assert torch.equal(datamodule.coreset.labels, labels[chosen])
    images = torch.stack([train[index][0] for index in chosen.tolist()])
    assert [set(epoch) for epoch in ours.seen] == [set(rows(images))] * 2


def test_augmentation_does_not_change_the_selection(pneumonia: Path) -> None:
    picks = []
    for transform in (v2.ToImage(), Flipping()):
        source = Radiographs(pneumonia, transform)
        datamodule = CoresetDataModule(source, method="moderate", budget=20, features="pixels")
        datamodule.setup("fit")
        picks.append(datamodule.coreset.indices)
    assert torch.equal(*picks)


def test_lightnings_own_wrapper_of_datasets_and_ours(pneumonia: Path) -> None:
    kept = [dataset(pneumonia, name, v2.ToImage()) for name in ("train", "val", "test")]
    bare = pl.LightningDataModule.from_datasets(*kept, batch_size=32, num_workers=0)
    ours = CoresetDataModule.from_datasets(*kept, batch_size=32, method="uniform", budget=64)
    wrapped = CoresetDataModule(bare, method="uniform", budget=64)
    for datamodule in (ours, wrapped):
        datamodule.setup("fit")
        assert len(datamodule.train_dataloader()) == 2
        for stage in ("val", "test"):
            batches = [list(getattr(one, f"{stage}_dataloader")()) for one in (bare, datamodule)]
            assert all(torch.equal(a, b) and torch.equal(c, d) for (a, c), (b, d) in zip(*batches, strict=True))
