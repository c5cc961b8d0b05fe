"""The greedy of submodlib (Kaushal et al. 2022) reaches the same objective."""

from typing import Any

import numpy as np
import pytest

from lightning_coreset import select
from lightning_coreset.ops import facility_location, graph_cut, graph_cut_bins
from lightning_coreset.ops.neighbors import knn_radius
from lightning_coreset.selectors.subzerocore import density_weights
from tests.helpers import references
from tests.helpers.examples import clouds, normal_rows

submodlib = pytest.importorskip("submodlib", reason="submodlib-py is not installed (Linux, Python below 3.13)")

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore:SubZeroCore looks at")]

SEEDS = range(20)


def sizes_of(seed: int) -> tuple[int, int, int]:
    """Items, columns and picks of a case: from 60 to 500 items, from 2 to a fifth of them picked."""
    generator = np.random.default_rng(seed)
    size = int(generator.integers(60, 501))
    return size, int(generator.integers(3, 40)), int(generator.integers(2, size // 5))


def submodlib_facility_location(kernel: Any, count: int, optimizer: str) -> list[int]:
    """Greedy on a kernel of rows that are represented and columns that represent; negative entries are cut."""
    function = submodlib.FacilityLocationFunction(
        n=len(kernel), mode="dense", separate_rep=False, sijs=np.maximum(kernel, 0)
    )
    return [pick for pick, _ in function.maximize(budget=count, optimizer=optimizer, show_progress=False)]


@pytest.mark.parametrize("optimizer", ["NaiveGreedy", "LazyGreedy"])
@pytest.mark.parametrize("seed", SEEDS)
def test_facility_location(seed: int, optimizer: str) -> None:
    size, width, count = sizes_of(seed)
    rows = normal_rows(size, width, seed)
    similarity = references.cosine(rows.numpy())
    theirs = submodlib_facility_location(similarity, count, optimizer)
    ours = facility_location(rows, count).indices.tolist()
    assert references.facility_location_value(similarity, ours) == pytest.approx(
        references.facility_location_value(similarity, theirs), rel=1e-5
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_subzerocore(seed: int) -> None:
    size, width, count = sizes_of(seed)
    rows = normal_rows(size, width, seed)
    coreset = select(rows, method="subzerocore", budget=count)
    radii = knn_radius(rows, coreset.manifest["resolved"]["neighbors"][0])
    density = density_weights(radii).double().numpy()
    similarity = references.cosine(rows.numpy())
    # K[i, j] = d_j s_ij: items are rows, candidates are columns.
    theirs = submodlib_facility_location(similarity * density, count, "NaiveGreedy")
    ours = coreset.indices.tolist()
    assert references.facility_location_value(similarity, ours, candidate_weights=density) == pytest.approx(
        references.facility_location_value(similarity, theirs, candidate_weights=density), rel=1e-5
    )


@pytest.mark.parametrize("lam", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_graph_cut(seed: int, lam: float) -> None:
    size, width, count = sizes_of(seed)
    rows, _ = clouds([size // 3, size // 3, size - 2 * (size // 3)], width=width, seed=seed)
    similarity = references.cosine(rows.numpy())
    function = submodlib.GraphCutFunction(n=size, mode="dense", lambdaVal=1 / lam, ggsijs=similarity)
    theirs = [pick for pick, _ in function.maximize(budget=count, optimizer="NaiveGreedy", show_progress=False)]
    ours = graph_cut(rows, count, lam=lam).indices.tolist()
    assert references.graph_cut_value(similarity, ours, lam=lam) == pytest.approx(
        references.graph_cut_value(similarity, theirs, lam=lam), rel=1e-5, abs=1e-3
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_graph_cut_bins(seed: int) -> None:
    """Bin by bin: submodlib's greedy on what our earlier bins left picks what our next bin holds."""
    generator = np.random.default_rng(seed)
    size, bins = int(generator.integers(60, 401)), int(generator.integers(2, 11))
    rows = normal_rows(size, 24, seed).abs()
    similarity = references.cosine(rows.numpy())
    found = graph_cut_bins(rows, bins).numpy()
    left = np.arange(size)
    for number in range(bins):
        count = int((found == number).sum())
        kernel = similarity[np.ix_(left, left)]
        if count == len(left):
            break
        function = submodlib.GraphCutFunction(n=len(left), mode="dense", lambdaVal=1.0, ggsijs=kernel)
        picks = function.maximize(budget=count, optimizer="NaiveGreedy", stopIfNegativeGain=False, show_progress=False)
        assert sorted(left[[pick for pick, _ in picks]].tolist()) == np.flatnonzero(found == number).tolist()
        left = left[found[left] != number]
    assert len(left) == count
