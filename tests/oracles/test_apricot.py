"""The graph cut of apricot (Schreiber et al. 2020) picks the same items."""

import numpy as np
import pytest

from lightning_coreset.ops import facility_location, graph_cut
from tests.helpers import references
from tests.helpers.examples import normal_rows

apricot = pytest.importorskip("apricot", reason="apricot-select is not installed")

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("lam", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(20))
def test_graph_cut(seed: int, lam: float) -> None:
    # apricot refuses negative similarities, which rows of positive entries do not have.
    rows = normal_rows(200, 12, seed).abs()
    similarity = references.cosine(rows.numpy())
    theirs = apricot.GraphCutSelection(30, alpha=lam, metric="precomputed", optimizer="naive").fit(similarity).ranking
    assert graph_cut(rows, 30, lam=lam).indices.tolist() == np.asarray(theirs).tolist()


@pytest.mark.parametrize("seed", range(3))
def test_facility_location(seed: int) -> None:
    rows = normal_rows(100, 12, seed).abs()
    similarity = references.cosine(rows.numpy())
    theirs = apricot.FacilityLocationSelection(15, metric="precomputed", optimizer="naive").fit(similarity).ranking
    ours = facility_location(rows, 15).indices.tolist()
    assert references.facility_location_value(similarity, ours) == pytest.approx(
        references.facility_location_value(similarity, list(theirs)), rel=1e-5
    )
