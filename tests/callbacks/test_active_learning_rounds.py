"""ActiveLearningRounds: one fit, a pool that grows at epoch ends, and epochs that see it."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from lightning_coreset import ActiveLearningRounds, ActiveLearningWarmStart
from lightning_coreset.active import CallableOracle, ExportToLabel, LabelledPool
from tests.active.parts import pooled
from tests.helpers.lightning_parts import DigitsSource, LinearNet, quiet_trainer


class Counting(LinearNet):
    def __init__(self) -> None:
        super().__init__()
        self.validated = 0

    def on_validation_start(self) -> None:
        self.validated += 1


def fit(tmp_path: Path, datamodule: Any, *callbacks: pl.Callback, epochs: int = 4, **settings: Any) -> list[int]:
    """Items of each epoch."""
    module = Counting()
    trainer = quiet_trainer(tmp_path, max_epochs=epochs, callbacks=list(callbacks))
    trainer.fit(module, datamodule=datamodule, **settings)
    assert "setup_data" not in vars(trainer.fit_loop), "no trace is left on the trainer"
    return [len(items) for items in module.seen]


@pytest.mark.parametrize("query", ["entropy", "badge", "k_center", "random", "typiclust"])
def test_each_epoch_sees_what_the_one_before_asked_for(tmp_path: Path, query: str) -> None:
    datamodule = pooled()
    assert fit(tmp_path, datamodule, ActiveLearningRounds(query, 5)) == [12, 17, 22, 27]
    assert datamodule.pool.n_labelled == 27, "nothing is asked for that no epoch would see"
    assert datamodule.pool.round == 3


def test_every_second_epoch_and_at_most_so_many_rounds(tmp_path: Path) -> None:
    assert fit(tmp_path, pooled(), ActiveLearningRounds("random", 5, every_n_epochs=2), epochs=6) == [
        12,
        12,
        17,
        17,
        22,
        22,
    ]
    assert fit(tmp_path, pooled(), ActiveLearningRounds("random", 5, rounds=1), epochs=4) == [12, 17, 17, 17]


def test_until_nothing_is_left(tmp_path: Path) -> None:
    assert fit(tmp_path, pooled(count=20), ActiveLearningRounds("margin", 5), epochs=5) == [12, 17, 20, 20, 20]


def test_with_a_warm_start_and_workers_that_persist(tmp_path: Path) -> None:
    source = DigitsSource(count=60, num_workers=1, persistent_workers=True)
    callbacks = (ActiveLearningWarmStart("k_center", 12), ActiveLearningRounds("entropy", 5))
    assert fit(tmp_path, pooled(source=source, initial=None), *callbacks, epochs=3) == [12, 17, 22]


def test_training_is_not_disturbed_by_a_query_that_labels_nothing_new(tmp_path: Path) -> None:
    """The law: a query between two epochs changes neither weights nor draws."""

    def weights(*callbacks: pl.Callback) -> torch.Tensor:
        pl.seed_everything(0)
        module = LinearNet()
        waiting = pooled(oracle=None, initial=None, labelled=range(30))
        waiting.oracle = CallableOracle(lambda ids: {})
        quiet_trainer(tmp_path, max_epochs=3, callbacks=list(callbacks)).fit(module, datamodule=waiting)
        return module.body[2].weight

    with torch.random.fork_rng():
        assert torch.equal(weights(), weights(ActiveLearningRounds("badge", 3)))


def test_an_epoch_that_is_trained_again_does_not_ask_again(tmp_path: Path) -> None:
    class Crash(Exception):
        pass

    class Saving(pl.Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                trainer.save_checkpoint(tmp_path / "run.ckpt")
            if trainer.current_epoch == 2:
                raise Crash

    journal = tmp_path / "journal.jsonl"
    with pytest.raises(Crash):
        fit(tmp_path, pooled(journal), ActiveLearningRounds("random", 5), Saving())
    assert LabelledPool.opened(journal).n_labelled == 22
    settings = {"ckpt_path": tmp_path / "run.ckpt", "weights_only": True}
    fit(tmp_path, pooled(journal), ActiveLearningRounds("random", 5), **settings)
    found = LabelledPool.opened(journal)
    assert [event["about"]["epoch"] for event in found.history if "epoch" in event.get("about", {})] == [1, 2, 3]
    assert found.n_labelled == 27


def test_labels_that_people_give_meanwhile_enter_at_the_next_epoch(tmp_path: Path) -> None:
    class Person(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            pool = LabelledPool.opened(tmp_path / "files" / "journal.jsonl")
            if trainer.current_epoch == 1 and batch_idx == 0:
                pool.label(pool.pending[:3], targets=[1, 2, 3])

    datamodule = pooled(
        tmp_path / "files" / "journal.jsonl",
        initial=None,
        labelled=range(12),
        oracle=ExportToLabel(tmp_path / "files", formats=("csv",)),
    )
    counts = fit(tmp_path, datamodule, ActiveLearningRounds("random", 5, rounds=1), Person())
    assert counts == [12, 12, 15, 15]
    assert datamodule.pool.n_pending == 2


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"query": "entrop"}, ValueError, "did you mean 'entropy'"),
        ({"budget": 0}, ValueError, "budget=0 is not accepted"),
        ({"every_n_epochs": 0}, ValueError, "every_n_epochs=0 is not accepted"),
        ({"rounds": -1}, ValueError, "rounds=-1 is not accepted"),
        ({"oracle": 1}, TypeError, "oracle is a int"),
    ],
)
def test_bad_input(settings: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        ActiveLearningRounds(**settings)


def test_other_surroundings(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="ActiveLearningRounds found a DigitsSource"):
        fit(tmp_path, DigitsSource(), ActiveLearningRounds())
    with pytest.raises(ValueError, match="Nobody labels"):
        fit(tmp_path, pooled(initial=None, oracle=None, labelled=[1]), ActiveLearningRounds())
