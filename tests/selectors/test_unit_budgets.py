"""Budgets in boxes and masks, for every method; and one candidate of each group of near duplicates."""

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch

from lightning_coreset import Coreset, Pool, SelectionContext, select
from lightning_coreset.detection import Objects
from lightning_coreset.registry import build_selector
from tests.helpers.detection_examples import crowded_pool
from tests.helpers.examples import METHODS, RECORDED, budget_free_arguments, clouds, signals_of
from tests.helpers.ranks import run_ranks

pytestmark = pytest.mark.filterwarnings("ignore:SubZeroCore looks at", "ignore:budget=.* is more than the images")

IMAGES = 60
FEATURES, LABELS = clouds([25, 20, 15])
OBJECTS = crowded_pool(IMAGES, 4)
PROPOSALS = replace(crowded_pool(IMAGES, 4, scores=True), units=crowded_pool(IMAGES, 4).counts().sum(dim=1))
DETECTION = ("class_balance", "csod", "ofds")
EVERY = (*METHODS, *DETECTION, "text_retrieval")
TEXTS = torch.eye(16)[:4].tolist()


def pool(method: str, objects: Objects = OBJECTS, order: torch.Tensor | None = None) -> Pool:
    signals = signals_of(FEATURES, LABELS) if method in RECORDED else None
    return Pool(FEATURES, LABELS, objects=objects, signals=signals)


def arguments_of(method: str) -> dict[str, Any]:
    return {"texts": TEXTS} if method == "text_retrieval" else budget_free_arguments(method)


def run(method: str, objects: Objects = OBJECTS, **arguments: Any) -> Coreset:
    arguments = {"budget": 50, "budget_unit": "boxes"} | arguments
    return select(pool(method, objects), method=method, **arguments_of(method), **arguments)


@pytest.mark.parametrize("method", EVERY)
@pytest.mark.parametrize("unit", ["boxes", "masks"])
def test_never_above_the_budget_and_spent_as_far_as_images_fit(method: str, unit: str) -> None:
    found = run(method, budget_unit=unit)
    told = found.manifest["units"]
    assert told["unit"] == found.manifest["budget_unit"] == unit
    assert told["asked"] == found.manifest["budget"] == 50
    assert sum(found.details["units"]) == told["spent"] == told["true"] <= 50
    assert len(found) == len(found.indices.unique()) == told["images"]
    units = OBJECTS.counts().sum(dim=1)
    rest = units[[image for image in range(IMAGES) if image not in found.indices.tolist()]]
    if method not in ("ofds", "class_balance"):
        assert int(rest[rest > 0].min()) > 50 - told["spent"]
    assert told["spent"] >= 0.97 * 50 or method == "class_balance"


@pytest.mark.parametrize("method", EVERY)
def test_the_last_image_may_exceed_the_budget_where_that_is_asked_for(method: str) -> None:
    found = run(method, budget=47, overshoot="last")
    # A weighted method gives its images in the order of a selection among them, so the last one is any.
    assert 47 <= found.manifest["units"]["spent"] < 47 + OBJECTS.counts().sum(dim=1).max()


@pytest.mark.parametrize("method", EVERY)
def test_a_ratio_is_a_share_of_the_units(method: str) -> None:
    whole = int(OBJECTS.counts().sum())
    assert run(method, budget=None, ratio=0.25).manifest["units"]["asked"] == int(0.25 * whole + 0.5)


@pytest.mark.parametrize("method", [name for name in EVERY if name not in ("subzerocore", "facility_location")])
def test_picks_follow_the_order_of_a_selection_in_images(method: str) -> None:
    """Where no image is passed over, a budget in units takes a prefix of the picks of a budget in images."""
    ones = Objects(
        torch.arange(IMAGES), OBJECTS.boxes[:IMAGES].clone(), LABELS % 3, num_images=IMAGES,
        features=FEATURES, image_sizes=OBJECTS.image_sizes,
    )  # fmt: skip
    in_boxes, in_images = run(method, ones, budget=20), run(method, ones, budget=20, budget_unit="images")
    assert torch.equal(in_boxes.indices, in_images.indices)


