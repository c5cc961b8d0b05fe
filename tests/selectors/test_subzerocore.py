"""SubZeroCore: K from the coverage, density weights, and the greedy that uses them."""

import math
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch

from lightning_coreset import select
from lightning_coreset.ops import coverage
from lightning_coreset.selectors.subzerocore import density_weights, neighbors_for_coverage
from tests.helpers import references
from tests.helpers.examples import clouds, normal_rows

quiet = pytest.mark.filterwarnings("ignore:SubZeroCore looks at")

PRUNED = (99.9, 99.5, 99, 95, 90, 80, 70)
CHOSEN = tuple(round(5000 * (100 - percent) / 100) for percent in PRUNED)


@pytest.mark.parametrize(
    ("solver", "expected"),
    [
        ("log", (837, 180, 91, 18, 9, 5, 3)),
        ("eq9", (836, 179, 90, 17, 8, 4, 2)),
        ("paper_float64", (84, 84, 84, 18, 9, 5, 3)),
    ],
)
def test_neighbours_of_the_paper(solver: str, expected: tuple[int, ...]) -> None:
    assert tuple(neighbors_for_coverage(5000, chosen, 0.6, solver=solver) for chosen in CHOSEN) == expected


@pytest.mark.parametrize(("size", "overflows_at"), [(500, 117), (1300, 100), (5000, 84), (50_000, 66), (1_281_167, 51)])
def test_where_the_floats_of_the_paper_overflow(size: int, overflows_at: int) -> None:
    assert neighbors_for_coverage(size, 1, 0.6, solver="paper_float64") == overflows_at


@pytest.mark.parametrize("share", ["1/10", "1/5", "3/10", "2/5", "1/2", "3/5", "7/10", "4/5", "9/10"])
def test_neighbours_in_exact_fractions(share: str) -> None:
    """Shares that are reached exactly are among them, where rounding would ask for one neighbour more."""
    wanted = Fraction(share)
    for size in range(3, 30):
        for chosen in range(1, size - 1):
            most = size - chosen - 1
            for solver, first in (("log", 1), ("eq9", 0)):
                exact = references.neighbors_for_coverage(size, chosen, wanted, first_factor=first)
                found = neighbors_for_coverage(size, chosen, float(wanted), solver=solver)
                assert max(1, min(found, most)) == max(1, min(exact, most)), (size, chosen, solver)


@pytest.mark.parametrize(("size", "chosen"), [(5000, 50), (1300, 13), (700, 3)])
@pytest.mark.parametrize("share", ["1/100", "3/5", "99/100"])
def test_neighbours_of_large_classes_in_exact_fractions(size: int, chosen: int, share: str) -> None:
    exact = references.neighbors_for_coverage(size, chosen, Fraction(share))
    assert neighbors_for_coverage(size, chosen, float(Fraction(share))) == exact


def test_density_weights_are_a_bell_around_the_mean() -> None:
    radii = torch.rand(500, generator=torch.Generator().manual_seed(0)) + 0.5
    for one_sided in (False, True):
        expected = references.density_weights(radii.numpy(), one_sided=one_sided)
        assert np.allclose(density_weights(radii, one_sided=one_sided).numpy(), expected, atol=1e-6)
    assert bool((density_weights(radii, one_sided=True)[radii < radii.mean()] == 1).all())


@pytest.mark.parametrize(
    "radii", [torch.zeros(5), torch.full((5,), 0.7), 0.7 + 1e-8 * torch.arange(5), torch.tensor([0.3])]
)
def test_radii_that_are_all_equal_weigh_one(radii: torch.Tensor) -> None:
    assert density_weights(radii).tolist() == [1.0] * len(radii)


@quiet
@pytest.mark.parametrize("similarity", ["cosine", "shifted"])
@pytest.mark.parametrize("radius", ["normalized", "raw"])
@pytest.mark.parametrize("one_sided", [False, True])
@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_picks_of_the_formula(similarity: str, radius: str, one_sided: bool, power: float) -> None:
    features = normal_rows(120, 8) * (torch.arange(120) % 7 + 1)[:, None]
    rows = features.numpy()
    initial, forbidden = [5, 6], [90, 91]
    neighbors = references.neighbors_for_coverage(120, 15 + 2, Fraction(3, 5))
    radii = references.knn_radius(rows if radius == "raw" else references.unit_rows(rows), neighbors)
    expected, gains = references.facility_location(
        references.cosine(rows, similarity),
        15,
        candidate_weights=references.density_weights(radii, one_sided=one_sided) ** power,
        initial=initial,
        forbidden=forbidden,
    )
    found = select(
        features, method="subzerocore", budget=15, similarity=similarity, radius=radius, one_sided=one_sided,
        density_power=power, initial=initial, forbidden=forbidden,
    )  # fmt: skip
    assert found.indices.tolist() == expected
    assert found.gains is not None
    assert np.allclose(found.gains.numpy(), gains, atol=1e-3)
    assert found.manifest["resolved"]["neighbors"] == [neighbors]


