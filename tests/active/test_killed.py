"""kill -9 at random moments, and two ranks: the history is that of one run that was never disturbed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
QUERIES = ("entropy", "k_center", "badge", "typiclust", "callbacks")


def run(script: str, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, f"tests/scripts/{script}", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")
def test_killed_at_thirty_random_moments(tmp_path: Path) -> None:
    told = run("killed_loop.py", str(tmp_path), "30", "0")
    lines = json.loads(told[told.index("[") : told.index("]") + 1])
    assert len(lines) >= 30
    assert len(set(lines)) > 4, "at different moments"


def requests(journal: Path) -> list[tuple[int, list[int]]]:
    events = [json.loads(line) for line in journal.read_text().splitlines()]
    return [(event["round"], event["ids"]) for event in events if event["event"] == "request"]


@pytest.mark.ddp
def test_two_ranks_decide_as_one(tmp_path: Path) -> None:
    for devices in ("1", "2"):
        run("active_loop.py", str(tmp_path / devices), devices, *QUERIES)
    for query in QUERIES:
        one, two = (tmp_path / devices / query / "journal.jsonl" for devices in ("1", "2"))
        assert len(requests(one)) == 4
        assert requests(one) == requests(two), query
        assert one.read_text().count("\n") == two.read_text().count("\n"), "one rank writes"
