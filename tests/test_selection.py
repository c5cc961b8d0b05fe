"""Selecting once: what is kept on disk, what is found again, what survives a crash."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_coreset import Coreset, CoresetDataModule
from lightning_coreset.data.fingerprint import callable_key
from tests.helpers.lightning_parts import CountingExtractor, DigitsSource, LinearNet, quiet_trainer

SLOW_PASS = Path(__file__).parent / "scripts" / "slow_pass.py"


def fitted(root: Path, extractor: Any = "pixels", source: Any = None, **settings: Any) -> CoresetDataModule:
    datamodule = CoresetDataModule(
        source or DigitsSource(), **({"ratio": 0.1, "method": "k_center", "features": extractor} | settings)
    )
    quiet_trainer(root).fit(LinearNet(), datamodule=datamodule)
    return datamodule


def test_fitting_twice_selects_once(tmp_path: Path) -> None:
    extractor = CountingExtractor()
    datamodule = fitted(tmp_path, extractor, cache_dir=None)
    first, forwards = datamodule.coreset, extractor.forwards
    assert forwards > 0
    quiet_trainer(tmp_path).fit(LinearNet(), datamodule=datamodule)
    assert extractor.forwards == forwards
    assert datamodule.coreset is first


def test_fitting_twice_selects_once_with_the_network_that_is_trained(tmp_path: Path) -> None:
    network = LinearNet()
    datamodule = CoresetDataModule(DigitsSource(), method="k_center", ratio=0.1, features=network.body)
    quiet_trainer(tmp_path).fit(network, datamodule=datamodule)
    first = datamodule.coreset
    quiet_trainer(tmp_path).fit(network, datamodule=datamodule)
    assert datamodule.coreset is first
    # Another datamodule is another question: its embeddings are of the trained network.
    fitted(tmp_path, network.body)
    assert len(list((tmp_path / "coresets" / "embeddings").iterdir())) == 2


def test_validating_in_between_selects_nothing(tmp_path: Path) -> None:
    extractor = CountingExtractor()
    datamodule = fitted(tmp_path, extractor, cache_dir=None)
    first, forwards = datamodule.coreset, extractor.forwards
    quiet_trainer(tmp_path).validate(LinearNet(), datamodule=datamodule, verbose=False)
    quiet_trainer(tmp_path, max_epochs=2).fit(LinearNet(), datamodule=datamodule)
    assert (datamodule.coreset, extractor.forwards) == (first, forwards)


def test_a_smoke_test_does_not_stand_in_for_the_real_run(tmp_path: Path) -> None:
    datamodule = CoresetDataModule(DigitsSource(), method="k_center", ratio=0.1, features="pixels")
    quiet_trainer(tmp_path, fast_dev_run=1).fit(LinearNet(), datamodule=datamodule)
    assert len(datamodule.coreset) == 16
    quiet_trainer(tmp_path).fit(LinearNet(), datamodule=datamodule)
    assert len(datamodule.coreset) == 60


def test_a_second_run_finds_the_selection_on_disk(tmp_path: Path) -> None:
    first, extractor = fitted(tmp_path, CountingExtractor()), CountingExtractor()
    second = fitted(tmp_path, extractor)
    assert extractor.forwards == 0
    assert torch.equal(first.coreset.indices, second.coreset.indices)
    assert second.coreset.manifest == first.coreset.manifest


def test_another_ratio_selects_anew_from_the_same_embeddings(tmp_path: Path) -> None:
    fitted(tmp_path, CountingExtractor())
    extractor = CountingExtractor()
    assert len(fitted(tmp_path, extractor, ratio=0.2).coreset) == 120
    assert extractor.forwards == 0


@pytest.mark.parametrize("change", [{"seed": 1}, {"method": "herding"}, {"ratio": 0.11}])
def test_what_decides_the_picks_is_in_the_key(tmp_path: Path, change: dict[str, Any]) -> None:
    fitted(tmp_path)
    fitted(tmp_path, **change)
    assert len(list((tmp_path / "coresets" / "selections").glob("*.json"))) == 2


def test_other_data_selects_anew(tmp_path: Path) -> None:
    fitted(tmp_path)
    second = fitted(tmp_path, source=DigitsSource(count=599))
    assert second.coreset.manifest["pool_size"] == 599
    assert len(list((tmp_path / "coresets" / "selections").glob("*.json"))) == 2


def test_the_latest_selection_has_a_name_a_user_finds(tmp_path: Path) -> None:
    datamodule = fitted(tmp_path)
    stored = Coreset.load(tmp_path / "coresets" / "coreset.json")
    assert torch.equal(stored.indices, datamodule.coreset.indices)
    assert stored.manifest["fingerprint"] == datamodule.coreset.manifest["fingerprint"]
    assert stored.manifest["resolved"]["features"] == "pixels"


def test_a_damaged_selection_is_made_again(tmp_path: Path) -> None:
    first = fitted(tmp_path)
    (path,) = (tmp_path / "coresets" / "selections").glob("*.json")
    text = path.read_text()
    path.write_text(text.replace(str(first.coreset.indices[0].item()), "7", 1))
    with pytest.warns(UserWarning, match="is not a coreset or is damaged.*selected again"):
        second = fitted(tmp_path)
    assert torch.equal(first.coreset.indices, second.coreset.indices)


def test_a_selection_of_another_dataset_under_our_key_is_not_used(tmp_path: Path) -> None:
    first = fitted(tmp_path)
    (path,) = (tmp_path / "coresets" / "selections").glob("*.json")
    foreign = Coreset(
        first.coreset.indices.flip(0), first.coreset.weights, manifest=first.coreset.manifest | {"fingerprint": "other"}
    )
    foreign.save(path)
    with pytest.warns(UserWarning, match="belongs to another dataset"):
        assert torch.equal(fitted(tmp_path).coreset.indices, first.coreset.indices)


def test_without_a_cache_nothing_is_written(tmp_path: Path) -> None:
    fitted(tmp_path, cache_dir=None)
    assert not (tmp_path / "coresets").exists()


def test_a_cache_behind_a_url(tmp_path: Path) -> None:
    fitted(tmp_path, CountingExtractor(), cache_dir="memory://selection-test")
    extractor = CountingExtractor()
    fitted(tmp_path, extractor, cache_dir="memory://selection-test")
    assert extractor.forwards == 0
    assert not (tmp_path / "coresets").exists()


def test_in_a_notebook_a_path_is_used_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for cache_dir, written in (("auto", False), (tmp_path / "here", True)):
        datamodule = CoresetDataModule(
            DigitsSource(), ratio=0.1, method="moderate", features="pixels", cache_dir=cache_dir
        )
        datamodule.setup("fit")
        assert len(datamodule.train_dataset) == 60
        assert (tmp_path / "here").exists() == written
    assert not (tmp_path / "coresets").exists()


def test_a_place_that_cannot_be_written_costs_a_warning_and_no_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.warns(UserWarning, match="could not be written"):
        datamodule = fitted(tmp_path, cache_dir=tmp_path / "file")
    assert len(datamodule.coreset) == 60


def test_embeddings_can_come_from_a_file(tmp_path: Path) -> None:
    rows = torch.rand(600, 5, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "rows.npy", rows.numpy())
    from_file, from_tensor = fitted(tmp_path, str(tmp_path / "rows.npy")), fitted(tmp_path, rows)
    assert torch.equal(from_file.coreset.indices, from_tensor.coreset.indices)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("batch_size", [3, 64])
def test_picks_do_not_depend_on_loading(tmp_path: Path, num_workers: int, batch_size: int) -> None:
    same = fitted(tmp_path / "a", LinearNet().body[0], cache_dir=None)
    source = DigitsSource(batch_size=batch_size, num_workers=num_workers)
    other = fitted(tmp_path / "b", LinearNet().body[0], source=source, cache_dir=None)
    assert torch.equal(same.coreset.indices, other.coreset.indices)


def test_transforms_have_keys_without_addresses() -> None:
    assert callable_key(None) is None
    assert callable_key(lambda image: image + 1) == callable_key(lambda image: image + 1).replace("at 0x1", "")
    assert callable_key(lambda image: image + 1) != callable_key(lambda image: image + 2)


@pytest.mark.timeout(900)
def test_a_killed_pass_resumes_and_gives_the_same_answer(tmp_path: Path) -> None:
    def start(root: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(SLOW_PASS), str(tmp_path / root)]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(Path.cwd())}
        )

    whole = json.loads(start("whole").communicate(timeout=280)[0].splitlines()[-1])

    victim = start("killed")
    shards = tmp_path / "killed" / "coresets" / "embeddings"
    deadline = time.monotonic() + 280
    while not list(shards.glob("*/*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.02)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert list(shards.glob("*/*.safetensors")), "no shard was there when the process was killed"
    assert not (tmp_path / "killed" / "coresets" / "selections").exists()

    resumed = json.loads(start("killed").communicate(timeout=280)[0].splitlines()[-1])
    assert resumed["indices"] == whole["indices"]
    assert 0 < resumed["forwards"] < whole["forwards"]
