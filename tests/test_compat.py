"""What of Lightning is private or depends on its version, and what the wrapper needs to know of a trainer."""

import io
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_coreset import compat
from tests.helpers.lightning_parts import DigitsSource, LinearNet, quiet_trainer


class TestForwardedHooks:
    @pytest.mark.parametrize("hook", compat.FORWARDED_HOOKS)
    def test_a_hook_is_overridden_on_the_wrapper_exactly_where_it_is_on_the_source(self, hook: str) -> None:
        plain = pl.LightningDataModule()
        own: Any = type("Own", (pl.LightningDataModule,), {hook: lambda self, *given: "the source's"})()
        for source, overrides in ((plain, False), (own, True)):
            wrapper = pl.LightningDataModule()
            compat.forward_hooks(source, wrapper)
            assert is_overridden(hook, wrapper, parent=pl.LightningDataModule) is overrides
            assert not overrides or getattr(wrapper, hook)() == "the source's"

    def test_lightning_has_no_loader_or_hook_that_we_do_not_know(self) -> None:
        """A new one of theirs must be forwarded too, or said to be ours."""
        ours = {"setup", "teardown", "state_dict", "load_state_dict", "train_dataloader"}
        hooks = {
            name
            for base in (pl.core.hooks.DataHooks, pl.core.hooks.CheckpointHooks, pl.LightningDataModule)
            for name in vars(base)
            if not name.startswith("_") and (name.startswith(("on_", "transfer_")) or name.endswith("_dataloader"))
        }
        # Checkpoint hooks are only called on modules and callbacks.
        assert hooks - ours - {"on_save_checkpoint", "on_load_checkpoint"} <= {*compat.FORWARDED_HOOKS, "prepare_data"}

    def test_flags_are_those_of_the_source(self) -> None:
        source, wrapper = DigitsSource(), pl.LightningDataModule()
        source.prepare_data_per_node = False
        source.allow_zero_length_dataloader_with_multiple_devices = True
        compat.forward_hooks(source, wrapper)
        assert (wrapper.prepare_data_per_node, wrapper.allow_zero_length_dataloader_with_multiple_devices) == (
            False,
            True,
        )


class TestTrainer:
    def test_a_datamodule_without_trainer_has_none(self) -> None:
        assert compat.trainer_of(DigitsSource()) is None

    def test_one_device_is_one_rank(self, tmp_path: Path) -> None:
        assert compat.data_parallel_ranks(None) == (1, 0)
        assert compat.data_parallel_ranks(quiet_trainer(tmp_path)) == (1, 0)

    def test_two_devices_are_two_ranks(self, tmp_path: Path) -> None:
        trainer = quiet_trainer(tmp_path, strategy="ddp_spawn", devices=2)
        assert compat.data_parallel_ranks(trainer) == (2, 0)

    @pytest.mark.parametrize("dealt", [True, False])
    def test_who_deals_out_samplers(self, tmp_path: Path, dealt: bool) -> None:
        assert compat.deals_out_samplers(None)
        assert compat.deals_out_samplers(quiet_trainer(tmp_path, use_distributed_sampler=dealt)) is dealt

    @pytest.mark.parametrize(
        ("settings", "batches"),
        [
            ({}, None),
            ({"limit_train_batches": 3}, None),
            ({"max_steps": 2}, None),
            ({"fast_dev_run": True}, 1),
            ({"fast_dev_run": 4}, 4),
            ({"overfit_batches": 3}, 3),
            ({"overfit_batches": 0.25}, 5),
            ({"overfit_batches": 0.001}, 1),
            ({"overfit_batches": 1.0}, 20),
        ],
    )
    def test_smoke_tests_and_nothing_else_cap_the_pool(
        self, tmp_path: Path, settings: dict[str, Any], batches: int | None
    ) -> None:
        assert compat.smoke_test_batches(quiet_trainer(tmp_path, **settings), 20) == batches
        assert compat.smoke_test_batches(None, 20) is None


class TestProgress:
    def shown(self, trainer: Any, rank: int, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setattr(compat.tqdm, "monitor_interval", 0)
        with redirect_stderr(io.StringIO()) as told, compat.progress_of(trainer, rank)(3, "Embedding") as bar:
            # As if a second had passed.
            if hasattr(bar, "delay"):
                bar.delay, bar.mininterval = 0, 0
            bar.update(2)
        return told.getvalue()

    def test_the_first_rank_shows_a_bar(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert "Embedding" in self.shown(None, 0, monkeypatch)
        assert "Embedding" in self.shown(quiet_trainer(tmp_path, enable_progress_bar=True), 0, monkeypatch)

    def test_others_do_not_nor_does_a_trainer_without_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert self.shown(None, 1, monkeypatch) == ""
        assert self.shown(quiet_trainer(tmp_path), 0, monkeypatch) == ""

    def test_a_second_must_pass(self) -> None:
        with redirect_stderr(io.StringIO()) as told, compat.progress_of(None, 0)(3, "Selecting") as bar:
            bar.update(3)
        assert told.getvalue() == ""


def test_the_before_hook_is_called_by_loops_and_the_others_by_the_strategy(tmp_path: Path) -> None:
    """The feature pass relies on this division of work."""

    class Noting(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.called: list[str] = []

        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            self.called.append("before")
            return batch

        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            self.called.append("after")
            return batch

    module, trainer = Noting(), quiet_trainer(tmp_path)
    trainer.strategy._lightning_module = module
    trainer.strategy.batch_to_device(torch.zeros(2), torch.device("cpu"), 0)
    assert module.called == ["after"]


def test_whether_a_fit_will_ask_for_its_train_loader_again(tmp_path: Path) -> None:
    class Asking(pl.Callback):
        def __init__(self) -> None:
            self.said: dict[str, bool] = {}

        def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
            self.said["setup"] = compat.keeps_train_loader(trainer)

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            self.said["epoch end"] = compat.keeps_train_loader(trainer)

    for every, kept in ((0, True), (1, False)):
        asking = Asking()
        trainer = quiet_trainer(tmp_path, callbacks=[asking], reload_dataloaders_every_n_epochs=every)
        trainer.fit(LinearNet(), datamodule=DigitsSource(count=40))
        assert asking.said == {"setup": False, "epoch end": kept}
        assert not compat.keeps_train_loader(trainer), "after fit"
    assert not compat.keeps_train_loader(None)


@pytest.mark.parametrize(("strategy", "gone"), [("auto", False), ("ddp", False), ("ddp_spawn", True)])
def test_whose_objects_are_gone_after_fit(tmp_path: Path, strategy: str, gone: bool) -> None:
    assert compat.leaves_nothing_behind(quiet_trainer(tmp_path, strategy=strategy)) is gone
