"""Each method against a plain reference or by what it is meant to do."""

import numpy as np
import pytest
import torch

from lightning_coreset import select
from lightning_coreset.ops import kmeans
from lightning_coreset.ops.rows import normalize_rows
from tests.helpers import references
from tests.helpers.examples import clouds, normal_rows, tied_rows


@pytest.mark.parametrize("kind", ["cosine", "shifted"])
def test_facility_location_is_the_reference(kind: str) -> None:
    features = tied_rows(100)
    expected, gains = references.facility_location(references.cosine(features.numpy(), kind), 30)
    found = select(features, method="facility_location", budget=30, similarity=kind)
    assert found.indices.tolist() == expected
    assert found.gains is not None
    assert found.gains.tolist() == gains


@pytest.mark.parametrize("lam", [1.0, 2.0])
def test_graph_cut_is_the_reference(lam: float) -> None:
    features = tied_rows(100)
    expected, gains = references.graph_cut(references.cosine(features.numpy()), 30, lam=lam)
    found = select(features, method="graph_cut", budget=30, lam=lam)
    assert found.indices.tolist() == expected
    assert found.gains is not None
    assert found.gains.tolist() == gains


def test_herding_is_the_reference() -> None:
    features = tied_rows(128)
    assert select(features, method="herding", budget=30).indices.tolist() == references.herding(features.numpy(), 30)


@pytest.mark.parametrize("start", [None, 17])
def test_k_center_is_the_reference(start: int | None) -> None:
    features = tied_rows(128)
    found = select(features, method="k_center", budget=30, start=start)
    assert found.indices.tolist() == references.farthest_first(features.numpy(), 30, start=start)


def test_k_center_over_the_whole_pool_does_not_ask_for_classes() -> None:
    features, labels = clouds([50, 5], spread=0.3)
    assert torch.equal(
        select(features, labels, method="k_center", budget=10).indices,
        select(features, method="k_center", budget=10).indices,
    )


@pytest.mark.parametrize("size", [9, 10])
def test_moderate_takes_what_is_nearest_to_the_lower_median_distance(size: int) -> None:
    rows = references.unit_rows(normal_rows(size, 5).numpy())
    distance = np.linalg.norm(rows - rows.mean(axis=0), axis=1)
    away = abs(distance - np.sort(distance)[(size - 1) // 2])
    assert select(rows, method="moderate", budget=size).indices.tolist() == np.argsort(away, kind="stable").tolist()


def test_random_does_not_look_at_the_features() -> None:
    features, labels = clouds([50, 30])
    first, second = (select(rows, labels, method="random", budget=20) for rows in (features, torch.zeros(80, 1)))
    assert torch.equal(first.indices, second.indices)


def test_random_is_fair() -> None:
    drawn = torch.cat([select(torch.zeros(20, 1), method="random", budget=5, seed=seed).indices for seed in range(800)])
    assert bool((torch.bincount(drawn, minlength=20) - 200).abs().max() < 60)


@pytest.mark.parametrize(
    ("sizes", "budget", "counts"),
    [
        ([10, 10, 10], 7, [3, 2, 2]),
        ([2, 10, 10], 12, [2, 5, 5]),
        ([1, 2, 30], 20, [1, 2, 17]),
        ([4, 4, 4], 2, [1, 1, 0]),
    ],
)
def test_uniform_takes_the_same_from_each_class(sizes: list[int], budget: int, counts: list[int]) -> None:
    features, labels = clouds(sizes)
    coreset = select(features, labels, method="uniform", budget=budget)
    assert coreset.class_counts is not None
    assert coreset.class_counts.tolist() == counts


def test_classes_draw_unrelated_random_numbers() -> None:
    labels = torch.arange(40) % 2
    coreset = select(torch.zeros(40, 1), labels, method="uniform", budget=20)
    rows = [(coreset.indices[coreset.indices % 2 == label] // 2).tolist() for label in (0, 1)]
    assert rows[0] != rows[1]


def test_prototypes_are_nearest_to_their_centres_and_take_turns() -> None:
    features, _ = clouds([30, 50, 20], spread=0.3)
    coreset = select(features, method="prototypes", budget=12, clusters=3, seed=1)
    rows = normalize_rows(features)
    found = kmeans(rows, 3, seed=1)
    distance = (rows - found.centers[found.assignment]).norm(dim=1)
    sizes = torch.bincount(found.assignment)
    turn = sizes.argsort(descending=True).tolist()
    assert coreset.details["cluster"] == turn * 4
    for cluster in turn:
        members = torch.nonzero(found.assignment == cluster).flatten()
        nearest = members[distance[members].argsort()][:4]
        assert coreset.indices[torch.tensor(coreset.details["cluster"]) == cluster].tolist() == nearest.tolist()


@pytest.mark.parametrize(("clusters", "number"), [("num_classes", 4), ("budget", 9), (6, 6), (1000, 90)])
def test_prototypes_resolve_their_clusters(clusters: int | str, number: int) -> None:
    features, labels = clouds([30, 20, 25, 15])
    coreset = select(features, labels, method="prototypes", budget=9, clusters=clusters)
    assert coreset.manifest["resolved"]["clusters"] == [number]
    assert coreset.manifest["ranks"] == (clusters != "budget")
    if clusters == "budget":
        assert sorted(coreset.details["cluster"]) == list(range(9))


def test_prototypes_without_classes_guess_the_number_of_clusters() -> None:
    assert select(normal_rows(200), method="prototypes", budget=2).manifest["resolved"]["clusters"] == [10]


def test_prototypes_pass_over_clusters_with_initial_items_while_others_have_candidates() -> None:
    features, cloud = clouds([30, 5, 6], spread=0.02)
    initial = torch.nonzero(cloud == 0).flatten()[:1]
    picks = cloud[select(features, method="prototypes", clusters=3, budget=14, initial=initial).indices].tolist()
    assert set(picks[:11]) == {1, 2}
    assert picks[11:] == [0, 0, 0]


def test_typiclust_takes_the_densest_item_of_each_cluster() -> None:
    features, _ = clouds([30, 20, 25, 15], spread=0.4)
    coreset = select(features, method="typiclust", budget=4, seed=2, neighbors=5)
    rows = normalize_rows(features)
    assignment = kmeans(rows, 4, seed=2).assignment
    for pick, cluster in zip(coreset.indices.tolist(), coreset.details["cluster"], strict=True):
        members = torch.nonzero(assignment == cluster).flatten()
        distances = torch.cdist(rows[members], rows[members]).sort(dim=1).values[:, 1:6].mean(dim=1)
        assert pick == members[distances.argmin()]
    assert coreset.manifest["ranks"] is False
    assert sorted(coreset.details["cluster"]) == [0, 1, 2, 3]


def test_typiclust_gives_the_seat_of_a_cluster_without_candidates_to_the_next_best() -> None:
    features, cloud = clouds([20, 20, 20], spread=0.02)
    closed = torch.nonzero(cloud == 1).flatten()
    picks = cloud[select(features, method="typiclust", budget=3, forbidden=closed).indices].tolist()
    assert sorted(set(picks)) == [0, 2]
    assert len(picks) == 3
