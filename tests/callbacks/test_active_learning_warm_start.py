"""ActiveLearningWarmStart: a script of one's own, a datamodule without ``initial=``, and the callback between them."""

import logging
from pathlib import Path
from typing import Any

import pytest

from lightning_coreset import ActiveLearningWarmStart, CoresetError
from lightning_coreset.active import DatasetOracle, ExportToLabel
from tests.active.parts import pooled
from tests.helpers.lightning_parts import DigitsSource, LinearNet, quiet_trainer


def fit(tmp_path: Path, callback: ActiveLearningWarmStart, datamodule: Any, module: Any = None) -> LinearNet:
    module = module or LinearNet()
    quiet_trainer(tmp_path, callbacks=[callback]).fit(module, datamodule=datamodule)
    return module


def test_it_chooses_what_the_datamodule_would(tmp_path: Path) -> None:
    callback, datamodule, other = ActiveLearningWarmStart("k_center", 12), pooled(initial=None), pooled()
    module = fit(tmp_path, callback, datamodule)
    other.setup("fit")
    assert callback.coreset.indices.tolist() == other.coreset.indices.tolist()
    assert datamodule.pool.history == other.pool.history
    assert len(module.seen[0]) == 12


def test_the_train_loader_may_be_asked_for_before_fit_starts(tmp_path: Path) -> None:
    class Scheduled(LinearNet):
        def configure_optimizers(self) -> Any:
            self.steps = self.trainer.estimated_stepping_batches
            return super().configure_optimizers()

    module = fit(tmp_path, ActiveLearningWarmStart("k_center", 20), pooled(initial=None), Scheduled())
    assert module.steps == 2


def test_the_second_time_it_says_that_there_is_a_round_0(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = tmp_path / "journal.jsonl"
    with caplog.at_level(logging.INFO):
        fit(tmp_path, ActiveLearningWarmStart("k_center", 12), pooled(journal, initial=None))
        assert "12 of 120 items chosen by 'k_center'" in caplog.text
        second = ActiveLearningWarmStart("random", 30)
        datamodule = pooled(journal, initial=None)
        fit(tmp_path, second, datamodule)
    assert second.coreset is None
    assert datamodule.pool.n_labelled == 12
    assert "The journal holds a round 0, and nothing is chosen anew: 12 items labelled, 0 pending" in caplog.text


def test_labels_that_come_later(tmp_path: Path) -> None:
    oracle = ExportToLabel(tmp_path / "files", formats=("csv",))
    datamodule = pooled(initial=None, oracle=None)
    with pytest.raises(CoresetError, match="12 of round 0 wait for their labels: take the answers in"):
        fit(tmp_path, ActiveLearningWarmStart("k_center", 12, oracle=oracle), datamodule)
    assert (tmp_path / "files" / "round_0" / "request.csv").exists()


def test_initial_in_both_places(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="initial= in ActiveLearningWarmStart and in ActiveLearningDataModule"):
        fit(tmp_path, ActiveLearningWarmStart("random", 12), pooled())


def test_another_datamodule(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="found a DigitsSource; an ActiveLearningDataModule is accepted: wrap yours"):
        fit(tmp_path, ActiveLearningWarmStart("random", 12), DigitsSource())
    source = DigitsSource()
    source.setup()
    with pytest.raises(TypeError, match="found no datamodule"):
        quiet_trainer(tmp_path, callbacks=[ActiveLearningWarmStart("random", 12)]).fit(
            LinearNet(), source.train_dataloader()
        )


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"initial": "rando"}, ValueError, "Unknown method 'rando'"),
        ({"initial": "grand"}, ValueError, "looks at training"),
        ({"budget": -1}, ValueError, "budget=-1 is not accepted"),
        ({"budget_unit": "bytes"}, ValueError, "budget_unit='bytes' is not accepted"),
        ({"oracle": 3}, TypeError, "oracle is a int"),
    ],
)
def test_bad_input(settings: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        ActiveLearningWarmStart(**settings)


def test_nobody_to_label(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="A warm start needs somebody to label"):
        fit(tmp_path, ActiveLearningWarmStart("random", 12), pooled(initial=None, oracle=None))
    datamodule = pooled(initial=None, oracle=None)
    fit(tmp_path, ActiveLearningWarmStart("random", 12, oracle=DatasetOracle()), datamodule)
    assert datamodule.pool.n_labelled == 12
