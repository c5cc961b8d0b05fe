"""The kernel herding of coreax with a linear kernel picks the same items.

JAX starts threads that break forked data loaders, so it runs in a process of its own and is never imported here.
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lightning_coreset.ops import herding
from lightning_coreset.ops.rows import normalize_rows
from tests.helpers.examples import normal_rows

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.skipif(
        importlib.util.find_spec("coreax") is None, reason="coreax is not installed (tox run -e oracles-jax)"
    ),
]

SEEDS = range(20)
PICKS = 25

_SCRIPT = """
import json, sys
import numpy as np
from coreax import Data
from coreax.kernels import LinearKernel
from coreax.solvers import KernelHerding
arrays = np.load(sys.argv[1])
answers = {}
for name in arrays.files:
    solver = KernelHerding(coreset_size=int(sys.argv[2]), kernel=LinearKernel(), unique=True)
    coreset, _ = solver.reduce(Data(arrays[name]))
    answers[name] = np.asarray(coreset.unweighted_indices).tolist()
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[int]]:
    """The picks of coreax for each seed."""
    path = Path(tmp_path_factory.mktemp("coreax"), "rows.npz")
    np.savez(path, **{str(seed): normalize_rows(normal_rows(200, 12, seed)).numpy() for seed in SEEDS})
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(path), str(PICKS)], capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stderr
    answers: dict[str, list[int]] = json.loads(done.stdout.splitlines()[-1])
    return answers


@pytest.mark.parametrize("seed", SEEDS)
def test_herding(theirs: dict[str, list[int]], seed: int) -> None:
    assert herding(normal_rows(200, 12, seed), PICKS).tolist() == theirs[str(seed)]


def test_jax_is_not_imported_here() -> None:
    assert "jax" not in sys.modules
