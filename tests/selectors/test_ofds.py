"""OFDS: what it spends, in which order, and that nothing but the pool decides."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from lightning_coreset import Coreset, Pool, SelectionContext, select
from lightning_coreset.detection import Calibration, Objects, UnitEstimate
from lightning_coreset.selectors import OFDS
from tests.helpers.detection_examples import crowded_pool
from tests.helpers.ranks import run_ranks

LABELLED = crowded_pool(150, 6)
PROPOSED = replace(crowded_pool(150, 6, scores=True), units=LABELLED.counts().sum(dim=1))
IDS = [f"image {number * 7919 % 1000:03d}" for number in range(150)]
PICKS = ("centroid", "random", "cheapest")


def run(objects: Objects = LABELLED, budget: int | None = 80, *, ids: Any = None, **arguments: Any) -> Coreset:
    arguments = {"budget_unit": "boxes"} | arguments
    return select(Pool(objects=objects, ids=ids), method="ofds", budget=budget, **arguments)


@pytest.mark.parametrize("pick", PICKS)
@pytest.mark.parametrize("share", [0.05, 0.1, 0.2, 0.4, 0.8])
def test_spends_at_least_97_percent_and_never_more_than_the_budget(pick: str, share: float) -> None:
    for objects, charge in ((LABELLED, "oracle"), (PROPOSED, "oracle"), (PROPOSED, "estimate")):
        found = run(objects, None, ratio=share, pick=pick, charge=charge)
        told = found.manifest["units"]
        assert told["charged"] == ("estimated" if charge == "estimate" else "true")
        assert told["spent"] <= told["asked"]
        remaining = sorted(set(objects.image.tolist()) - set(found.indices.tolist()))
        prices = objects.counts().sum(dim=1) if charge == "oracle" and objects is LABELLED else None
        if prices is not None and any(0 < prices[image] <= told["asked"] - told["spent"] for image in remaining):
            assert told["spent"] >= 0.97 * told["asked"]


@pytest.mark.parametrize("pick", PICKS)
def test_every_class_with_a_proposal_is_there_unless_it_cannot_be_paid(pick: str) -> None:
    for seed in range(5):
        objects = crowded_pool(200, 6, seed=seed)
        found = run(objects, None, ratio=0.05, pick=pick)
        assert found.manifest["objects"]["missing_classes"] == []
    assert run(budget=2).manifest["units"]["unfunded_classes"] != []


@pytest.mark.parametrize("pick", PICKS)
def test_the_order_of_images_does_not_matter_where_they_have_ids(pick: str) -> None:
    straight = run(ids=IDS, pick=pick)
    for seed in range(3):
        order = torch.randperm(150, generator=torch.Generator().manual_seed(seed))
        mixed = run(LABELLED.subset(order), ids=[IDS[place] for place in order], pick=pick)
        assert torch.equal(order[mixed.indices], straight.indices)
        names = [[IDS[order[place]] for place in members or []] for members in mixed.details["members"]]
        assert names == [[IDS[place] for place in members or []] for members in straight.details["members"]]


def test_the_order_of_boxes_in_an_image_does_not_matter() -> None:
    shuffled = torch.randperm(len(LABELLED), generator=torch.Generator().manual_seed(0))
    columns = {name: getattr(LABELLED, name)[shuffled] for name in ("image", "boxes", "labels", "features")}
    assert torch.equal(run(replace(LABELLED, **columns)).indices, run().indices)


def test_ranks_and_threads_do_not_matter() -> None:
    alone = run(crowded_pool(400, 4, width=64), 200).indices
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    assert torch.equal(run(crowded_pool(400, 4, width=64), 200).indices, alone)
    torch.set_num_threads(threads)
    pool = Pool(objects=LABELLED)
    answers = run_ranks(
        3, lambda reducer: OFDS().select(pool, 80, budget_unit="boxes", context=SelectionContext(reducer=reducer))
    )
    for answer in answers:
        assert torch.equal(answer.indices, run().indices)
        assert answer.details == run().details


def test_seeds_draw_other_centres() -> None:
    assert not torch.equal(run(seed=0).indices, run(seed=1).indices)
    before = torch.get_rng_state()
    run(background=0.1)
    assert torch.equal(torch.get_rng_state(), before)


def test_no_two_picks_of_a_group_of_equal_objects_while_other_clusters_remain() -> None:
    """Every image is there four times; a fifth of the pool is spent."""
    once = crowded_pool(40, 3, seed=3)
    assert once.features is not None
    four = Objects(
        torch.cat([once.image + 40 * copy for copy in range(4)]),
        once.boxes.repeat(4, 1),
        once.labels.repeat(4),
        num_images=160,
        features=once.features.repeat(4, 1),
        image_sizes=torch.full((160, 2), 100),
        class_names=once.class_names,
    )
    for share in (0.05, 0.1, 0.2):
        found = run(four, None, ratio=share)
        assert len(set((found.indices % 40).tolist())) == len(found)
    assert len(set((run(four, None, ratio=0.2, pick="random").indices % 40).tolist())) < len(
        run(four, None, ratio=0.2, pick="random")
    )


def test_initial_images_count_as_labelled() -> None:
    """Two clusters of one class: with one of them labelled, one pick goes to the other."""
    rows = torch.cat([torch.zeros(5, 2), torch.ones(5, 2)]) + torch.arange(10).unsqueeze(1) / 1000
    objects = Objects(torch.arange(10), [[0, 0, 9, 9]] * 10, [0] * 10, num_images=10, features=rows)
    assert int(run(objects, 1, initial=[0]).indices) >= 5
    assert int(run(objects, 1, initial=[9]).indices) < 5
    # The middle of the other cluster, and its next one where that is forbidden.
    assert run(objects, 1, initial=[0]).indices.tolist() == [7]
    assert run(objects, 1, initial=[0], forbidden=[7]).indices.tolist() == [6]


def test_rare_classes_come_first_and_lines_go_around() -> None:
    found = run(ids=IDS)
    order = found.manifest["units"]["class_order"]
    counts = LABELLED.counts().sum(dim=0)
    assert order == sorted(range(6), key=lambda label: (int(counts[label]), label))
    sweep = [label for label, number in zip(found.details["class"], found.details["sweep"], strict=True) if number == 1]
    assert sweep[:6] == order
    # Each round through the classes goes in their order.
    places = [order.index(label) for label in sweep]
    falls = sum(later <= earlier for earlier, later in pairwise(places))
    assert falls + 1 == max(sweep.count(label) for label in order)


def test_a_request_may_stop_at_any_line() -> None:
    """Stopped at the first line above the budget it has spent all but its dearest image, and asked every class."""
    found = run(PROPOSED, 100, threshold=0.3, estimate=(0.5, 1.6))
    lines = found.request(IDS)
    assert [line["index"] for line in lines[: len(found)]] == found.indices.tolist()
    assert [line["reserve"] for line in lines] == [False] * len(found) + [True] * (len(lines) - len(found))
    assert len({line["index"] for line in lines}) == len(lines)
    assert sum(line["estimated_units"] for line in lines) <= 200
    assert PROPOSED.units is not None
    spent, asked = 0.0, set()
    for line in lines:
        price = float(PROPOSED.units[line["index"]])
        if spent + price > 100:
            break
        spent += price
        asked.add(line["class"])
    assert spent >= 100 - float(PROPOSED.units.max())
    assert asked == set(range(6))


def test_estimates_follow_scores_of_all_proposals() -> None:
    found = run(PROPOSED, 100, threshold=0.5, estimate=(0.5, 1.5))
    expected = UnitEstimate(0.5, 1.5).of(PROPOSED)[found.indices].tolist()
    assert found.details["estimated_units"] == pytest.approx(expected, abs=1e-5)
    assert found.manifest["units"]["spent"] == pytest.approx(sum(expected), abs=1e-4)
    assert found.manifest["units"]["true"] == sum(found.details["units"])


def test_a_calibration_file_brings_thresholds_and_units(tmp_path: Any) -> None:
    path = str(tmp_path / "calibration.json")
    Calibration(0.5, "precision", "a set", units=UnitEstimate(0.5, 1.5)).save(path)
    by_file, by_hand = run(PROPOSED, calibration=path), run(PROPOSED, threshold=0.5, estimate=(0.5, 1.5))
    assert torch.equal(by_file.indices, by_hand.indices)
    assert by_file.manifest["units"] == by_hand.manifest["units"]


def test_proposals_below_the_threshold_or_too_small_do_not_count() -> None:
    tiny = replace(PROPOSED, image_sizes=torch.full((150, 2), 4_000))
    with pytest.raises(ValueError, match="No proposal of"):
        run(tiny)
    assert len(run(tiny, min_box_area=0)) > 0
    kept = PROPOSED.where(PROPOSED.scores >= 0.6)  # type: ignore[operator]
    assert set(run(PROPOSED, threshold=0.6).indices.tolist()) <= set(kept.image.tolist())
    by_class = [0.6, 0.2, 0.2, 0.2, 0.2, 1.0]
    assert run(PROPOSED, threshold=by_class).manifest["units"]["classes_without_proposals"] == [5]


def test_cheapest_takes_images_with_fewer_units() -> None:
    """Of each cluster, so that a budget brings more images."""
    assert len(run(pick="cheapest")) > len(run(pick="centroid"))


def test_background_is_a_share_of_images_without_proposals() -> None:
    found = run(budget=40, budget_unit="images", background=0.25)
    empty = set(range(150)) - set(LABELLED.image.tolist())
    assert len(set(found.indices.tolist()) & empty) == 10
    assert found.details["class"].count(None) == 10
    assert len(found) == 40


def test_linear_search_finds_as_many_clean_clusters() -> None:
    linear, gallop = run(k_search="linear"), run(k_search="gallop")
    assert linear.manifest["units"]["spent"] == pytest.approx(gallop.manifest["units"]["spent"], abs=3)


@pytest.mark.parametrize("budget", [1, 7, 1000])
def test_pools_that_say_nothing(budget: int) -> None:
    """Equal features: no clustering parts them, and images are taken one after another."""
    objects = Objects(torch.arange(20), [[0, 0, 9, 9]] * 20, [0, 1] * 10, num_images=22, features=torch.ones(20, 3))
    if budget > 20:
        with pytest.raises(ValueError, match="more than the images that may be picked have"):
            run(objects, budget)
    else:
        assert len(run(objects, budget)) == budget
    single = Objects([3], [[0, 0, 9, 9]], [0], num_images=9, features=[[1.0]])
    assert run(single, 1).indices.tolist() == [3]


def test_the_paper_s_mean_is_fixed() -> None:
    fixed = run(reestimate=False, charge="oracle")
    assert fixed.manifest["resolved"]["units_per_image"] == [pytest.approx(float(LABELLED.counts().sum()) / 150)]
    assert run(charge="oracle").manifest["resolved"] != fixed.manifest["resolved"]
    assert run(units_per_image=2.0, reestimate=False).manifest["resolved"] == {"units_per_image": [2.0]}


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "pick": ({"pick": "best"}, "pick='best' is not accepted: give one of 'centroid', 'random', 'cheapest'"),
    "threshold": ({"threshold": 1.5}, "threshold=1.5 is not accepted"),
    "thresholds": ({"threshold": [0.5]}, "threshold holds 1 scores for 6 classes"),
    "min_box_area": ({"min_box_area": -1}, "min_box_area=-1 is not accepted"),
    "charge": ({"charge": "free"}, "charge='free' is not accepted"),
    "oracle": ({"charge": "oracle", "objects": replace(PROPOSED, units=None)}, "needs the true units of every image"),
    "estimate": ({"estimate": (1,)}, "estimate=.* is not accepted: give a and b"),
    "units_per_image": ({"units_per_image": 0}, "units_per_image=0 is not accepted"),
    "background": ({"background": 1}, "background=1 is not accepted"),
    "slack": ({"slack": 0.5}, "slack=0.5 is not accepted"),
    "k_search": ({"k_search": "binary"}, "k_search='binary' is not accepted"),
    "classes": ({"per_class": True}, "per_class=True is not accepted by 'ofds'"),
    "no features": ({"objects": replace(LABELLED, features=None)}, "'ofds' compares objects and these have no"),
    "no proposal": ({"objects": Objects([], [], [], num_images=5)}, "none of 5 images has any"),
    "all below": ({"objects": PROPOSED, "threshold": 1.0}, "No proposal of .* has threshold=1.0"),
    "no objects": ({"objects": None}, "'ofds' needs objects and got none|not accepted for a pool without objects"),
    "two thresholds": ({"threshold": 0.5, "calibration": "a.json"}, "threshold=0.5 beside calibration="),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_in_one_line(case: str) -> None:
    given, message = BAD[case]
    objects = given.get("objects", LABELLED)
    arguments = {name: value for name, value in given.items() if name != "objects"}
    pool = Pool(objects=objects) if objects is not None else Pool(np.ones((5, 2)))
    with pytest.raises(ValueError, match=message) as raised:
        select(pool, method="ofds", budget=30, budget_unit="boxes", **arguments)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("normalize", [False, True])
def test_proposals_that_do_not_count_might_as_well_not_be_there(normalize: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    image = torch.randint(40, (200,), generator=generator).sort().values
    scores = torch.rand(200, generator=generator)
    objects = Objects(
        image,
        torch.tensor([[0.0, 0.0, 8.0, 8.0]]).expand(200, 4) + torch.arange(200)[:, None],
        torch.randint(3, (200,), generator=generator),
        num_images=40,
        scores=scores,
        features=torch.randn(200, 6, generator=generator),
        class_names=["a", "b", "c"],
    )
    sure = objects.where(scores >= 0.5)
    chosen, expected = (
        select(Pool(objects=table), method="ofds", budget=12, threshold=0.5, normalize=normalize)
        for table in (objects, sure)
    )
    assert chosen.indices.tolist() == expected.indices.tolist()
    assert chosen.details["members"] == expected.details["members"]
