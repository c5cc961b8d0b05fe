"""A warm start by objects: a proposer looks at unlabelled images, an oracle answers until the units are spent."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_coreset import ActiveLearningDataModule
from lightning_coreset.active import ActiveLearningLoop, DatasetOracle, ExportToLabel
from tests.helpers.detection_parts import BoxCounter, QuadrantProposer, SceneSet, ScenesSource
from tests.helpers.lightning_parts import quiet_trainer

TRUE = torch.tensor([len(target["boxes"]) for target in SceneSet(40).targets])


def pooled(**arguments: Any) -> ActiveLearningDataModule:
    given: dict[str, Any] = {"initial": "ofds", "budget": 30, "budget_unit": "boxes", "proposer": QuadrantProposer()}
    return ActiveLearningDataModule(ScenesSource(40), cache_dir=None, **given | {"oracle": DatasetOracle()} | arguments)


@pytest.mark.parametrize("initial", ["ofds", "class_balance", "random", "csod"])
def test_labelling_stops_when_the_units_are_spent(initial: str) -> None:
    datamodule = pooled(initial=initial)
    datamodule.setup("fit")
    assert datamodule.pool is not None
    positions = datamodule.pool.positions(datamodule.pool.labelled)
    assert datamodule.pool.units_spent == int(TRUE[positions].sum())
    assert 30 - int(TRUE.max()) <= datamodule.pool.units_spent <= 30
    assert not datamodule.pool.pending


def test_nothing_is_known_of_images_before_they_are_labelled() -> None:
    with pytest.raises(ValueError, match=r"'ofds' is to choose by what images show, .* give proposer="):
        pooled(proposer=None).setup("fit")


def test_an_annotator_gets_a_list_that_may_end_at_any_line(tmp_path: Path) -> None:
    datamodule = pooled(oracle=ExportToLabel(tmp_path / "to_label"), class_names=[str(digit) for digit in range(10)])
    datamodule.setup("fit")
    assert datamodule.pool is not None
    assert datamodule.coreset is not None
    reserve = datamodule.coreset.manifest["reserve"]["indices"]
    request = next(event for event in datamodule.pool.history if event["event"] == "request")
    assert len(reserve) > 0
    assert datamodule.pool.positions(request["ids"]).tolist() == [*datamodule.coreset.indices.tolist(), *reserve]


def test_rounds_go_on_with_the_same_method(tmp_path: Path) -> None:
    datamodule = pooled(journal=tmp_path / "journal.jsonl")
    loop = ActiveLearningLoop(
        lambda: quiet_trainer(tmp_path), lambda: BoxCounter(), datamodule, query="ofds", rounds=3, budget=20
    )
    reports = loop.run()
    assert [report["round"] for report in reports] == [0, 1, 2]
    units = [report["units"] for report in reports]
    assert all(after - before <= 20 for before, after in pairwise(units))
    assert units == sorted(set(units))
