"""Two real processes under Lightning: the answer of one, on every rank, and no rank left waiting."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lightning_coreset import Coreset, list_selectors
from tests.helpers.examples import RECORDED

pytestmark = pytest.mark.ddp

SCRIPTS = Path(__file__).parent / "scripts"
# What a recording says is the same on every rank; the selections from one are in tests/distributed. dq_v2 makes images,
# which takes longer: tests/augmentation has two ranks of its own. Digits show no objects (there are two ranks in
# tests/test_detection_datamodule.py for these), and no texts speak of them.
ELSEWHERE = (*RECORDED, "dq_v2", "csod", "ofds", "class_balance", "text_retrieval")
METHODS = [name for name in list_selectors() if "example" not in name and name not in ELSEWHERE]


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPTS / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, check=False)


def chosen(root: Path, method: str) -> Coreset:
    return Coreset.load(root / method / "coresets" / "coreset.json")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process selects."""
    root = tmp_path_factory.mktemp("one_rank")
    done = run("ddp_fit.py", "none", "1", str(root), *METHODS)
    assert done.returncode == 0, done.stderr
    return root


def test_two_ranks_give_the_answer_of_one(alone: Path, tmp_path: Path) -> None:
    done = run("ddp_fit.py", "ddp", "2", str(tmp_path), *METHODS)
    assert done.returncode == 0, done.stderr
    for method in METHODS:
        one, two = chosen(alone, method), chosen(tmp_path, method)
        assert torch.equal(one.indices, two.indices), method
        assert torch.equal(one.weights, two.weights), method
        # 60 items, dealt out to two ranks in batches of 16.
        assert f"{method}: 2 batches" in done.stdout


def test_spawned_ranks_leave_the_selection_on_disk(alone: Path, tmp_path: Path) -> None:
    # Two, because each starts and imports everything anew; the laws of ranks hold for all in tests/distributed.
    done = run("ddp_fit.py", "ddp_spawn", "2", str(tmp_path), "subzerocore", "k_center")
    assert done.returncode == 0, done.stderr
    for method in ("subzerocore", "k_center"):
        assert torch.equal(chosen(alone, method).indices, chosen(tmp_path, method).indices)


def test_embeddings_are_shared_out_and_not_made_twice(tmp_path: Path) -> None:
    done = run("ddp_fit.py", "ddp", "2", str(tmp_path), "subzerocore")
    assert done.returncode == 0, done.stderr
    shards = list((tmp_path / "subzerocore" / "coresets" / "embeddings").glob("*/*.safetensors"))
    assert len(shards) == 2, "one shard of each rank"


def test_a_rank_that_fails_takes_the_others_with_it(tmp_path: Path) -> None:
    started = time.monotonic()
    done = run("ddp_failure.py", str(tmp_path))
    assert done.returncode != 0
    assert "Rank 1 failed at embedding and all ranks stop: OSError: broken image file" in done.stderr
    assert time.monotonic() - started < 120, "nobody waited for the collective timeout"


def test_two_ranks_choose_and_train_on_the_same_new_images(tmp_path: Path) -> None:
    trained_on = []
    for devices in ("1", "2"):
        done = run("ddp_dq_v2.py", devices, str(tmp_path / devices))
        assert done.returncode == 0, done.stderr
        shown = [json.loads(path.read_text()) for path in (tmp_path / devices).glob("rank_*.json")]
        assert len(shown) == int(devices)
        trained_on.append(sorted(value for rank in shown for value in rank))
    one, two = (Coreset.load(tmp_path / devices / "coresets" / "coreset.json") for devices in ("1", "2"))
    assert torch.equal(one.indices, two.indices)
    assert one.manifest["resolved"] == two.manifest["resolved"]
    assert trained_on[0] == trained_on[1], "pixel by pixel, dealt out over the ranks"
