"""LightningCLI, as a stranger's script uses it: only Lightning and the user's own classes are imported."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch.cli import LightningCLI

from lightning_coreset import Coreset, CoresetDataModule, SubZeroCore
from tests.helpers.lightning_parts import DigitsSource, LinearNet

QUIET = [
    "--trainer.accelerator=cpu",
    "--trainer.devices=1",
    "--trainer.max_epochs=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.logger=false",
]
OURS = "--data=lightning_coreset.CoresetDataModule"


@pytest.fixture(autouse=True)
def _no_arguments_of_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    """LightningCLI warns where a program has arguments of its own."""
    monkeypatch.setattr(sys, "argv", ["train.py"])


def cli(tmp_path: Path, *arguments: str, command: str = "fit", **settings: Any) -> LightningCLI:
    root = f"--trainer.default_root_dir={tmp_path}"
    config = {"save_config_kwargs": {"overwrite": True}} | settings
    return LightningCLI(LinearNet, args=[command, *QUIET, root, *arguments], **config)


def test_the_first_form_of_the_design(tmp_path: Path) -> None:
    flags = (
        OURS,
        "--data.source=DigitsSource",
        "--data.method=subzerocore",
        "--data.ratio=0.1",
        "--data.features=pixels",
    )
    datamodule = cli(tmp_path, *flags).datamodule
    assert isinstance(datamodule, CoresetDataModule)
    assert isinstance(datamodule.source, DigitsSource)
    assert len(datamodule.coreset) == 60


def test_a_selector_by_its_bare_name_with_arguments(tmp_path: Path) -> None:
    flags = (
        OURS,
        "--data.source=DigitsSource",
        "--data.source.batch_size=8",
        "--data.selector=SubZeroCore",
        "--data.selector.coverage=0.5",
        "--data.ratio=0.1",
        "--data.features=pixels",
    )
    datamodule = cli(tmp_path, *flags).datamodule
    assert isinstance(datamodule.selector, SubZeroCore)
    assert (datamodule.selector.coverage, datamodule.batch_size) == (0.5, 8)
    assert datamodule.coreset.manifest["arguments"]["coverage"] == 0.5


def test_method_arguments_by_flag(tmp_path: Path) -> None:
    flags = (
        OURS,
        "--data.source=DigitsSource",
        "--data.method=k_center",
        "--data.method_args.start=5",
        "--data.budget=9",
    )
    datamodule = cli(tmp_path, *flags, "--data.features=pixels").datamodule
    assert datamodule.coreset.indices[0] == 5


def test_a_fixed_class_needs_no_data_flag(tmp_path: Path) -> None:
    flags = ("--data.source=DigitsSource", "--data.ratio=0.1", "--data.features=pixels")
    assert len(cli(tmp_path, *flags, datamodule_class=CoresetDataModule).datamodule.coreset) == 60


def test_a_dataset_by_its_class_path() -> None:
    flags = (OURS, "--data.source=torchvision.datasets.FakeData", "--data.source.size=40", "--data.method=random")
    more = ("--data.ratio=0.5", "--data.batch_size=4", "--data.source.image_size=[1,8,8]")
    datamodule = LightningCLI(LinearNet, args=[*flags, *more], run=False).datamodule
    datamodule.setup("fit")
    assert (len(datamodule.train_dataset), datamodule.train_dataloader().batch_size) == (20, 4)


def test_yaml_with_nested_arguments_printed_saved_and_run_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    nested = {
        "source": {"class_path": "DigitsSource", "init_args": {"count": 500}},
        "selector": {"class_path": "SubZeroCore", "init_args": {"coverage": 0.7, "one_sided": True}},
        "ratio": 0.05,
        "features": "pixels",
    }
    config.write_text(
        yaml.safe_dump({"data": {"class_path": "lightning_coreset.CoresetDataModule", "init_args": nested}})
    )

    with pytest.raises(SystemExit) as stopped:
        cli(tmp_path, f"--config={config}", "--print_config")
    assert stopped.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]
    assert printed["selector"]["class_path"] == "lightning_coreset.SubZeroCore"
    assert printed["selector"]["init_args"]["coverage"] == 0.7

    first = cli(tmp_path, f"--config={config}", "--trainer.logger=CSVLogger", f"--trainer.logger.save_dir={tmp_path}")
    (saved,) = tmp_path.glob("**/version_0/config.yaml")
    again = LightningCLI(LinearNet, args=["fit", f"--config={saved}"], save_config_callback=None)
    assert again.datamodule.coreset.indices.tolist() == first.datamodule.coreset.indices.tolist()
    assert len(again.datamodule.coreset) == 25


def test_resuming_by_flag(tmp_path: Path) -> None:
    flags = (OURS, "--data.source=DigitsSource", "--data.method=random", "--data.ratio=0.1", "--data.seed=3")
    first = cli(tmp_path, *flags, "--trainer.enable_checkpointing=true")
    (checkpoint,) = tmp_path.glob("**/*.ckpt")
    more = ("--trainer.max_epochs=2", f"--ckpt_path={checkpoint}")
    second = cli(tmp_path, *flags, *more)
    assert second.datamodule.coreset.indices.tolist() == first.datamodule.coreset.indices.tolist()
    assert second.trainer.current_epoch == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--data.method=subzero", "--data.ratio=0.1"), "did you mean 'subzerocore'"),
        (("--data.selector=KCenter", "--data.method=random", "--data.ratio=0.1"), "--data.method=null clears it"),
        (("--data.ratio=0.1", "--data.budget=5"), "--data.ratio=null clears it"),
        ((), "got neither"),
    ],
)
def test_a_wrong_flag_says_what_to_do(
    tmp_path: Path, flags: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((SystemExit, ValueError)) as raised:
        cli(tmp_path, OURS, "--data.source=DigitsSource", *flags)
    told = capsys.readouterr().err + str(raised.value) + str(raised.value.__cause__)
    assert message in told


def test_a_script_that_never_imports_us(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN_CLASSES)
    (tmp_path / "train.py").write_text(
        "from lightning.pytorch.cli import LightningCLI\n"
        "from own import MyDataModule, MyNet\n"
        'if __name__ == "__main__":\n'
        "    LightningCLI(MyNet)\n"
    )
    flags = ["--data.source", "MyDataModule", "--data.selector", "SubZeroCore", "--data.selector.coverage", "0.6"]
    arguments = ["fit", "--data", "lightning_coreset.CoresetDataModule", *flags, "--data.ratio", "0.1"]
    done = subprocess.run(
        [sys.executable, "train.py", *arguments, "--data.features", "pixels", *QUIET],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(Coreset.load(tmp_path / "coresets" / "coreset.json")) == 20


OWN_CLASSES = """
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

class MyDataModule(LightningDataModule):
    def setup(self, stage: str) -> None:
        images, labels = load_digits(return_X_y=True)
        self.train = TensorDataset(torch.tensor(images[:200], dtype=torch.float32), torch.tensor(labels[:200]))

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, batch_size=10, shuffle=True)

class MyNet(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)

    def training_step(self, batch):
        return torch.nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)
"""
