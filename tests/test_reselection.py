"""Selecting again: from what was recorded so far, seen from the next epoch on, the same after a resume."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lightning_coreset import Coreset, CoresetDataModule, CoresetError, Pool, Proxy, Signals, TrainingDynamics, select
from tests.helpers.lightning_parts import DigitsSource, digit_tensors, marks, quiet_trainer
from tests.helpers.recorded_parts import Witness

COUNT = 120


class CountingSource(DigitsSource):
    """Counts how often its loaders are asked for, and draws in a fixed order."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**({"count": COUNT, "shuffle": False} | settings))
        self.validations = 0

    def val_dataloader(self) -> Any:
        self.validations += 1
        return super().val_dataloader()


def made(source: Any = None, **settings: Any) -> CoresetDataModule:
    defaults = {"method": "el2n", "method_args": {"epochs": 20}, "ratio": 0.25}
    defaults |= {"warmup_epochs": 2, "reselect_every_n_epochs": 2}
    return CoresetDataModule(source or CountingSource(), **(defaults | settings))


def fit(root: Path, datamodule: CoresetDataModule, epochs: int = 6, **settings: Any) -> Witness:
    torch.manual_seed(0)
    network = Witness()
    ckpt_path = settings.pop("ckpt_path", None)
    trainer = quiet_trainer(root, max_epochs=epochs, **({"num_sanity_val_steps": 0} | settings))
    trainer.fit(network, datamodule=datamodule, ckpt_path=ckpt_path)
    return network


def items_of(network: Witness) -> list[list[int]]:
    """Which items each epoch trained on."""
    known = {round(mark, 3): item for item, mark in enumerate(marks(digit_tensors(COUNT)[0]).tolist())}
    return [sorted(known[mark] for mark in epoch) for epoch in network.logits]


def chosen_after(signals: Signals, epochs: int) -> list[int]:
    """What the same method chooses in a notebook from the first epochs of a recording."""
    names = ("losses", "margins", "correct", "errors", "feature_norms", "runs")
    cut = {name: value[:epochs] if name in names else value for name, value in signals.tensors().items()}
    pool = Pool(signals=Signals(**cut))
    return sorted(select(pool, method="el2n", epochs=20, ratio=0.25).indices.tolist())


def test_everything_first_then_what_the_recording_so_far_says(tmp_path: Path) -> None:
    dynamics = TrainingDynamics(tmp_path / "recording")
    datamodule = made()
    network = fit(tmp_path, datamodule, callbacks=[dynamics])
    signals = dynamics.signals()
    everything = list(range(COUNT))
    first, second = chosen_after(signals, 2), chosen_after(signals, 4)
    assert first != second, "else nothing is shown"
    assert items_of(network) == [everything, everything, first, first, second, second]
    assert datamodule.coreset.manifest["selected_after_epochs"] == 6
    assert datamodule.source.validations == 1, "only the train loader is made again"


def test_one_selection_after_the_warmup(tmp_path: Path) -> None:
    datamodule = made(reselect_every_n_epochs=0, warmup_epochs=1)
    network = fit(tmp_path, datamodule, epochs=4)
    kept = datamodule.coreset.indices.sort().values.tolist()
    assert items_of(network) == [list(range(COUNT)), kept, kept, kept]


def test_a_proxy_may_make_the_first_selection(tmp_path: Path) -> None:
    proxy = Proxy("linear", epochs=2)
    datamodule = made(signals=proxy, warmup_epochs=0, reselect_every_n_epochs=1, features="pixels")
    network = fit(tmp_path, datamodule, epochs=3)
    images, labels = digit_tensors(COUNT)
    begun = proxy.record(images, labels, embeddings=images.flatten(1))
    expected = sorted(select(Pool(signals=begun), method="el2n", epochs=20, ratio=0.25).indices.tolist())
    seen = items_of(network)
    assert seen[0] == expected
    assert seen[1] != seen[0]
    assert set(datamodule.coreset.indices.tolist()) - set(seen[0]) - set(seen[1]), "unseen items have the proxy's rows"


@pytest.mark.parametrize(
    "moment",
    [
        {"save_on_train_epoch_end": False},
        {"save_on_train_epoch_end": True},
    ],
    ids=["after validation", "at the end"],
)
@pytest.mark.parametrize("epoch", [0, 1, 2, 3])
def test_a_resumed_run_goes_on_as_if_nothing_had_happened(tmp_path: Path, moment: dict, epoch: int) -> None:
    keeper = ModelCheckpoint(
        dirpath=tmp_path / "kept", filename="{epoch}", save_top_k=-1, enable_version_counter=False, **moment
    )
    whole = made()
    expected = fit(tmp_path, whole, callbacks=[keeper], enable_checkpointing=True)
    again = made()
    # Elsewhere, so that all it knows is in the checkpoint.
    network = fit(tmp_path / "elsewhere", again, ckpt_path=tmp_path / "kept" / f"epoch={epoch}.ckpt")
    assert items_of(network) == items_of(expected)[epoch + 1 :]
    assert torch.equal(again.coreset.indices, whole.coreset.indices)


