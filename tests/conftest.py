"""What all tests share: real digits, the folder of real data, and the reasons why a marked test is skipped."""

import importlib.util
import os
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

_NO_DATA = "LIGHTNING_CORESET_DATA does not name a folder of real data"


def pytest_configure() -> None:
    # Sums over several threads round differently; tests of thread counts set their own number.
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        reason = reason_to_skip(item)
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


def reason_to_skip(item: pytest.Item) -> str | None:
    """Why this machine cannot run a marked test; ``oracle`` takes the modules that it compares with."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        return "no CUDA device"
    if item.get_closest_marker("data") and data_folder() is None:
        return _NO_DATA
    oracles = [name for marker in item.iter_markers("oracle") for name in marker.args]
    missing = [name for name in oracles if importlib.util.find_spec(name) is None]
    return f"{', '.join(missing)} not installed: tox run -e oracles" if missing else None


def data_folder() -> Path | None:
    named = os.environ.get("LIGHTNING_CORESET_DATA")
    return Path(named) if named and Path(named).is_dir() else None


@pytest.fixture(scope="session")
def digits() -> tuple[Tensor, Tensor]:
    """The real handwritten digits of scikit-learn: features [1797, 64] and labels [1797]. Not to be changed."""
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images, dtype=torch.float32), torch.tensor(labels)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data, such as CIFAR-10; without one the test is skipped."""
    folder = data_folder()
    if folder is None:
        pytest.skip(_NO_DATA)
    return folder