@quiet
def test_density_power_of_zero_is_facility_location() -> None:
    features, labels = clouds([60, 40])
    plain = select(features, labels, method="facility_location", budget=20)
    assert torch.equal(select(features, labels, budget=20, density_power=0).indices, plain.indices)


@quiet
@pytest.mark.parametrize("similarity", ["cosine", "shifted"])
@pytest.mark.parametrize("sizes", [[63, 64, 65], [255, 256, 257], [300, 520, 5]])
def test_dense_and_streamed_agree_bit_for_bit(sizes: list[int], similarity: str) -> None:
    features, labels = clouds(sizes, width=33)
    dense, streamed = (
        select(features, labels, budget=70, mode=mode, similarity=similarity) for mode in ("dense", "streamed")
    )
    assert torch.equal(dense.indices, streamed.indices)
    assert dense.gains is not None
    assert streamed.gains is not None
    assert torch.equal(dense.gains, streamed.gains)
    assert torch.equal(dense.weights, streamed.weights)
    assert (dense.manifest["resolved"]["mode"], streamed.manifest["resolved"]["mode"]) == ("dense", "streamed")
    assert dense.manifest["resolved"] | {"mode": ""} == streamed.manifest["resolved"] | {"mode": ""}


@quiet
def test_the_manifest_holds_the_neighbours_of_each_class() -> None:
    features, labels = clouds([400, 1, 200])
    labels[labels == 2] = 4
    coreset = select(features, labels, ratio=0.1)
    chosen = coreset.class_counts
    assert chosen is not None
    expected = [references.neighbors_for_coverage(n, int(chosen[c]), Fraction(3, 5)) for c, n in ((0, 400), (4, 200))]
    assert coreset.manifest["resolved"]["neighbors"] == [expected[0], None, None, None, expected[1]]
    assert coreset.manifest["arguments"]["k_solver"] == "log"
    assert coreset.manifest["arguments"]["coverage"] == 0.6


@quiet
def test_initial_items_count_as_chosen_for_the_neighbours() -> None:
    features = normal_rows(500)
    found = select(features, budget=20, initial=range(30)).manifest["resolved"]["neighbors"]
    assert found == [references.neighbors_for_coverage(500, 50, Fraction(3, 5))]


@quiet
@pytest.mark.parametrize("size", [2, 3, 5, 8])
def test_neighbours_never_exceed_what_is_left(size: int) -> None:
    for budget in range(1, size + 1):
        found = select(normal_rows(size), budget=budget, coverage=0.99).manifest["resolved"]["neighbors"][0]
        assert 1 <= found <= max(1, size - budget - 1)


def test_small_classes_report_the_measured_coverage() -> None:
    features, labels = clouds([299, 300])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        coreset = select(features, labels, ratio=0.2)
    resolved = coreset.manifest["resolved"]
    members = torch.nonzero(labels == 0).flatten()
    chosen = torch.nonzero(torch.isin(members, coreset.indices)).flatten()
    measured = coverage(features[members], chosen, resolved["neighbors"][0])
    assert resolved["measured_coverage"] == [pytest.approx(measured, abs=1e-4), None]


def test_a_warning_where_neighbourhoods_span_much_of_a_class() -> None:
    features, labels = clouds([100, 400])
    with pytest.warns(UserWarning, match=r"K=\d+ neighbours of 100 items \(1 of 2 groups .*Measured coverage: 0\.\d+"):
        select(features, labels, ratio=0.05, neighbors=15)


def test_no_warning_where_they_do_not() -> None:
    features, labels = clouds([400, 400])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        select(features, labels, ratio=0.2)


@pytest.mark.parametrize("wrong", [0.0, 1.0, -0.5, math.nan])
def test_a_coverage_out_of_range(wrong: float) -> None:
    with pytest.raises(ValueError, match="give a number between 0 and 1, both excluded"):
        neighbors_for_coverage(100, 10, wrong)