@pytest.mark.parametrize("method", EVERY)
def test_initial_costs_nothing_and_forbidden_is_never_taken(method: str) -> None:
    initial, forbidden = [1, 2, 30], [4, 5, 6, 40]
    found = run(method, initial=initial, forbidden=forbidden)
    assert not set(found.indices.tolist()) & {*initial, *forbidden}
    assert found.manifest["units"]["spent"] == sum(found.details["units"]) <= 50


@pytest.mark.parametrize("method", EVERY)
def test_ranks_agree(method: str) -> None:
    selector = build_selector(method, arguments_of(method))
    alone = selector.select(pool(method), 40, budget_unit="boxes")
    answers = run_ranks(
        2,
        lambda reducer: selector.select(
            pool(method), 40, budget_unit="boxes", context=SelectionContext(reducer=reducer, memory_limit=10**9)
        ),
    )
    for answer in answers:
        assert torch.equal(answer.indices, alone.indices)


@pytest.mark.parametrize("method", EVERY)
def test_one_candidate_of_each_group_of_duplicates(method: str) -> None:
    groups = torch.arange(IMAGES) // 2 * 2
    selector = build_selector(method, arguments_of(method))
    context = SelectionContext(duplicates=groups, memory_limit=10**9)
    found = selector.select(pool(method), 50, budget_unit="boxes", context=context, initial=[0], forbidden=[2])
    taken = groups[found.indices].tolist()
    assert len(taken) == len(set(taken))
    # The group of a chosen image has no candidate, and that of a forbidden one its other image.
    assert 1 not in found.indices
    # Of 60 images 30 are second ones; where one of the two is out already, none more has to go.
    assert found.manifest["duplicates"] == {"groups": 30, "items": 60, "left_out": 29}


def test_weights_of_weighted_methods_are_those_among_the_images_taken() -> None:
    found = run("facility_location")
    others = sorted(set(range(IMAGES)) - set(found.indices.tolist()))
    among = select(pool("facility_location"), method="facility_location", budget=len(found), forbidden=others)
    assert torch.equal(found.weights, among.weights)
    assert torch.equal(found.indices, among.indices)


def test_true_units_are_charged_where_they_are_known_and_expected_ones_where_not() -> None:
    unknown = replace(PROPOSALS, units=None)
    assert PROPOSALS.scores is not None
    sums = torch.zeros(IMAGES, dtype=torch.float64).index_add_(0, PROPOSALS.image, PROPOSALS.scores.double())
    for method in ("random", "k_center"):
        known = run(method, PROPOSALS)
        assert known.manifest["units"]["charged"] == "true"
        assert known.manifest["units"]["spent"] == float(PROPOSALS.units[known.indices].sum())  # type: ignore[index]
        expected = run(method, unknown)
        assert expected.manifest["units"]["charged"] == "estimated"
        assert expected.manifest["units"]["true"] is None
        assert expected.manifest["units"]["spent"] == pytest.approx(float(sums[expected.indices].sum()), abs=1e-5)


def test_a_prefix_of_a_budget_in_boxes_is_one_in_images() -> None:
    found = run("k_center")
    head = found.head(3)
    assert head.manifest["budget_unit"] == "images"
    assert head.manifest["budget"] == 3
    assert "units" not in head.manifest
    assert head.details["units"] == found.details["units"][:3]


