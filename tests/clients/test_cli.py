"""LightningCLI with the class path of somebody else's datamodule as the source."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.demos.boring_classes import BoringModel
from PIL import Image

from tests.helpers.clients import written_pictures

pytestmark = [
    pytest.mark.clients,
    # Lightning's own calls of jsonargparse and of torch.
    pytest.mark.filterwarnings("ignore:\\n.*JsonargparseDeprecation", "ignore:\\n.*deprecated in v4"),
]

OURS = "--data=lightning_coreset.CoresetDataModule"


@pytest.fixture(autouse=True)
def _no_arguments_of_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    """LightningCLI warns where a program has arguments of its own."""
    monkeypatch.setattr(sys, "argv", ["train.py"])


def quiet(root: Path, *arguments: str) -> list[str]:
    plain = {"accelerator": "cpu", "devices": 1, "max_epochs": 1, "logger": "false", "enable_progress_bar": "false"}
    settings = plain | {"enable_model_summary": "false", "default_root_dir": root}
    return ["fit", *(f"--trainer.{name}={value}" for name, value in settings.items()), *arguments]


def test_lightnings_boring_datamodule(tmp_path: Path) -> None:
    source = "--data.source=lightning.pytorch.demos.boring_classes.BoringDataModule"
    arguments = quiet(tmp_path, OURS, source, "--data.method=k_center", "--data.ratio=0.25", "--data.features=pixels")
    datamodule = LightningCLI(BoringModel, args=arguments).datamodule
    assert (len(datamodule.coreset), type(datamodule.source).__name__) == (16, "BoringDataModule")


def test_mnist_with_arguments_from_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_USE_MOCKED_MNIST", "1")
    folder = tmp_path / "MNIST" / "complete"
    folder.mkdir(parents=True)
    for name in ("training", "test"):
        pictures = written_pictures(40, 28, channels=1).squeeze(-1)
        torch.save((pictures, torch.arange(40) % 10), folder / f"{name}.pt")
    source = {
        "class_path": "lightning.pytorch.demos.mnist_datamodule.MNISTDataModule",
        "init_args": {"data_dir": str(tmp_path), "val_split": 10, "num_workers": 0, "batch_size": 5},
    }
    data = {
        "class_path": "lightning_coreset.CoresetDataModule",
        "init_args": {"source": source, "method": "facility_location", "budget": 10, "features": "pixels"},
    }
    config = tmp_path / "written.yaml"
    config.write_text(yaml.safe_dump({"data": data}))
    run = LightningCLI(MnistModel, args=quiet(tmp_path, f"--config={config}"))
    assert run.trainer.num_training_batches == 2
    assert (run.datamodule.num_classes, run.datamodule.batch_size) == (10, 5)
    saved = yaml.safe_load((tmp_path / "config.yaml").read_text())["data"]["init_args"]["source"]
    assert saved["class_path"] == source["class_path"]
    assert saved["init_args"].items() >= source["init_args"].items()


class MnistModel(BoringModel):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(784, 2)

    def step(self, batch: Any) -> torch.Tensor:
        return super().step(batch[0].flatten(1))


def test_torchgeos_uc_merced_with_its_own_task(tmp_path: Path) -> None:
    pytest.importorskip("torchgeo", reason="torchgeo is not installed: tox run -e clients")
    for split in ("train", "val", "test"):
        names = [f"{split}{number}.tif" for number in range(12)]
        for number, picture in enumerate(written_pictures(12, 32)):
            folder = tmp_path / "UCMerced_LandUse" / "Images" / ("beach", "forest")[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture.numpy()).save(folder / names[number])
        (tmp_path / f"uc_merced-{split}.txt").write_text("\n".join(names) + "\n")
    source = (
        "--data.source=torchgeo.datamodules.UCMercedDataModule",
        f"--data.source.dict_kwargs.root={tmp_path}",
        "--data.source.batch_size=2",
    )
    selection = ("--data.selector=SubZeroCore", "--data.selector.coverage=0.6", "--data.budget=4")
    model = ("--model=torchgeo.trainers.ClassificationTask", "--model.model=resnet18", "--model.num_classes=2")
    run = LightningCLI(args=quiet(tmp_path, OURS, *source, *selection, "--data.features=pixels", *model))
    assert run.datamodule.coreset.class_counts.tolist() == [2, 2]
    assert run.trainer.num_training_batches == 2
