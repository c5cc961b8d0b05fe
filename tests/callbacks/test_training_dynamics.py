"""TrainingDynamics: any run is recorded, item by item, and goes on as if nobody listened."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, default_collate

from lightning_coreset import CoresetDataModule, CoresetError, Signals, TrainingDynamics
from lightning_coreset.errors import UnsupportedSourceError
from tests.helpers.lightning_parts import DigitsSource, LinearNet, digit_tensors, marks, quiet_trainer
from tests.helpers.recorded_parts import (
    FORMS,
    ShapedSource,
    Witness,
    loader_of,
    mixing_collate,
    reference_columns,
)

COUNT = 50


def fit(
    root: Path, dynamics: TrainingDynamics | None, data: Any = None, network: Any = None, **settings: Any
) -> LightningModule:
    """A run of somebody's module from fixed weights and a fixed random state."""
    torch.manual_seed(0)
    network = Witness() if network is None else network
    ckpt_path = settings.pop("ckpt_path", None)
    callbacks = [*settings.pop("callbacks", []), *([] if dynamics is None else [dynamics])]
    trainer = quiet_trainer(root, callbacks=callbacks, **({"max_epochs": 2} | settings))
    data = loader_of() if data is None else data
    where = {"train_dataloaders" if isinstance(data, DataLoader | list | dict) else "datamodule": data}
    trainer.fit(network, **where, ckpt_path=ckpt_path)
    return network


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def check(signals: Signals, network: Witness, count: int = COUNT) -> None:
    """What was recorded is what the module's own steps computed."""
    images, labels = digit_tensors(count)
    assert torch.equal(signals.labels, labels)
    for epoch, seen in enumerate(network.logits):
        for item, mark in enumerate(marks(images).tolist()):
            row = seen.get(round(mark, 3))
            if row is None:
                assert torch.isnan(signals.losses[epoch, item])
                assert signals.correct[epoch, item] == -1
                continue
            expected = reference_columns(row.numpy()[None], labels[item : item + 1].numpy())
            for name, value in expected.items():
                np.testing.assert_allclose(getattr(signals, name)[epoch, item].item(), value[0], rtol=1e-4, atol=1e-5)
            if epoch == len(network.logits) - 1:
                torch.testing.assert_close(signals.logits[item], row)


@pytest.mark.parametrize("form", FORMS)
def test_batches_of_any_form_are_recorded_and_stay_as_they_were(tmp_path: Path, form: str) -> None:
    plain = fit(tmp_path, None, ShapedSource(form, count=COUNT))
    dynamics = TrainingDynamics(tmp_path / "recording")
    network = fit(tmp_path, dynamics, ShapedSource(form, count=COUNT))
    assert network.types == plain.types
    assert network.seen == plain.seen, "the same items in the same order"
    assert same_weights(network, plain)
    check(dynamics.signals(), network)


@pytest.mark.parametrize(
    "settings",
    [
        {"num_workers": 2},
        {"num_workers": 1, "persistent_workers": True},
        {"drop_last": True},
        {"collate_fn": default_collate, "batch_size": 7},
        {"shuffle": False, "sampler": torch.utils.data.WeightedRandomSampler(torch.arange(1.0, 51), 50)},
    ],
    ids=["workers", "persistent", "drop_last", "last batch of one", "drawn with replacement"],
)
def test_loaders(tmp_path: Path, settings: dict[str, Any]) -> None:
    plain = fit(tmp_path, None, loader_of(**settings))
    dynamics = TrainingDynamics(tmp_path / "recording")
    network = fit(tmp_path, dynamics, loader_of(**settings))
    assert same_weights(network, plain), "no random number was drawn in between"
    check(dynamics.signals(), network)


