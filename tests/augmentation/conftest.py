"""One folder for what the network saw, and small batches: a pass over four pictures must not cost one over 32."""

from pathlib import Path

import pytest

from lightning_coreset.augmentation.masks import RandomSaliency


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RandomSaliency, "batch_size", 4)


@pytest.fixture(scope="session")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("seen")