def test_a_checkpoint_of_the_warmup_of_other_data_is_refused(tmp_path: Path) -> None:
    keeper = ModelCheckpoint(dirpath=tmp_path, filename="{epoch}", save_top_k=-1)
    fit(tmp_path, made(), epochs=3, callbacks=[keeper], enable_checkpointing=True)
    content = torch.load(tmp_path / "epoch=0.ckpt", weights_only=True)
    assert "indices" not in content["CoresetDataModule"]
    with pytest.raises(CoresetError, match="another train dataset"):
        fit(tmp_path, made(CountingSource(count=100)), ckpt_path=tmp_path / "epoch=0.ckpt")


def test_a_new_run_begins_anew(tmp_path: Path) -> None:
    datamodule = made()
    first = items_of(fit(tmp_path, datamodule))
    assert items_of(fit(tmp_path, datamodule)) == first


def test_nothing_is_left_on_the_trainer(tmp_path: Path) -> None:
    trainer = quiet_trainer(tmp_path, max_epochs=3)
    trainer.fit(Witness(), datamodule=made())
    assert trainer.callbacks == []
    assert "setup_data" not in vars(trainer.fit_loop)


def test_a_smoke_test_passes(tmp_path: Path) -> None:
    fit(tmp_path, made(), fast_dev_run=True)


@pytest.mark.parametrize("weights", ["batch", "resample"])
def test_weights_wait_for_the_first_selection(tmp_path: Path, weights: Any) -> None:
    datamodule = made(method="craig", method_args=None, weights=weights)
    network = fit(tmp_path, datamodule, epochs=3)
    seen = items_of(network)
    assert seen[0] == list(range(COUNT))
    assert set(seen[2]) <= set(datamodule.coreset.indices.tolist())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "k_center", "method_args": None}, "reselect_every_n_epochs=2 with 'k_center'.*same items again"),
        ({"warmup_epochs": -1}, "warmup_epochs=-1 is not accepted"),
        ({"reselect_every_n_epochs": 1.5}, "reselect_every_n_epochs=1.5 is not accepted"),
        ({"signals": Proxy("linear")}, "warmup_epochs=2 beside signals="),
        ({"warmup_epochs": 0}, "'el2n' needs training signals.*signals=Proxy.*warmup_epochs="),
        ({"warmup_epochs": 0, "reselect_every_n_epochs": 0}, "'el2n' needs training signals and got none"),
    ],
)
def test_wrong_use(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        made(**settings)
    assert "\n" not in str(raised.value)


def test_a_warmup_that_leaves_no_epoch(tmp_path: Path) -> None:
    with pytest.raises(CoresetError, match="warmup_epochs=2 leaves none of max_epochs=2"):
        fit(tmp_path, made(), epochs=2)


@pytest.mark.ddp
def test_two_ranks_record_and_select_alike_and_go_on(tmp_path: Path) -> None:
    done = run_script("2", str(tmp_path))
    assert done.returncode == 0, done.stderr
    sizes = [line for line in done.stdout.splitlines() if line.startswith("epoch")]
    # Of 101 items one is seen by both ranks.
    assert [line.split(":")[1].split()[0] for line in sizes] == ["51", "51", "15", "15", "15", "15"]
    signals = Signals.load(tmp_path / "training_dynamics")
    assert (~torch.isnan(signals.losses)).sum(dim=1).tolist() == [101, 101, 30, 30, 30, 30]
    assert (~torch.isnan(signals.logits)).all()
    last = Coreset.load(tmp_path / "coreset.json")
    pool = Pool(signals=signals)
    expected: Tensor = select(pool, method="el2n", epochs=20, ratio=0.3).indices
    assert torch.equal(last.indices, expected), "what ranks gathered is what they wrote"

    resumed = run_script("1", str(tmp_path), str(tmp_path / "checkpoints" / "epoch=2.ckpt"))
    assert resumed.returncode == 0, resumed.stderr
    sizes = [line for line in resumed.stdout.splitlines() if line.startswith("epoch")]
    assert [line.split(":")[1].split()[0] for line in sizes] == ["30", "30", "30"], "on one rank from now on"
    after = Signals.load(tmp_path / "training_dynamics")
    assert after.epochs == 6
    assert torch.equal(after.losses[:3].nan_to_num(), signals.losses[:3].nan_to_num())


def run_script(*arguments: str) -> subprocess.CompletedProcess[str]:
    script = Path(__file__).parent / "scripts" / "ddp_reselection.py"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment, check=False)
