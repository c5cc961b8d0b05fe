"""Exact radii and coverage."""

import numpy as np
import pytest
import torch

from lightning_coreset.ops import coverage, knn_radius
from lightning_coreset.ops.neighbors import mean_neighbor_distance, nearest_neighbors, places_of_largest
from tests.helpers import references, references_signals
from tests.helpers.examples import normal_rows, tied_rows


@pytest.mark.parametrize("size", [2, 63, 65, 257, 300])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_radius_is_the_distance_to_the_kth_other_item(size: int, share: float) -> None:
    rows = normal_rows(size, 8)
    neighbors = 1 + round(share * (size - 2))
    expected = references.knn_radius(references.unit_rows(rows.numpy()), neighbors)
    assert np.allclose(knn_radius(rows, neighbors).numpy(), expected, atol=1e-5)
    assert np.allclose(
        knn_radius(rows, neighbors, metric="raw").numpy(), references.knn_radius(rows.numpy(), neighbors), atol=1e-5
    )


@pytest.mark.parametrize("size", [63, 65, 257, 300])
def test_dense_and_streamed_radii_are_the_same_bits(size: int) -> None:
    rows = normal_rows(size, 33)
    assert torch.equal(knn_radius(rows, 7, mode="dense"), knn_radius(rows, 7, mode="streamed"))


def test_duplicates_are_other_items() -> None:
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert knn_radius(rows, 2).tolist() == [0.0, 0.0, 0.0, pytest.approx(2**0.5)]
    assert knn_radius(rows, 3).tolist() == pytest.approx([2**0.5] * 4)


def test_raw_radii_keep_their_digits_far_from_the_origin() -> None:
    rows = torch.tensor([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]]) + 4096
    assert knn_radius(rows, 1, metric="raw").tolist() == [1.0, 1.0, 2.0]


@pytest.mark.parametrize("neighbors", [0, 10])
def test_a_neighbour_that_is_not_there(neighbors: int) -> None:
    with pytest.raises(ValueError, match=f"{neighbors} neighbours of 10 items are not accepted: give 1 to 9"):
        knn_radius(normal_rows(10), neighbors)
    with pytest.raises(ValueError, match="give 1 to 9"):
        coverage(normal_rows(10), torch.tensor([1]), neighbors)


def test_an_unknown_metric() -> None:
    with pytest.raises(ValueError, match="metric='cosine' is not accepted: give 'normalized' or 'raw'"):
        knn_radius(normal_rows(10), 2, metric="cosine")  # type: ignore[arg-type]


@pytest.mark.parametrize("rows", [normal_rows(120, 6), tied_rows(120)], ids=["general position", "ties"])
@pytest.mark.parametrize("neighbors", [1, 5, 30, 119])
@pytest.mark.parametrize("picks", [1, 6, 60])
def test_coverage_is_the_share_of_balls_with_a_chosen_item(rows: torch.Tensor, neighbors: int, picks: int) -> None:
    chosen = torch.randperm(120, generator=torch.Generator().manual_seed(0))[:picks]
    assert coverage(rows, chosen, neighbors) == pytest.approx(
        references.coverage(rows.numpy(), chosen.tolist(), neighbors)
    )


def test_everything_chosen_covers_everything() -> None:
    assert coverage(normal_rows(50), torch.arange(50), 1) == 1.0


def test_mean_distance_to_neighbours() -> None:
    rows = normal_rows(80, 5)
    radii = [references.knn_radius(references.unit_rows(rows.numpy()), neighbors) for neighbors in range(1, 5)]
    assert np.allclose(mean_neighbor_distance(rows, 4).numpy(), np.mean(radii, axis=0), atol=1e-5)


@pytest.mark.parametrize("size", [2, 63, 65, 257])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_neighbours_are_the_nearest_others_in_order(size: int, share: float) -> None:
    rows = normal_rows(size, 8)
    neighbors = 1 + round(share * (size - 2))
    found = nearest_neighbors(rows, neighbors)
    assert np.array_equal(found.indices.numpy(), references_signals.nearest(rows.numpy(), neighbors))
    unit = references.unit_rows(rows.numpy())
    distances = np.linalg.norm(unit[:, None] - unit[found.indices.numpy()], axis=2)
    assert np.allclose(found.distances.numpy(), distances, atol=1e-3)


@pytest.mark.parametrize("neighbors", [1, 5, 40, 99])
def test_equally_near_neighbours_come_by_index(neighbors: int) -> None:
    rows = tied_rows(100)
    found = nearest_neighbors(rows, neighbors).indices.numpy()
    similarity = references.cosine(rows.numpy())
    np.fill_diagonal(similarity, -np.inf)
    assert np.array_equal(found, np.argsort(-similarity, axis=1, kind="stable")[:, :neighbors])


def test_the_largest_of_equal_values_are_the_first_ones() -> None:
    values = torch.tensor([[2.0, 2.0, 2.0, 2.0], [0.0, 1.0, 1.0, 3.0], [0.0, -torch.inf, -torch.inf, -torch.inf]])
    assert places_of_largest(values, 2).tolist() == [[0, 1], [1, 3], [0, 1]]


def test_there_are_not_as_many_neighbours_as_items() -> None:
    with pytest.raises(ValueError, match="4 neighbours of 4 items"):
        nearest_neighbors(normal_rows(4), 4)
