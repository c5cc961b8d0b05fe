"""Checkpoints: the selection travels with them, is overruled by them, and is refused for other data."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_coreset import CoresetDataModule, CoresetError, KCenter
from tests.helpers.lightning_parts import (
    CountingExtractor,
    DigitsSource,
    LinearNet,
    digit_tensors,
    marks,
    quiet_trainer,
)


def made(**settings: Any) -> CoresetDataModule:
    source = settings.pop("source", None) or DigitsSource()
    return CoresetDataModule(source, **({"ratio": 0.1, "method": "k_center", "features": "pixels"} | settings))


def saved(root: Path, datamodule: CoresetDataModule) -> Path:
    """A checkpoint after one epoch."""
    keeper = ModelCheckpoint(dirpath=root / "checkpoints", filename="first")
    quiet_trainer(root, callbacks=[keeper], enable_checkpointing=True).fit(LinearNet(), datamodule=datamodule)
    return root / "checkpoints" / "first.ckpt"


def resumed(root: Path, datamodule: CoresetDataModule, path: Path) -> LinearNet:
    network = LinearNet()
    quiet_trainer(root, max_epochs=2).fit(network, datamodule=datamodule, ckpt_path=path)
    return network


def test_a_checkpoint_holds_tensors_and_primitives_only(tmp_path: Path) -> None:
    datamodule = made(selector=KCenter(), method=None, features=CountingExtractor())
    content = torch.load(saved(tmp_path, datamodule), weights_only=True)
    assert torch.equal(content["CoresetDataModule"]["indices"], datamodule.coreset.indices)


def test_resuming_restores_the_indices_without_selecting_again(tmp_path: Path) -> None:
    first = made(features=CountingExtractor())
    path = saved(tmp_path, first)
    extractor = CountingExtractor()
    second = made(features=extractor)
    network = resumed(tmp_path, second, path)
    assert extractor.forwards == 0, "the cache is warm"
    assert torch.equal(second.coreset.indices, first.coreset.indices)
    assert len(network.seen) == 1, "one epoch was left"


def test_a_checkpoint_is_read_with_weights_only(tmp_path: Path) -> None:
    first = made(selector=KCenter(), method=None, features=CountingExtractor())
    path = saved(tmp_path, first)
    second = made(selector=KCenter(), method=None, features=CountingExtractor())
    quiet_trainer(tmp_path, max_epochs=2).fit(LinearNet(), datamodule=second, ckpt_path=path, weights_only=True)
    assert torch.equal(second.coreset.indices, first.coreset.indices)


def test_without_a_cache_the_checkpoint_still_decides(tmp_path: Path) -> None:
    first = made(cache_dir=None)
    path = saved(tmp_path, first)
    second = made(cache_dir=None)
    resumed(tmp_path / "elsewhere", second, path)
    assert torch.equal(second.coreset.indices, first.coreset.indices)


@pytest.mark.parametrize("change", [{"ratio": 0.2}, {"seed": 4, "method": "random"}, {"method": "herding"}])
def test_a_differing_run_is_overruled_with_a_warning(tmp_path: Path, change: dict[str, Any]) -> None:
    first = made()
    path = saved(tmp_path, first)
    second = made(**change)
    with pytest.warns(UserWarning, match="checkpoint holds another selection than this run made"):
        network = resumed(tmp_path, second, path)
    assert torch.equal(second.coreset.indices, first.coreset.indices)
    images, _ = digit_tensors()
    trained_on = marks(images[first.coreset.indices]).tolist()
    assert sorted(network.seen[0]) == pytest.approx(sorted(trained_on)), "the loader serves the checkpoint's items"


def test_another_dataset_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, made())
    with pytest.raises(CoresetError, match="selected from another train dataset.*resume with the dataset"):
        resumed(tmp_path, made(source=DigitsSource(count=500)), path)


def test_the_extractor_may_change(tmp_path: Path) -> None:
    first = made()
    path = saved(tmp_path, first)
    second = made(features=torch.rand(600, 3, generator=torch.Generator().manual_seed(1)))
    with pytest.warns(UserWarning, match="checkpoint holds another selection"):
        resumed(tmp_path, second, path)
    assert torch.equal(second.coreset.indices, first.coreset.indices)


def test_the_sources_state_is_nested(tmp_path: Path) -> None:
    source = DigitsSource()
    source.epoch_note = 17
    path = saved(tmp_path, made(source=source))
    second = made()
    resumed(tmp_path, second, path)
    assert second.source.epoch_note == 17


def test_state_may_be_loaded_before_setup() -> None:
    first = made(method="random", seed=3)
    first.setup("fit")
    second = made(method="random", seed=8)
    second.load_state_dict(first.state_dict())
    second.setup("fit")
    assert torch.equal(second.coreset.indices, first.coreset.indices)


def test_loading_twice_changes_nothing() -> None:
    datamodule = made(method="facility_location")
    datamodule.setup("fit")
    coreset, state = datamodule.coreset, datamodule.state_dict()
    datamodule.load_state_dict(state)
    datamodule.load_state_dict(state)
    assert datamodule.coreset is coreset


def test_a_state_from_before_any_selection_restores_the_source_only() -> None:
    datamodule = made()
    datamodule.load_state_dict({"source": {"epoch_note": 4}})
    assert (datamodule.source.epoch_note, datamodule.coreset) == (4, None)
