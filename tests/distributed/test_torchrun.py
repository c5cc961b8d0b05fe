"""Two ranks that torchrun started, no Lightning: a pool is selected from whose rows each rank embeds in part."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from lightning_coreset import Pool, SelectionContext
from lightning_coreset.distributed import index_range
from lightning_coreset.ops.sharded import SHARD_ROWS
from lightning_coreset.registry import build_selector
from tests.distributed.work import comparable

pytestmark = [pytest.mark.ddp, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
BUDGET = 120
# Parts of the methods whose ranks keep their own rows begin at multiples of whole blocks.
MULTIPLES = {"facility_location": 1, "graph_cut": SHARD_ROWS, "herding": SHARD_ROWS, "k_center": SHARD_ROWS}


def test_two_ranks_give_the_answer_of_one(tmp_path: Path) -> None:
    # Real digits, some of them twice: equal rows on both ranks must be ties.
    rows = np.asarray(load_digits().data, dtype=np.float32)
    rows[1_000:1_100] = rows[100:200]
    np.save(tmp_path / "rows.npy", rows)
    script = ROOT / "tests" / "scripts" / "torchrun_select.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    command += [str(tmp_path / "rows.npy"), str(tmp_path), str(BUDGET), *MULTIPLES]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, check=False)
    assert done.returncode == 0, done.stderr

    ranks = [json.loads((tmp_path / f"rank_{rank}.json").read_text()) for rank in range(2)]
    for method, multiple in MULTIPLES.items():
        alone = build_selector(method, {"per_class": False}).select(
            Pool(size=len(rows)),
            BUDGET,
            seed=3,
            initial=[1, 1_500],
            forbidden=[2, 900],
            context=SelectionContext(embed=lambda positions: torch.from_numpy(rows)[positions]),
        )
        for rank, told in enumerate(ranks):
            assert comparable(told[method]["coreset"]) == comparable(alone.to_plain()), (method, rank)
            part = index_range(len(rows), rank, 2, multiple)
            assert len(part) < 0.55 * len(rows)
            assert told[method]["asked"] == list(part), (method, rank)
