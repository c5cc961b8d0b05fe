"""What Lightning does, as checked, and what is made of it: a fact that changes turns one of these tests red."""

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader, Subset, TensorDataset

from lightning_coreset import CoresetError
from lightning_coreset.active import ActiveLearningDataModule, DatasetOracle, LabelledPool
from tests.active.parts import looped, opened, pooled
from tests.helpers.lightning_parts import DigitsSource, LinearNet, digit_tensors, quiet_trainer


class Batches(pl.Callback):
    """Counts batches and items of each epoch."""

    def __init__(self) -> None:
        self.items: list[int] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.items.append(0)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.items[-1] += len(batch[0])


class Labelling(pl.Callback):
    """Labels four more items at a hook, past the guard where it is told to."""

    def __init__(self, hook: str, guarded: bool = True) -> None:
        self.guarded = guarded
        setattr(self, hook, self._label)

    def _label(self, trainer: Any, pl_module: Any) -> None:
        datamodule = trainer.datamodule
        if self.guarded:
            datamodule.pool.label(datamodule.pool.unlabelled[:4])
        else:
            with datamodule.allowed():
                datamodule.pool.label(datamodule.pool.unlabelled[:4])


def test_1_a_second_fit_on_one_trainer_trains_nothing_and_the_loop_refuses_it(tmp_path: Path) -> None:
    counted = Batches()
    trainer = quiet_trainer(tmp_path, callbacks=[counted])
    for _ in range(2):
        trainer.fit(LinearNet(), datamodule=DigitsSource(count=40))
    assert counted.items == [40]
    fresh = quiet_trainer(tmp_path)
    loop = looped(tmp_path, pooled(), trainer_factory=lambda: fresh)
    with pytest.raises(CoresetError, match="trainer that was used before, whose second fit would train nothing"):
        loop.run()


def test_2_with_more_epochs_it_trains_on_with_the_same_weights_and_new_labels(tmp_path: Path) -> None:
    counted, module, datamodule = Batches(), LinearNet(), pooled()
    trainer = quiet_trainer(tmp_path, callbacks=[counted])
    trainer.fit(module, datamodule=datamodule)
    first, optimizer = module.body[2].weight.detach().clone(), trainer.optimizers[0]
    datamodule.pool.label(datamodule.pool.unlabelled[:5])
    trainer.fit_loop.max_epochs += 1
    trainer.fit(module, datamodule=datamodule)
    assert counted.items == [12, 17]
    assert trainer.optimizers[0] is not optimizer
    assert not torch.equal(first, module.body[2].weight)


def test_3_what_is_labelled_at_an_epochs_end_is_never_seen_without_reloading_and_refused(tmp_path: Path) -> None:
    counted = Batches()
    callbacks = [counted, Labelling("on_train_epoch_end", guarded=False)]
    quiet_trainer(tmp_path, max_epochs=3, callbacks=callbacks).fit(LinearNet(), datamodule=pooled())
    assert counted.items == [12, 12, 12], "the fact"
    trainer = quiet_trainer(tmp_path, max_epochs=3, callbacks=[Labelling("on_train_epoch_end")])
    datamodule = pooled()
    with pytest.raises(CoresetError, match="Items labelled during fit\\(\\) are never seen .* ActiveLearningRounds"):
        trainer.fit(LinearNet(), datamodule=datamodule)
    assert datamodule.pool.n_labelled == 12


def test_4_with_reloading_they_enter_at_the_next_reload(tmp_path: Path) -> None:
    counted = Batches()
    callbacks = [counted, Labelling("on_train_epoch_end")]
    settings = {"max_epochs": 4, "callbacks": callbacks, "reload_dataloaders_every_n_epochs": 2}
    quiet_trainer(tmp_path, **settings).fit(LinearNet(), datamodule=pooled())
    assert counted.items == [12, 12, 20, 20]