def test_free_images_are_taken_only_until_one_does_not_fit() -> None:
    objects = Objects(
        [0, 0, 2, 2, 2, 4, 4], [[0, 0, 4, 4]] * 7, [0] * 7, num_images=8, features=torch.zeros(7, 2)
    )  # images 1, 3, 5, 6, 7 show nothing
    from lightning_coreset.ops.spending import Purse

    purse = Purse(torch.tensor([2.0, 0, 3, 0, 2, 0, 0, 0]), 4)
    assert purse.walk(range(8)) == [0, 1, 4]
    assert objects.num_images == 8


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unit": ({"budget_unit": "pixels"}, "budget_unit='pixels' is not accepted: give one of 'images', 'boxes', 'masks'"),
    "below one image": ({"budget": 1, "objects": "dear"}, "budget=1 boxes is less than the cheapest image has .3."),
    "above the pool": ({"budget": 10_000}, "budget=10000 boxes is more than the images that may be .*ask for"),
    "half a box": ({"budget": 2.5}, "budget=2.5 is not accepted: give a whole number"),
    "ratio": ({"budget": None, "ratio": 1.5}, "ratio=1.5 is not accepted"),
    "both": ({"ratio": 0.5}, "Exactly one of ratio and budget"),
    "overshoot": ({"overshoot": "always"}, "overshoot='always' is not accepted: give 'never' or 'last'"),
    "no objects": ({"objects": None}, "budget_unit='boxes' is not accepted for a pool without objects"),
    "other images": ({"objects": "fewer"}, "objects .*of 3 |A pool needs one positive number"),
    "no images": ({"group_duplicates": True}, "group_duplicates=True compares images and the pool has none"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_in_one_line(case: str) -> None:
    given, message = BAD[case]
    given = {"budget": 20, "budget_unit": "boxes"} | given
    dear = Objects([0] * 3 + [1] * 4, [[0, 0, 4, 4]] * 7, [0] * 7, num_images=IMAGES)
    tables = {"dear": dear, "fewer": crowded_pool(3, 2)}
    objects = given.pop("objects", OBJECTS)
    with pytest.raises(ValueError, match=message) as raised:
        select(Pool(FEATURES, objects=tables.get(objects) if isinstance(objects, str) else objects),
               method="random", **given)  # fmt: skip
    assert "\n" not in str(raised.value)


def test_a_budget_above_what_is_expected_takes_all_and_says_so() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = run("random", replace(PROPOSALS, units=None), budget=10_000)
    assert len(found) == IMAGES
    assert any("by estimate" in str(warning.message) for warning in caught)


@pytest.mark.parametrize("method", ["csod", "ofds", "class_balance", "uniform", "random", "k_center"])
def test_objects_come_from_the_surroundings_where_the_pool_has_none(method: str) -> None:
    asked: list[int] = []

    def objects() -> Objects:
        asked.append(1)
        return OBJECTS

    selector = build_selector(method, {})
    found = selector.select(Pool(FEATURES), 40, budget_unit="boxes", context=SelectionContext(objects=objects))
    assert torch.equal(found.indices, select(Pool(FEATURES, objects=OBJECTS), method=method, budget=40,
                                             budget_unit="boxes").indices)  # fmt: skip
    assert asked == [1]
    with pytest.raises(ValueError, match="objects are those of 3 images and the pool has 60"):
        selector.select(
            Pool(FEATURES), 40, budget_unit="boxes", context=SelectionContext(objects=lambda: crowded_pool(3, 2))
        )


def test_embedding_on_demand_embeds_no_image_twice() -> None:
    asked: list[int] = []

    def embed(positions: torch.Tensor) -> torch.Tensor:
        asked.extend(positions.tolist())
        return FEATURES[positions]

    # Dear images, so that it takes several selections to spend the budget.
    units = torch.full((IMAGES,), 30.0)
    units[::7] = 1.0
    objects = replace(OBJECTS, units=units)
    for method in ("k_center", "herding"):
        asked.clear()
        context = SelectionContext(embed=embed)
        lazily = build_selector(method, {}).select(
            Pool(labels=LABELS, objects=objects), 65, budget_unit="boxes", context=context
        )
        assert torch.equal(lazily.indices, run(method, objects, budget=65).indices)
        assert len(asked) == len(set(asked)) <= IMAGES