@pytest.mark.parametrize(
    "settings",
    [
        {"accumulate_grad_batches": 3},
        {"limit_train_batches": 2},
        {"reload_dataloaders_every_n_epochs": 1, "max_epochs": 3},
        {"max_steps": 6, "max_epochs": -1},
        {"precision": "bf16-mixed"},
        {"overfit_batches": 2},
    ],
    ids=str,
)
def test_trainers(tmp_path: Path, settings: dict[str, Any]) -> None:
    dynamics = TrainingDynamics(tmp_path / "recording")
    network = fit(tmp_path, dynamics, ShapedSource(count=COUNT), **settings)
    check(dynamics.signals(), network)


def test_the_batch_size_says_nothing(tmp_path: Path) -> None:
    class Frozen(Witness):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.0)

    found = []
    for size in (7, 16, 50):
        dynamics = TrainingDynamics(tmp_path / str(size), module="body.1", embeddings=True)
        torch.manual_seed(0)
        fit(tmp_path, dynamics, loader_of(batch_size=size), network=Frozen())
        found.append(dynamics.signals())
    for other in found[1:]:
        for name, value in found[0].tensors().items():
            torch.testing.assert_close(getattr(other, name), value, msg=name)


def test_the_last_layers_input_gives_norms_and_embeddings(tmp_path: Path) -> None:
    dynamics = TrainingDynamics(tmp_path / "recording", module="body.1", embeddings=True)
    network = fit(tmp_path, dynamics)
    signals = dynamics.signals()
    images, _ = digit_tensors(COUNT)
    torch.testing.assert_close(signals.embeddings, images.flatten(1))
    torch.testing.assert_close(signals.feature_norms[1], (images.flatten(1).square().sum(1) + 1).sqrt())
    check(signals, network)


def test_labels_are_the_datasets_where_a_collation_mixes_them(tmp_path: Path) -> None:
    dynamics = TrainingDynamics(tmp_path / "recording")
    network = fit(tmp_path, dynamics, loader_of(collate_fn=mixing_collate))
    check(dynamics.signals(), network)


def test_labels_may_be_given(tmp_path: Path) -> None:
    given = torch.arange(COUNT) % 10
    dynamics = TrainingDynamics(tmp_path / "recording", labels=given)
    fit(tmp_path, dynamics)
    assert torch.equal(dynamics.signals().labels, given)


def test_under_a_coreset_items_are_the_sources_and_others_are_unseen(tmp_path: Path) -> None:
    datamodule = CoresetDataModule(ShapedSource(count=200), method="k_center", ratio=0.1, features="pixels")
    dynamics = TrainingDynamics()
    network = fit(tmp_path, dynamics, datamodule)
    signals = dynamics.signals()
    check(signals, network, 200)
    seen = ~torch.isnan(signals.losses[0])
    assert torch.equal(seen.nonzero().flatten(), datamodule.coreset.indices.sort().values)
    assert Path(dynamics.path) == tmp_path / "training_dynamics"


def test_two_recordings_of_one_run(tmp_path: Path) -> None:
    first, second = TrainingDynamics(tmp_path / "a"), TrainingDynamics(tmp_path / "b", every_n_epochs=2)
    network = fit(tmp_path, first, callbacks=[second], max_epochs=3)
    check(first.signals(), network)
    assert torch.equal(second.signals().losses, first.signals().losses[[0, 2]])


def test_nothing_is_left_on_module_trainer_and_loader(tmp_path: Path) -> None:
    loader, network = loader_of(), Witness()
    trainer = quiet_trainer(tmp_path, callbacks=[TrainingDynamics(tmp_path / "recording")])
    trainer.fit(network, loader)
    assert not network._forward_hooks
    assert "process_dataloader" not in vars(trainer.strategy)
    assert "setup_data" not in vars(trainer.fit_loop)
    assert isinstance(next(iter(loader)), list)


