"""CSOD against a matrix of all pairs, and what it promises of images that show several classes."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_coreset import Coreset, Pool, select
from lightning_coreset.detection import Objects
from tests.helpers import references_detection as reference
from tests.helpers.detection_examples import crowded_pool, tied_pool

SHARED, BY_CLASS = crowded_pool(60, 5), crowded_pool(60, 1)


def run(objects: Objects, budget: int = 12, **arguments: Any) -> Coreset:
    return select(Pool(objects=objects), method="csod", budget=budget, **arguments)


def dense(objects: Objects) -> tuple[reference.Array, reference.Array]:
    assert objects.features is not None
    columns = objects.features.numpy(), objects.image.numpy(), objects.labels.numpy()
    return reference.class_means(*columns, objects.num_images, objects.num_classes)


@pytest.mark.parametrize("seed", range(200))
def test_picks_are_those_of_a_matrix_of_all_pairs(seed: int) -> None:
    """Ties by equal rows, shared images, one class, classes that run out, initial and forbidden images."""
    rng = np.random.default_rng(seed)
    images, classes = int(rng.integers(6, 40)), int(rng.integers(1, 6))
    objects = (tied_pool if seed % 2 else crowded_pool)(images, classes, seed=seed)
    means, shows = dense(objects)
    order = rng.permutation(images)
    initial, forbidden = tuple(order[: seed % 3].tolist()), tuple(order[3 : 3 + seed % 4].tolist())
    free = shows.any(axis=1)
    free[[*initial, *forbidden]] = False
    budget = int(rng.integers(1, max(2, free.sum() + 1)))
    arguments: dict[str, Any] = {"share": seed % 5 != 0}
    arguments |= {"lam": 0.05} if seed % 7 == 0 else {"balance": float(rng.choice([0.3, 3.2, 10]))}
    if not free.any():
        pytest.skip("no candidate in this pool")
    expected = reference.csod(
        means,
        shows,
        budget,
        rare_first=seed % 4 != 0,
        initial=initial,
        forbidden=forbidden,
        **arguments,
    )
    order_name = "rare" if seed % 4 != 0 else "id"
    found = run(objects, budget, class_order=order_name, initial=list(initial), forbidden=list(forbidden), **arguments)
    assert (found.indices.tolist(), found.details["class"]) == expected


@pytest.mark.oracle("submodlib")
def test_one_class_an_image_is_a_graph_cut_in_each_class() -> None:
    from submodlib import GraphCutFunction

    objects = crowded_pool(60, 3, seed=5, single=True)
    means, shows = dense(objects)
    found = run(objects, 15)
    lam = [3.2 * 15 / 3 / count for count in shows.sum(axis=0)]
    for label in range(3):
        members = np.nonzero(shows[:, label])[0]
        # Positive similarities, because submodlib clamps; our rows have none below 0.
        similarity = means[members, label] @ means[members, label].T
        # lam sum_unchosen - sum_chosen is lam sum_all - (1 + lam) sum_chosen, and submodlib's cut counts pairs twice.
        cut = GraphCutFunction(
            n=len(members), mode="dense", lambdaVal=(1 + lam[label]) / (2 * lam[label]), separate_rep=False,
            ggsijs=similarity.astype(np.float32),
        )  # fmt: skip
        picks = [
            image for image, turn in zip(found.indices.tolist(), found.details["class"], strict=True) if turn == label
        ]
        expected = cut.maximize(
            budget=len(picks), optimizer="NaiveGreedy", stopIfZeroGain=False, stopIfNegativeGain=False
        )
        assert picks == [int(members[place]) for place, _ in expected]


def test_exactly_so_many_distinct_images_until_none_is_left() -> None:
    shown = len(SHARED.image.unique())
    for budget in (1, 2, 7, shown):
        found = run(SHARED, budget)
        assert len(found) == len(found.indices.unique()) == budget
        assert set(found.indices.tolist()) <= set(SHARED.image.tolist())
    with pytest.warns(UserWarning, match="every image with usable objects"):
        assert len(run(SHARED, 60)) == shown
    filled = run(SHARED, 60, fill="random")
    assert sorted(filled.indices.tolist()) == list(range(60))
    assert filled.details["class"][shown:] == [None] * (60 - shown)


def test_a_shared_image_counts_in_every_class_that_it_shows() -> None:
    """Both classes want image 0 most; the second takes its next one."""
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.9, 0.1], [0.9, 0.1]])
    objects = Objects([0, 0, 1, 2], [[0, 0, 4, 4]] * 4, [0, 1, 0, 1], num_images=3, features=rows)
    assert run(objects, 2).indices.tolist() == [0, 2]
    # The paper's way the second class spends its turn on the image that is in already, and the first goes on.
    assert run(objects, 2, share=False).indices.tolist() == [0, 1]


def test_smaller_budgets_are_prefixes_when_the_weight_is_given() -> None:
    whole = run(SHARED, 40, lam=0.05)
    for budget in (1, 5, 23):
        assert torch.equal(run(SHARED, budget, lam=0.05).indices, whole.indices[:budget])
        assert torch.equal(whole.head(budget).indices, whole.indices[:budget])


def test_the_order_of_images_and_the_numbers_of_classes_do_not_matter() -> None:
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    straight = run(SHARED)
    mixed = run(SHARED.subset(order))
    assert torch.equal(order[mixed.indices], straight.indices)
    # Classes with other numbers, in the same order of their counts.
    names = torch.tensor([3, 0, 4, 1, 2])
    renamed = Objects(SHARED.image, SHARED.boxes, names[SHARED.labels], num_images=60, features=SHARED.features)
    assert torch.equal(run(renamed).indices, straight.indices)


def test_crowds_and_boxes_without_area_are_no_objects() -> None:
    extra = torch.full((2, SHARED.features.shape[1]), 9.0)  # type: ignore[union-attr]
    with_crowd = Objects(
        torch.cat([SHARED.image, torch.tensor([0, 1])]),
        torch.cat([SHARED.boxes, torch.tensor([[0.0, 0, 9, 9], [2, 2, 2, 5]])]),
        torch.cat([SHARED.labels, torch.tensor([0, 0])]),
        num_images=60,
        features=torch.cat([SHARED.features, extra]),  # type: ignore[list-item]
        crowd=[False] * len(SHARED) + [True, False],
    )
    assert torch.equal(run(with_crowd).indices, run(SHARED).indices)
    # They were annotated all the same.
    assert run(with_crowd).manifest["units"]["true"] >= run(SHARED).manifest["units"]["true"]


def test_single_objects_as_candidates_leave_with_their_image() -> None:
    found = run(SHARED, 20, objectwise=True)
    assert len(found.indices.unique()) == 20
    one_each = crowded_pool(40, 3, seed=2, single=True, most=1)
    assert torch.equal(run(one_each, 10, objectwise=True).indices, run(one_each, 10).indices)


def test_a_cap_for_each_class_is_drawn_by_the_seed() -> None:
    capped = run(SHARED, 5, sample_per_class=1)
    assert torch.equal(capped.indices, run(SHARED, 5, sample_per_class=1).indices)
    assert not torch.equal(capped.indices, run(SHARED, 5, sample_per_class=1, seed=3).indices)
    assert torch.equal(run(SHARED, 5, sample_per_class=1000).indices, run(SHARED, 5).indices)


def test_boxes_are_never_overspent_and_hardly_underspent() -> None:
    for budget in (20, 55, 90):
        found = run(SHARED, budget, budget_unit="boxes")
        assert found.manifest["units"]["spent"] == sum(found.details["units"]) <= budget
        assert found.manifest["units"]["spent"] >= 0.9 * budget
    exceeded = run(SHARED, 55, budget_unit="boxes", overshoot="last")
    assert sum(exceeded.details["units"][:-1]) < 55 <= sum(exceeded.details["units"])


def test_threads_do_not_matter() -> None:
    threads = torch.get_num_threads()
    picks: list[Tensor] = []
    for number in (1, 2):
        torch.set_num_threads(number)
        picks.append(run(crowded_pool(400, 4, width=64), 60).indices)
    torch.set_num_threads(threads)
    assert torch.equal(*picks)


def test_the_manifest_holds_what_the_coreset_shows() -> None:
    found = run(SHARED).manifest["objects"]
    counts = SHARED.counts()[run(SHARED).indices].sum(dim=0)
    assert found["per_class"] == counts.tolist()
    assert found["class_balance"] == pytest.approx(reference.class_balance_score(counts.numpy()), abs=1e-6)
    assert sum(found["sizes"].values()) == pytest.approx(1)
    assert found["sizes_kl"] >= 0
