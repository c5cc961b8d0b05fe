"""Detection inside the data module: budgets in boxes, proposers, any detection source, ranks and flags."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_coreset import Coreset, CoresetDataModule
from lightning_coreset.detection import TorchvisionProposer
from tests.helpers.detection_parts import BoxCounter, QuadrantProposer, SceneSet, ScenesSource, Unlabelled
from tests.helpers.lightning_parts import quiet_trainer

SCRIPTS = Path(__file__).parent / "scripts"


def wrapped(source: Any = None, **arguments: Any) -> CoresetDataModule:
    given = {"method": "csod", "budget": 12, "proposer": QuadrantProposer(), "cache_dir": None} | arguments
    return CoresetDataModule(ScenesSource() if source is None else source, **given)


def chosen(source: Any = None, **arguments: Any) -> Coreset:
    datamodule = wrapped(source, **arguments)
    datamodule.setup("fit")
    assert datamodule.coreset is not None
    return datamodule.coreset


class TestTraining:
    def test_images_of_several_sizes_are_chosen_and_trained_on(self, tmp_path: Path) -> None:
        network = BoxCounter()
        datamodule = wrapped(method="random", budget=40, budget_unit="boxes", cache_dir="auto", proposer=None)
        quiet_trainer(tmp_path).fit(network, datamodule=datamodule)
        coreset = datamodule.coreset
        assert coreset is not None
        true = torch.tensor([len(target["boxes"]) for target in SceneSet(60).targets])
        assert network.images == len(coreset)
        assert network.boxes == int(true[coreset.indices].sum()) <= 40
        assert coreset.manifest["units"]["spent"] == network.boxes

    def test_a_ratio_is_a_share_of_the_boxes(self) -> None:
        true = torch.tensor([len(target["boxes"]) for target in SceneSet(60).targets])
        coreset = chosen(method="random", budget=None, ratio=0.25, budget_unit="boxes", proposer=None)
        asked = int(0.25 * true.sum() + 0.5)
        assert coreset.manifest["units"]["asked"] == asked
        assert asked - true.max() <= true[coreset.indices].sum() <= asked

    def test_a_smoke_test_counts_images(self, tmp_path: Path) -> None:
        proposer = QuadrantProposer()
        datamodule = wrapped(method="random", budget=40, budget_unit="boxes", proposer=proposer)
        quiet_trainer(tmp_path, fast_dev_run=2).fit(BoxCounter(), datamodule=datamodule)
        assert datamodule.coreset is not None
        assert len(datamodule.coreset) == 8
        assert datamodule.coreset.manifest["capped"]["of"] == 60
        assert proposer.looked_at == 0, "nobody looks for objects in all images to try two batches"


class TestDuplicates:
    def test_one_candidate_of_each_group(self, tmp_path: Path) -> None:
        scenes = SceneSet(60)
        arguments: dict[str, Any] = {"method": "random", "budget": 45, "proposer": None}
        arguments |= {"cache_dir": tmp_path}
        plain, grouped = (chosen(scenes, group_duplicates=asked, **arguments) for asked in (False, True))
        assert scenes.scenes.duplicate_pairs(plain.indices) > 0
        assert scenes.scenes.duplicate_pairs(grouped.indices) == 0
        assert grouped.manifest["duplicates"]["left_out"] == 60 - len(scenes.scenes.groups.unique())
        again = chosen(scenes, group_duplicates=True, **arguments | {"budget": 30})
        assert len(again) == 30, "thumbnails are found again"


class TestObjects:
    def test_annotations_count_for_methods_that_learn_from_labelled_objects(self) -> None:
        """And the detector embeds the annotated boxes; a real one, with random weights."""
        detector = TorchvisionProposer(
            "fasterrcnn_mobilenet_v3_large_320_fpn", class_names=[str(digit) for digit in range(10)], weights=None
        )
        coreset = chosen(SceneSet(10), budget=3, proposer=detector)
        assert coreset.manifest["resolved"]["objects"] == {
            "proposer": "TorchvisionProposer",
            "encoder": "TorchvisionProposer",
            "labelled": True,
        }
        assert len(coreset) == 3

    def test_without_annotations_the_proposer_finds_them(self, tmp_path: Path) -> None:
        proposer = QuadrantProposer()
        coreset = chosen(Unlabelled(SceneSet(30)), budget=5, proposer=proposer)
        assert proposer.looked_at == 30
        assert coreset.manifest["objects"]["class_names"] == ["left", "right"]
        assert coreset.manifest["resolved"]["objects"]["labelled"] is False
        assert coreset.manifest["units"]["true"] is None

    def test_proposals_are_kept_and_found_again(self, tmp_path: Path) -> None:
        proposer = QuadrantProposer()
        for budget in (5, 6, 7):
            chosen(Unlabelled(SceneSet(20)), budget=budget, proposer=proposer, cache_dir=tmp_path)
        assert proposer.looked_at == 20

    def test_another_proposer_is_another_selection(self, tmp_path: Path) -> None:
        class Other(QuadrantProposer):
            def fingerprint(self) -> str:
                return "others"

        proposers = [QuadrantProposer(), Other()]
        for proposer in proposers:
            chosen(Unlabelled(SceneSet(20)), budget=5, proposer=proposer, cache_dir=tmp_path)
        assert [proposer.looked_at for proposer in proposers] == [20, 20]

    def test_nobody_tells_the_objects(self) -> None:
        with pytest.raises(ValueError, match=r"'csod' is to choose by what images show, and Unlabelled tells no boxes"):
            chosen(Unlabelled(SceneSet(20)), proposer=None)

    def test_a_proposer_that_cannot_embed_annotations_gives_its_own_objects(self) -> None:
        coreset = chosen(SceneSet(20), budget=5)
        assert coreset.manifest["resolved"]["objects"]["labelled"] is False
        true = torch.tensor([len(target["boxes"]) for target in SceneSet(20).targets])
        assert coreset.manifest["units"]["true"] == int(true[coreset.indices].sum()), (
            "but annotations are what it costs"
        )

    def test_nothing_embeds_annotations(self) -> None:
        with pytest.raises(ValueError, match=r"'csod' compares objects by their embeddings and annotations have none"):
            chosen(proposer="ground_truth")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"budget_unit": "pixels"}, "budget_unit='pixels' is not accepted"),
            ({"proposer": "torchvison/fasterrcnn"}, "proposer='torchvison/fasterrcnn' is not accepted"),
            ({"proposer": 3}, "proposer is a int"),
        ],
    )
    def test_what_is_refused_at_once(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises((ValueError, TypeError), match=message):
            wrapped(**arguments)


@pytest.mark.ddp
def test_two_ranks_choose_what_one_chooses(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    for devices in ("1", "2"):
        command = [sys.executable, str(SCRIPTS / "ddp_detection.py"), devices, str(tmp_path / devices)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, check=False)
        assert done.returncode == 0, done.stderr
    told = [json.loads((tmp_path / devices / "rank_0.json").read_text()) for devices in ("1", "2")]
    other = json.loads((tmp_path / "2" / "rank_1.json").read_text())
    assert told[0]["chosen"] == told[1]["chosen"] == other["chosen"]
    assert told[0]["looked_at"] == 40
    assert told[1]["looked_at"] + other["looked_at"] == 40


def test_flags_from_a_shell(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import lightning_coreset\n"
        "from lightning.pytorch.cli import LightningCLI\n"
        "from tests.helpers.detection_parts import BoxCounter, ScenesSource\n"
        "if __name__ == '__main__':\n    LightningCLI(BoxCounter)\n"
    )
    flags = (
        "fit --data=CoresetDataModule --data.source=ScenesSource --data.source.count=30 --data.method=csod "
        "--data.budget=20 --data.budget_unit=boxes --data.proposer=tests.helpers.detection_parts.QuadrantProposer "
        "--trainer.max_epochs=1 "
        f"--trainer.accelerator=cpu --trainer.logger=false --trainer.default_root_dir={tmp_path}"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), *flags.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    coreset = Coreset.load(tmp_path / "coresets" / "coreset.json")
    assert coreset.manifest["units"]["unit"] == "boxes"
    assert coreset.manifest["units"]["spent"] <= 20
