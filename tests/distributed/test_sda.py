"""Two real processes make the SDA images of one, and choose what one chooses."""

from pathlib import Path

import pytest
import torch

from tests.augmentation import work
from tests.helpers.processes import ProcessPool


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work.RandomSaliency, "batch_size", 4)


def test_two_ranks_see_the_same_pixels(processes: ProcessPool) -> None:
    alone = work.pixels()
    for pixels in processes.run(work.pixels):
        assert all(torch.equal(one, other) for one, other in zip(pixels, alone, strict=True))


@pytest.mark.parametrize("cached", [False, True])
def test_a_proxy_of_two_ranks_chooses_what_one_chooses(processes: ProcessPool, cached: bool, tmp_path: Path) -> None:
    alone = work.selected("proxy", 1, None)
    for folder in [str(tmp_path)] * 2 if cached else [None]:
        for found in processes.run(work.selected, "proxy", 1, folder):
            assert found["indices"] == alone["indices"]
            assert found["details"] == alone["details"]
            assert found["manifest"]["resolved"] == alone["manifest"]["resolved"]
