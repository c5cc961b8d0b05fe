"""torchgeo: samples are dictionaries, and its datamodules normalise and augment a batch after the transfer."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from lightning_coreset import CoresetDataModule
from lightning_coreset.errors import CoresetError, UnsupportedSourceError
from tests.helpers.clients import compare, rows, written_pictures
from tests.helpers.lightning_parts import quiet_trainer

pytest.importorskip("torchgeo", reason="torchgeo is not installed: tox run -e clients")

pytestmark = [pytest.mark.clients, pytest.mark.filterwarnings("ignore::PendingDeprecationWarning:rasterio")]

CLASSES = ("agricultural", "beach", "forest")
SIZES = {"train": 24, "val": 4, "test": 5}
#: The only picture of 256 x 256 pixels that embeds fast: its mean over 32 x 32 patches.
PATCHES = nn.Sequential(nn.AvgPool2d(32), nn.Flatten())


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """UC Merced's files with pictures that differ by a coarse pattern."""
    root = tmp_path_factory.mktemp("ucmerced")
    pictures = written_pictures(sum(SIZES.values()), 8)
    place = 0
    for split, count in SIZES.items():
        names = []
        for number in range(count):
            folder = root / "UCMerced_LandUse" / "Images" / CLASSES[number % 3]
            folder.mkdir(parents=True, exist_ok=True)
            names.append(f"{split}{number:02}.tif")
            Image.fromarray(pictures[place].numpy()).resize((256, 256), Image.Resampling.NEAREST).save(
                folder / names[-1]
            )
            place += 1
        (root / f"uc_merced-{split}.txt").write_text("\n".join(names) + "\n")
    return root


def uc_merced(root: Path, batch_size: int = 4) -> Any:
    from torchgeo.datamodules import UCMercedDataModule

    return UCMercedDataModule(root=str(root), batch_size=batch_size, num_workers=0)


def flipping(root: Path) -> Any:
    """UC Merced that augments at random while the trainer trains."""
    import kornia.augmentation as K

    source = uc_merced(root)
    source.train_aug = K.AugmentationSequential(
        K.Normalize(mean=source.mean, std=source.std),
        K.RandomHorizontalFlip(p=0.5),
        K.RandomBrightness((0.5, 1.5), p=1.0),
        data_keys=None,
        keepdim=True,
    )
    return source


def task() -> Any:
    from torchgeo.trainers import ClassificationTask

    return ClassificationTask(model="resnet18", weights=None, num_classes=3, lr=1e-3)


def test_uc_merced_with_its_own_task(scenes: Path, tmp_path: Path) -> None:
    ours = compare(
        lambda: uc_merced(scenes),
        task,
        tmp_path,
        lambda batch: rows(batch["image"]),
        # 10 items in batches of 4, of which the source drops the last.
        expected_batches=2,
        method="facility_location",
        budget=10,
        features=PATCHES,
    )
    datamodule = ours.datamodule
    train = datamodule.source.train_dataset
    chosen = datamodule.coreset.indices
    images = torch.stack([train[index]["image"] for index in chosen.tolist()]) / 255
    assert all(set(epoch) <= set(rows(images)) for epoch in ours.seen)
    assert torch.equal(datamodule.coreset.labels, torch.tensor(train.targets)[chosen])
    assert (datamodule.batch_size, datamodule.dataset_class.__name__) == (4, "UCMerced")
    figure = datamodule.plot(datamodule.source.val_dataset[0])
    assert figure is not None