def test_5_labelled_at_an_epochs_start_they_enter_one_epoch_later(tmp_path: Path) -> None:
    counted = Batches()
    callbacks = [counted, Labelling("on_train_epoch_start")]
    settings = {"max_epochs": 3, "callbacks": callbacks, "reload_dataloaders_every_n_epochs": 1}
    quiet_trainer(tmp_path, **settings).fit(LinearNet(), datamodule=pooled())
    assert counted.items == [12, 16, 20]


def test_6_a_dataset_grown_in_place_loses_items_and_ours_never_grow(tmp_path: Path) -> None:
    class Growing(pl.LightningDataModule):
        def __init__(self) -> None:
            super().__init__()
            self.part = Subset(TensorDataset(*digit_tensors(40)), list(range(4)))

        def train_dataloader(self) -> DataLoader:
            return DataLoader(self.part, batch_size=4)

    class Grow(pl.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            trainer.datamodule.part.indices.extend(range(4, 12))

    counted = Batches()
    quiet_trainer(tmp_path, max_epochs=2, callbacks=[counted, Grow()]).fit(LinearNet(), datamodule=Growing())
    assert counted.items == [4, 4], "12 items, and the number of batches of four"

    datamodule = opened()
    datamodule.pool.label([3, 5])
    before = datamodule.train_dataloader()
    datamodule.pool.label([4])
    assert (len(before.dataset), len(datamodule.train_dataloader().dataset)) == (2, 3)


def test_7_predicting_inside_of_fit_kills_it_and_a_query_does_not(tmp_path: Path) -> None:
    class Predicting(pl.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            trainer.predict(pl_module, dataloaders=trainer.datamodule.pool_dataloader())

    class Asking(pl.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            from lightning_coreset.active import QueryContext
            from lightning_coreset.active.queries import QUERIES

            modes = [part.training for part in pl_module.modules()]
            random_state = torch.get_rng_state()
            context = QueryContext(trainer.datamodule, pl_module, trainer, count=3, round=1)
            assert len(QUERIES["badge"](context)) == 3
            assert trainer.training
            assert pl_module.trainer is trainer
            assert modes == [part.training for part in pl_module.modules()]
            assert torch.equal(random_state, torch.get_rng_state())

    class Predictor(LinearNet):
        def predict_step(self, batch: Any) -> Any:
            return self(batch[0])

    # Lightning's own assertion about the state of the trainer, without a word.
    with pytest.raises(AssertionError):
        quiet_trainer(tmp_path, max_epochs=2, callbacks=[Predicting()]).fit(Predictor(), datamodule=pooled())
    trainer = quiet_trainer(tmp_path, max_epochs=2, callbacks=[Asking()])
    trainer.fit(LinearNet(), datamodule=pooled())
    assert trainer.current_epoch == 2


def test_8_the_state_is_tensors_and_primitives_and_resumes_with_weights_only(tmp_path: Path) -> None:
    trainer = quiet_trainer(tmp_path)
    datamodule = pooled()
    trainer.fit(LinearNet(), datamodule=datamodule)
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    state = torch.load(tmp_path / "run.ckpt", weights_only=True)["ActiveLearningDataModule"]
    assert {name: type(value) for name, value in state.items() if name != "source"} == {
        "fingerprint": str,
        "events": str,
    }
    assert json.loads(state["events"]) == datamodule.pool.history
    resumed = pooled(initial=None)
    counted = Batches()
    again = quiet_trainer(tmp_path, max_epochs=2, callbacks=[counted])
    again.fit(LinearNet(), datamodule=resumed, ckpt_path=tmp_path / "run.ckpt", weights_only=True)
    assert resumed.pool.history == datamodule.pool.history
    assert counted.items == [12]


def test_9_the_order_of_hooks_and_what_is_known_when(tmp_path: Path) -> None:
    said: list[str] = []

    class Source(DigitsSource):
        def setup(self, stage: str | None = None) -> None:
            super().setup(stage)
            said.append(f"datamodule.setup, ckpt_path {self.trainer.ckpt_path}")

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            said.append("datamodule.load_state_dict")

        def train_dataloader(self) -> DataLoader:
            said.append("train_dataloader")
            return super().train_dataloader()

    class Told(pl.Callback):
        def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
            said.append(f"callback.setup, {trainer.datamodule.pool.n_labelled} labelled")

        def state_dict(self) -> dict[str, Any]:
            return {"something": 1}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            said.append("callback.load_state_dict")

        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            said.append("on_fit_start")

    class Module(LinearNet):
        def setup(self, stage: str) -> None:
            said.append("module.setup")

        def configure_optimizers(self) -> Any:
            said.append("optimizers")
            return super().configure_optimizers()

    first = quiet_trainer(tmp_path, callbacks=[Told()])
    first.fit(Module(), datamodule=pooled(source=Source(count=120)))
    first.save_checkpoint(tmp_path / "run.ckpt")
    said.clear()
    second = quiet_trainer(tmp_path, max_epochs=2, callbacks=[Told()])
    second.fit(
        Module(), datamodule=pooled(source=Source(count=120)), ckpt_path=tmp_path / "run.ckpt", weights_only=True
    )
    assert [line for place, line in enumerate(said) if line not in said[:place]] == [
        "datamodule.setup, ckpt_path None",
        "train_dataloader",
        "callback.setup, 12 labelled",
        "module.setup",
        "datamodule.load_state_dict",
        "callback.load_state_dict",
        "optimizers",
        "on_fit_start",
    ]


def test_10_the_number_of_steps_is_asked_for_before_fit_starts_and_is_right(tmp_path: Path) -> None:
    class Scheduled(LinearNet):
        def configure_optimizers(self) -> Any:
            self.steps = self.trainer.estimated_stepping_batches
            return super().configure_optimizers()

    module = Scheduled()
    quiet_trainer(tmp_path, max_epochs=3).fit(module, datamodule=pooled(budget=20))
    assert module.steps == 6, "20 items in batches of 16, three times"


def test_11_an_empty_labelled_set_fails_in_torch_and_says_what_to_do_in_ours(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_samples"):
        DataLoader(TensorDataset(torch.zeros(0, 1)), shuffle=True)
    with pytest.raises(CoresetError, match="Nothing is labelled yet, so there is nothing to train on: give initial="):
        quiet_trainer(tmp_path).fit(LinearNet(), datamodule=pooled(initial=None))


def test_12_persistent_workers_keep_the_old_items_and_a_new_loader_has_new_ones(tmp_path: Path) -> None:
    source = DigitsSource(count=40, num_workers=1, persistent_workers=True, shuffle=False)
    datamodule = ActiveLearningDataModule(source, journal=None, oracle=DatasetOracle())
    datamodule.setup("fit")
    datamodule.pool.label([3])
    loader = datamodule.train_dataloader()
    assert sum(len(batch[0]) for batch in loader) == 1
    datamodule.pool.label([5, 6], targets=[9, 9])
    assert sum(len(batch[0]) for batch in loader) == 1, "the fact: its workers have a copy"
    labels = torch.cat([batch[1] for batch in datamodule.train_dataloader()])
    assert labels[1:].tolist() == [9, 9]


def test_the_order_of_an_epoch_follows_from_seed_and_epoch_alone() -> None:
    def orders(seed: int, draws: int) -> list[list[int]]:
        datamodule = opened(seed=seed)
        datamodule.pool.label(range(30))
        loader = datamodule.train_dataloader()
        torch.rand(draws)
        found = []
        for epoch in (0, 1):
            loader.sampler.set_epoch(epoch)
            found.append(torch.cat([batch[1] for batch in loader]).tolist())
        return found

    state = torch.get_rng_state()
    one, other = orders(0, 3), orders(0, 17)
    torch.set_rng_state(state)
    assert one == other
    assert one[0] != one[1]
    assert orders(1, 3) != one


def test_pools_of_one_source_are_their_own() -> None:
    assert LabelledPool(3).history is not LabelledPool(3).history
