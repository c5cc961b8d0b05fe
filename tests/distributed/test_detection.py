"""Proposals of two real processes: each looks at its part of the images, and both hold one table."""

from pathlib import Path

import pytest

from lightning_coreset.detection import propose_objects
from tests.detection.examples import Scenes, same
from tests.detection.work import Counting, proposed
from tests.helpers.processes import ProcessPool

pytestmark = pytest.mark.ddp


def test_two_ranks_find_what_one_finds(processes: ProcessPool, tmp_path: Path) -> None:
    whole = propose_objects(Scenes(), Counting())
    for cache, looked_at in ((None, 6), (str(tmp_path), 6), (str(tmp_path), 0)):
        for objects, images in processes.run(proposed, cache):
            same(objects, whole)
            assert images == looked_at


def test_both_stop_when_one_fails(processes: ProcessPool) -> None:
    answers = processes.run(proposed, None, 1, keep_errors=True)
    assert answers[0].startswith("CoresetError: Rank 1 failed at finding objects and all ranks stop")
    assert answers[1].startswith("CoresetError: Counting proposed class")