def test_the_selection_sees_normalised_but_not_augmented_pictures(scenes: Path, tmp_path: Path) -> None:
    seen: list[Tensor] = []

    class Noting(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(images.clone())
            return PATCHES(images)

    for root in ("first", "second"):
        datamodule = CoresetDataModule(
            flipping(scenes), method="k_center", ratio=0.25, features=Noting(), cache_dir=None
        )
        torch.manual_seed(len(root))
        quiet_trainer(tmp_path / root, max_epochs=1, limit_val_batches=1).fit(task(), datamodule=datamodule)
    train = datamodule.source.train_dataset
    plain = torch.stack([train[index]["image"] for index in range(len(train))]) / 255
    assert torch.equal(seen[0], seen[1])
    torch.testing.assert_close(seen[0][: len(plain)], plain)


def test_the_training_augmentation_reaches_the_module(scenes: Path, tmp_path: Path) -> None:
    class Recording(type(task())):  # type: ignore[misc]
        def training_step(self, batch: Any, *place: int) -> Tensor:
            means.append(float(batch["image"].mean()))
            return super().training_step(batch, *place)

    means: list[float] = []
    module = Recording(model="resnet18", weights=None, num_classes=3)
    datamodule = CoresetDataModule(flipping(scenes), method="random", budget=4, cache_dir=None)
    quiet_trainer(tmp_path, max_epochs=3, limit_val_batches=1).fit(module, datamodule=datamodule)
    # One batch of the same four pictures in each epoch.
    assert len(set(means)) == 3


def test_labels_are_read_without_decoding(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datamodule = CoresetDataModule(uc_merced(scenes), method="uniform", ratio=0.25)
    datamodule.source.setup("fit")
    read: list[int] = []
    kind: Any = datamodule.source.dataset_class
    get = kind._load_image
    monkeypatch.setattr(kind, "_load_image", lambda self, index: read.append(index) or get(self, index))
    datamodule.setup("fit")
    assert len(set(read)) <= 8, "the fingerprint alone reads items"


def test_pixels_stay_small_where_the_source_enlarges(scenes: Path, tmp_path: Path) -> None:
    from lightning_coreset.features import PixelsExtractor

    widths: list[int] = []

    class Noting(PixelsExtractor):
        def extract(self, inputs: Tensor) -> Tensor:
            found = super().extract(inputs)
            widths.append(found.shape[1])
            return found

    datamodule = CoresetDataModule(uc_merced(scenes), method="k_center", budget=4, features=Noting())
    quiet_trainer(tmp_path, max_epochs=1, limit_train_batches=1, limit_val_batches=1).fit(task(), datamodule=datamodule)
    assert set(widths) == {3 * 32 * 32}


@pytest.fixture(scope="module")
def spectra(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """EuroSAT's files: 13 bands of 16 bits."""
    import rasterio
    from torchgeo.datasets import EuroSAT

    root = tmp_path_factory.mktemp("eurosat")
    pictures = written_pictures(sum(SIZES.values()), 16, channels=13).permute(0, 3, 1, 2).numpy().astype(np.uint16)
    place = 0
    for split, count in SIZES.items():
        names = []
        for number in range(count):
            kind = ("Forest", "River")[number % 2]
            folder = root / EuroSAT.base_dir / kind
            folder.mkdir(parents=True, exist_ok=True)
            name = f"{kind}_{split}{number}"
            with rasterio.open(
                folder / f"{name}.tif", "w", driver="GTiff", height=16, width=16, count=13, dtype="uint16"
            ) as file:
                file.write(pictures[place] * 10)
            names.append(f"{name}.jpg")
            place += 1
        (root / EuroSAT.split_filenames[split]).write_text("\n".join(names) + "\n")
    return root


def euro_sat(root: Path) -> Any:
    from torchgeo.datamodules import EuroSATDataModule

    return EuroSATDataModule(root=str(root), batch_size=4, num_workers=0)


def bands_task() -> Any:
    from torchgeo.trainers import ClassificationTask

    return ClassificationTask(model="resnet18", weights=None, in_channels=13, num_classes=2)


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_thirteen_bands_by_their_pixels(spectra: Path, tmp_path: Path) -> None:
    ours = compare(
        lambda: euro_sat(spectra),
        bands_task,
        tmp_path,
        lambda batch: rows(batch["image"]),
        expected_batches=2,
        method="herding",
        budget=8,
        features="pixels",
    )
    assert ours.datamodule.coreset.class_counts.tolist() == [4, 4]


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_a_network_of_three_channels_refuses_thirteen(spectra: Path, tmp_path: Path) -> None:
    from lightning_coreset.features import TorchvisionExtractor

    def fit(**features: Any) -> CoresetDataModule:
        datamodule = CoresetDataModule(euro_sat(spectra), method="herding", budget=8, cache_dir=None, **features)
        trainer = quiet_trainer(tmp_path, max_epochs=1, limit_val_batches=1, limit_train_batches=1)
        trainer.fit(bands_task(), datamodule=datamodule)
        return datamodule

    network = TorchvisionExtractor("squeezenet1_1", weights=None)
    with pytest.raises(CoresetError, match=r"3 channels and got.*13.*features_transform="):
        fit(features=network)


class TestGeoDataModule:
    """Its batches are places in one large picture, drawn by a batch sampler of its own."""

    @pytest.fixture
    def source(self, tmp_path: Path) -> Any:
        import rasterio
        from torchgeo.datamodules import GeoDataModule
        from torchgeo.datasets import RasterDataset

        class Scene(RasterDataset):
            filename_glob = "*.tif"
            is_image = True

            def __init__(self, split: str = "train", paths: Any = None) -> None:
                super().__init__(paths=paths)

        transform = rasterio.transform.from_origin(500_000, 4_000_000, 10, 10)
        with rasterio.open(
            tmp_path / "scene.tif",
            "w",
            driver="GTiff",
            height=128,
            width=128,
            count=3,
            dtype="uint8",
            crs="EPSG:32632",
            transform=transform,
        ) as file:
            file.write(written_pictures(1, 128)[0].permute(2, 0, 1).numpy())
        return GeoDataModule(Scene, batch_size=4, patch_size=32, length=16, num_workers=0, paths=str(tmp_path))

    def test_bare(self, source: Any) -> None:
        source.setup("fit")
        assert next(iter(source.train_dataloader()))["image"].shape == (4, 3, 32, 32)

    def test_it_is_refused_by_the_name_of_its_sampler(self, source: Any, tmp_path: Path) -> None:
        datamodule = CoresetDataModule(source, method="random", ratio=0.5)
        with pytest.raises(UnsupportedSourceError, match="has a RandomBatchGeoSampler.*batch_size= with shuffle="):
            quiet_trainer(tmp_path / "run").fit(task(), datamodule=datamodule)
