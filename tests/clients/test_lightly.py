"""lightly: a dataset that wraps a folder, whose transform makes two random views of each picture."""

import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from lightning_coreset import CoresetDataModule, select
from lightning_coreset.data import read_labels
from lightning_coreset.features.pixels import small_pixels
from tests.helpers.clients import compare, rows, written_pictures
from tests.helpers.lightning_parts import quiet_trainer

pytest.importorskip("lightly", reason="lightly is not installed: tox run -e clients")

pytestmark = pytest.mark.clients

COUNT = 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    for place, picture in enumerate(written_pictures(COUNT, 16)):
        (root / f"class{place % 3}").mkdir(exist_ok=True)
        Image.fromarray(picture.numpy()).save(root / f"class{place % 3}" / f"{place:02}.png")
    return root


def dataset(folder: Path, transform: Any = None) -> Any:
    from lightly.data import LightlyDataset
    from lightly.transforms import SimCLRTransform

    return LightlyDataset(str(folder), transform=transform or SimCLRTransform(16, cj_prob=0.5))


class Contrastive(pl.LightningModule):
    """SimCLR with lightly's own loss."""

    def __init__(self) -> None:
        from lightly.loss import NTXentLoss

        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(768, 8))
        self.loss = NTXentLoss()
        self.names: list[str] = []

    def training_step(self, batch: Any) -> Tensor:
        (one, other), _, names = batch
        self.names += names
        return self.loss(self.body(one), self.body(other))

    def validation_step(self, batch: Any) -> None:
        self.log("spread", self.body(batch[0]).std(), batch_size=len(batch[0]))

    def test_step(self, batch: Any) -> None:
        self.log("spread", self.body(batch[0]).std(), batch_size=len(batch[0]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Pictures(pl.LightningDataModule):
    """What people write around a LightlyDataset."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        plain = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
        self.train, self.held_out = dataset(folder), dataset(folder, plain)

    def train_dataloader(self) -> Any:
        return DataLoader(self.train, batch_size=4, shuffle=True, drop_last=True)

    def val_dataloader(self) -> Any:
        return DataLoader(self.held_out, batch_size=8)

    def test_dataloader(self) -> Any:
        return DataLoader(self.held_out, batch_size=5)


def test_two_random_views(folder: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        # The transform is replaced: nothing random is left, and no warning is due.
        warnings.filterwarnings("error", message="Two reads of one item")
        ours = compare(
            lambda: Pictures(folder),
            Contrastive,
            tmp_path,
            lambda batch: list(batch[2]),
            expected_batches=2,
            method="facility_location",
            budget=9,
            features="pixels",
        )
    coreset, train = ours.datamodule.coreset, ours.datamodule.train
    names = train.get_filenames()
    assert all(set(epoch) <= {names[index] for index in coreset.indices.tolist()} for epoch in ours.seen)
    plain = torch.stack([small_pixels(Image.open(folder / name)) for name in names]).flatten(1)
    labels = torch.tensor(train.dataset.targets)
    assert torch.equal(coreset.indices, select(plain, labels, method="facility_location", budget=9).indices)
    assert torch.equal(read_labels(train), labels)


def test_a_module_sees_the_pictures_themselves(folder: Path) -> None:
    class Noting(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(images)
            return images.flatten(1)

    seen: list[Tensor] = []
    train = dataset(folder)
    CoresetDataModule(train, method="k_center", budget=5, features=Noting()).setup("fit")
    files = [Image.open(folder / name) for name in train.get_filenames()]
    assert rows(seen[0][:COUNT]) == rows(torch.stack([small_pixels(file) for file in files]))


def test_the_loader_itself_is_the_source(folder: Path, tmp_path: Path) -> None:
    loader = DataLoader(dataset(folder), batch_size=4, shuffle=True, drop_last=True)
    datamodule = CoresetDataModule(loader, method="uniform", ratio=0.4)
    module = Contrastive()
    quiet_trainer(tmp_path).fit(module, datamodule=datamodule)
    assert len(module.names) == len(set(module.names)) == 12
    assert datamodule.coreset.class_counts.tolist() == [4, 4, 4]


def test_a_dataset_that_hides_its_randomness_is_warned_of(folder: Path) -> None:
    from lightly.data import LightlyDataset

    class Hidden(torch.utils.data.Dataset[Any]):
        def __init__(self) -> None:
            self.views = dataset(folder)

        def __len__(self) -> int:
            return len(self.views)

        def __getitem__(self, index: int) -> Any:
            views, label, _ = self.views[index]
            return views, label

    train = LightlyDataset.from_torch_dataset(Hidden())
    datamodule = CoresetDataModule(train, method="random", budget=4, features="pixels")
    with pytest.warns(UserWarning, match=r"Two reads of one item of LightlyDataset differ.*\.transform"):
        datamodule.setup("fit")