class TestRefused:
    def test_several_loaders(self, tmp_path: Path) -> None:
        with pytest.raises(UnsupportedSourceError, match="The train loaders are a dict of several"):
            fit(tmp_path, TrainingDynamics(), {"a": loader_of(), "b": loader_of()})

    def test_iterable_datasets(self, tmp_path: Path) -> None:
        class Endless(IterableDataset):
            def __iter__(self) -> Any:
                yield digit_tensors(1)

        with pytest.raises(UnsupportedSourceError, match="Endless is an iterable dataset"):
            fit(tmp_path, TrainingDynamics(), DataLoader(Endless()))

    def test_items_without_a_class(self, tmp_path: Path) -> None:
        with pytest.raises(CoresetError, match=r"TensorDataset shows no class.*TrainingDynamics\(labels="):
            fit(tmp_path, TrainingDynamics(), DataLoader(TensorDataset(digit_tensors(8)[0])))

    def test_a_part_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"module='head' is no submodule of Witness.*\['body.1'\]"):
            fit(tmp_path, TrainingDynamics(module="head"))

    def test_a_part_that_gives_something_else(self, tmp_path: Path) -> None:
        class TwoViews(Witness):
            def training_step(self, batch: Any) -> Any:
                return self(torch.cat([batch[0], batch[0]])).sum()

        with pytest.raises(CoresetError, match=r"forward gave \[32, 10\] for a batch of 16 items"):
            fit(tmp_path, TrainingDynamics(), network=TwoViews())

    def test_a_forward_that_is_never_called(self, tmp_path: Path) -> None:
        class Direct(Witness):
            def training_step(self, batch: Any) -> Any:
                return self.body(batch[0]).sum()

        with pytest.raises(CoresetError, match="No output of forward was seen.*give module="):
            fit(tmp_path, TrainingDynamics(), network=Direct())

    def test_a_loader_that_changes_batches_itself(self, tmp_path: Path) -> None:
        class Moving(DataLoader):
            def __iter__(self) -> Any:
                for batch in super().__iter__():
                    yield list(batch)

        dataset = TensorDataset(*digit_tensors(20))
        with pytest.raises(UnsupportedSourceError, match="own iteration gave a list"):
            fit(tmp_path, TrainingDynamics(), Moving(dataset, batch_size=4))

    @pytest.mark.parametrize(
        ("settings", "message"),
        [({"embeddings": True}, "embeddings=True without module="), ({"every_n_epochs": 0}, "every_n_epochs=0 is not")],
    )
    def test_arguments(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            TrainingDynamics(**settings)

    def test_a_folder_of_another_dataset(self, tmp_path: Path) -> None:
        fit(tmp_path, TrainingDynamics(tmp_path / "recording"))
        with pytest.raises(CoresetError, match="recording of another train dataset.*give another path"):
            fit(tmp_path, TrainingDynamics(tmp_path / "recording"), loader_of(count=40))


class TestHistory:
    def test_resuming_replaces_and_goes_on(self, tmp_path: Path) -> None:
        whole = TrainingDynamics(tmp_path / "whole")
        fit(tmp_path, whole, ShapedSource(count=COUNT), max_epochs=4)

        path = tmp_path / "recording"
        keeper = ModelCheckpoint(dirpath=tmp_path, filename="{epoch}", save_top_k=-1)
        first = TrainingDynamics(path)
        fit(tmp_path, first, ShapedSource(count=COUNT), max_epochs=3, callbacks=[keeper], enable_checkpointing=True)
        assert first.signals().epochs == 3
        second = TrainingDynamics(path)
        # The third epoch was recorded before the "crash", but the checkpoint is of the second.
        network = fit(tmp_path, second, ShapedSource(count=COUNT), max_epochs=4, ckpt_path=tmp_path / "epoch=1.ckpt")
        assert len(network.logits) == 2
        signals = second.signals()
        assert signals.epochs == 4
        assert torch.equal(signals.losses[:2], whole.signals().losses[:2])
        again = Signals(**signals.tensors())
        again = again.tensors() | {
            name: again.tensors()[name][2:] for name in ("losses", "margins", "correct", "errors", "runs")
        }
        check(Signals(**again), network)

    def test_starting_again_begins_a_new_history(self, tmp_path: Path) -> None:
        fit(tmp_path, TrainingDynamics(tmp_path / "recording"), max_epochs=3)
        dynamics = TrainingDynamics(tmp_path / "recording")
        network = fit(tmp_path, dynamics, max_epochs=1)
        assert dynamics.signals().epochs == 1
        check(dynamics.signals(), network)

    def test_only_logits_that_count_are_kept(self, tmp_path: Path) -> None:
        fit(tmp_path, TrainingDynamics(tmp_path / "recording"), max_epochs=5)
        assert len(list((tmp_path / "recording").glob("latest-*"))) == 1
        assert len(list((tmp_path / "recording").glob("epoch-*"))) == 5

    def test_a_smoke_test_leaves_nothing(self, tmp_path: Path) -> None:
        fit(tmp_path, TrainingDynamics(tmp_path / "recording"), fast_dev_run=True)
        assert not (tmp_path / "recording").exists()

    def test_a_killed_run_keeps_its_whole_epochs(self, tmp_path: Path) -> None:
        script = Path(__file__).parents[1] / "scripts" / "killed_recording.py"
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, str(script), str(tmp_path)], env=environment, timeout=240, check=False)
        assert done.returncode == -signal.SIGKILL
        signals = Signals.load(tmp_path / "training_dynamics")
        assert signals.epochs == 2, "the third was killed in its middle"
        assert torch.isfinite(signals.losses).all()
        signals.save(tmp_path / "one.safetensors")
        again = Signals.load(tmp_path / "one.safetensors")
        for name, value in signals.tensors().items():
            assert torch.equal(getattr(again, name), value), name


