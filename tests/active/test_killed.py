"""kill -9 at random moments: the history of a run that was started again is that of one that was never disturbed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def start(root: Path, devices: int = 1, query: str = "noisy") -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "tests/scripts/active_loop.py", str(root), str(devices), query]
    # Its own group, so that a kill takes the ranks too.
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(root: Path, devices: int = 1, query: str = "noisy") -> str:
    process = start(root, devices, query)
    told, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return told


def kill_in_the_middle(root: Path, delay: float) -> int:
    """Kill a run so many seconds after it wrote its first line; gives how many it had written."""
    process = start(root)
    journal = root / "journal.jsonl"
    waited = time.monotonic()
    while not journal.exists() and process.poll() is None and time.monotonic() - waited < 120:
        time.sleep(0.002)
    time.sleep(delay)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return journal.read_bytes().count(b"\n")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, float]:
    """The journal of a run, and the seconds from its first line to its end."""
    root = tmp_path_factory.mktemp("undisturbed")
    process = start(root)
    while not (root / "journal.jsonl").exists() and process.poll() is None:
        time.sleep(0.002)
    begun = time.monotonic()
    told, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert "round 3: 30 images" in told
    return (root / "journal.jsonl").read_bytes(), time.monotonic() - begun


def same_after_kills(moments: list[float], undisturbed: tuple[bytes, float], folder: Path) -> list[int]:
    history, seconds = undisturbed
    lines = []
    for place, moment in enumerate(moments):
        root = folder / str(place)
        root.mkdir()
        lines.append(kill_in_the_middle(root, moment * seconds))
        finish(root)
        assert (root / "journal.jsonl").read_bytes() == history, f"killed at {moment:.3f} of the run"
    return lines


def test_killed_at_a_few_moments(undisturbed: tuple[bytes, float], tmp_path: Path) -> None:
    same_after_kills([0.0, 0.35, 0.7], undisturbed, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("LIGHTNING_CORESET_SLOW"), reason="LIGHTNING_CORESET_SLOW is not set")
@pytest.mark.timeout(1800)
def test_killed_at_thirty_random_moments(undisturbed: tuple[bytes, float], tmp_path: Path) -> None:
    generator = random.Random(0)
    lines = same_after_kills([generator.random() * 0.98 for _ in range(30)], undisturbed, tmp_path)
    print("killed after", sorted(lines), "lines of", len(undisturbed[0].splitlines()))
    assert len(set(lines)) > 5, "at different moments"


@pytest.mark.ddp
@pytest.mark.parametrize("query", ["entropy", "k_center", "badge"])
def test_two_ranks_decide_as_one(query: str, tmp_path: Path) -> None:
    for devices in (1, 2):
        (tmp_path / str(devices)).mkdir()
        finish(tmp_path / str(devices), devices, query)
    histories = [
        [json.loads(line) for line in (tmp_path / devices / "journal.jsonl").read_text().splitlines()]
        for devices in ("1", "2")
    ]
    one, two = (
        [(event["round"], event["ids"]) for event in found if event["event"] == "request"] for found in histories
    )
    assert len(one) == 4
    assert one == two
    assert len(histories[0]) == len(histories[1]), "one rank writes"
