"""Other people's farthest-first walks go the same way from the same start."""

import numpy as np
import pytest

from lightning_coreset.ops import k_center
from lightning_coreset.ops.rows import normalize_rows
from tests.helpers.examples import normal_rows

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("seed", range(20))
def test_scikit_activeml(seed: int) -> None:
    pool = pytest.importorskip("skactiveml.pool", reason="scikit-activeml is not installed")
    rows = normal_rows(150, 12, seed)
    start = 7 * seed
    labels = np.full(150, np.nan)
    labels[start] = 0
    theirs = pool.CoreSet(random_state=0).query(normalize_rows(rows).numpy(), labels, batch_size=20)
    ours = k_center(rows, 21, start=start).indices.tolist()
    assert ours == [start, *np.asarray(theirs).tolist()]


@pytest.mark.parametrize("seed", range(20))
def test_fpsample(seed: int) -> None:
    fpsample = pytest.importorskip("fpsample", reason="fpsample is not installed")
    rows = normal_rows(300, 12, seed)
    start = 7 * seed
    theirs = fpsample.fps_sampling(normalize_rows(rows).numpy(), 40, start_idx=start)
    assert k_center(rows, 40, start=start).indices.tolist() == np.asarray(theirs).tolist()