def test_a_run_that_diverges_is_told(tmp_path: Path) -> None:
    class Broken(Witness):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits = super().forward(images)
            return torch.where(torch.arange(len(logits)).unsqueeze(1) == 0, torch.inf, logits)

    dynamics = TrainingDynamics(tmp_path / "recording")
    with pytest.warns(UserWarning, match="The logits of 4 items .* count as not seen"):
        fit(tmp_path, dynamics, network=Broken(), max_epochs=1)
    assert int(torch.isnan(dynamics.signals().losses).sum()) == 4


def test_attributes_of_the_users_dataset_are_within_reach(tmp_path: Path) -> None:
    found = []

    class Looking(LinearNet):
        def on_train_start(self) -> None:
            found.append(self.trainer.train_dataloader.dataset.targets)

    fit(tmp_path, TrainingDynamics(tmp_path / "recording"), network=Looking(), max_epochs=1)
    assert len(found[0]) == COUNT


def test_the_first_of_several_passes_counts(tmp_path: Path) -> None:
    class Twice(Witness):
        def training_step(self, batch: Any) -> torch.Tensor:
            loss = super().training_step(batch)
            return loss + 0.1 * self(batch[0].flip(3)).square().mean()

    dynamics = TrainingDynamics(tmp_path / "recording")
    check_after = fit(tmp_path, dynamics, network=Twice())
    check(dynamics.signals(), check_after)


def test_validation_goes_by_unseen(tmp_path: Path) -> None:
    dynamics = TrainingDynamics(tmp_path / "recording")
    network = fit(tmp_path, dynamics, ShapedSource(count=COUNT), val_check_interval=1)
    check(dynamics.signals(), network)


def test_the_batch_size_finder_may_try_loaders(tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import BatchSizeFinder

    dynamics = TrainingDynamics(tmp_path / "recording")
    network = Witness()
    finder = BatchSizeFinder(max_trials=2, init_val=8, steps_per_trial=1)
    quiet_trainer(tmp_path, callbacks=[finder, dynamics]).fit(network, datamodule=DigitsSource(count=COUNT))
    # Of the trials nothing is left.
    network.logits = network.logits[-1:]
    check(dynamics.signals(), network)
