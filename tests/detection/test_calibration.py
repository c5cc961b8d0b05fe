"""Thresholds: lists with a known answer, brute force, and the small file."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_coreset import CoresetError
from lightning_coreset.detection import Calibration, Objects, UnitEstimate, calibrate, fit_units, true_units
from lightning_coreset.detection.matching import match
from tests.helpers import references_calibration as references

BOX = [0.0, 0.0, 4.0, 4.0]


def set_of(hits: list[int], scores: list[float], missed: int = 0) -> tuple[Objects, Objects]:
    """Proposals of images of their own, right or wrong, and their annotations."""
    count = len(hits)
    images = count + missed
    proposals = Objects(range(count), [BOX] * count, [0] * count, num_images=images, scores=scores)
    true = [image for image in range(count) if hits[image]] + list(range(count, images))
    return proposals, Objects(true, [BOX] * len(true), [0] * len(true), num_images=images)


def falling(count: int) -> list[float]:
    return [1 - place / 128 for place in range(count)]


def random_set(seed: int) -> tuple[Objects, Objects]:
    generator = np.random.default_rng(seed)
    images, classes = 6, 3
    sides: dict[str, dict[str, Any]] = {}
    for side, count in (("proposals", 60), ("truth", 30)):
        corner = generator.integers(0, 12, (count, 2))
        sides[side] = {
            "image": generator.integers(0, images, count),
            "boxes": np.concatenate([corner, corner + generator.integers(3, 9, (count, 2))], axis=1),
            "labels": generator.integers(0, classes, count),
            "num_images": images,
            "class_names": list("abc"),
        }
    scores = generator.integers(1, 20, 60) / 20
    return Objects(**sides["proposals"], scores=scores), Objects(**sides["truth"], crowd=generator.random(30) < 0.2)


def as_rows(objects: Objects, column: Any) -> list[Any]:
    return list(
        zip(objects.image.tolist(), objects.labels.tolist(), objects.boxes.tolist(), column.tolist(), strict=True)
    )


@pytest.mark.parametrize("seed", range(30))
def test_matching_is_that_of_a_plain_loop(seed: int) -> None:
    proposals, truth = random_set(seed)
    found = match(proposals, truth)
    expected = references.matches(as_rows(proposals, proposals.scores), as_rows(truth, truth.crowd))
    assert sorted(zip(found.scores.tolist(), found.hits.tolist(), strict=True)) == sorted(expected)
    assert int(found.objects.sum()) == int((~truth.crowd).sum())


@pytest.mark.parametrize("seed", range(30))
def test_thresholds_are_those_of_brute_force(seed: int) -> None:
    proposals, truth = random_set(seed)
    found = references.matches(as_rows(proposals, proposals.scores), as_rows(truth, truth.crowd))
    f1 = calibrate(proposals, truth, "f1")
    assert f1.threshold == references.f1_threshold(found, int((~truth.crowd).sum()))
    for wrong in (0.4, 0.6, 0.8):
        expected = references.precision_threshold(found, wrong, 20)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            threshold = calibrate(proposals, truth, false_positives=wrong).threshold
        assert bool(caught) == (expected is None)
        assert expected is None or threshold == expected


def test_the_lowest_threshold_that_holds() -> None:
    hits = [1] * 30 + [0] + [1] * 19 + [0, 0, 0] + [1] * 5
    calibration = calibrate(*set_of(hits, falling(len(hits)), missed=5), reference="made up")
    # 2 wrong of 51 hold, 3 of 52 do not; so would 4 of 58, which lie below that.
    assert calibration.threshold == falling(51)[-1]
    assert calibration.precision == 49 / 51
    assert calibration.recall == 49 / 59
    assert (calibration.detections, calibration.objects) == (51, 59)
    assert (calibration.rule, calibration.reference) == ("precision", "made up")


def test_a_few_wrong_ones_at_the_top_do_not_break_the_rule() -> None:
    hits = [0] + [1] * 40
    assert calibrate(*set_of(hits, falling(41))).threshold == falling(41)[-1]


def test_a_threshold_below_one_that_breaks_the_rule_does_not_count() -> None:
    # 2 wrong of 39 are too many; 2 of 40 and of all others below would hold again.
    hits = [1] * 37 + [0, 0] + [1] * 20
    assert calibrate(*set_of(hits, falling(59))).threshold == falling(38)[-1]


def test_equal_scores_are_kept_together() -> None:
    hits = [1] * 20 + [0] * 2
    scores = [0.75] * 20 + [0.5] * 2
    assert calibrate(*set_of(hits, scores)).threshold == 0.75


def test_out_of_reach_gives_the_best_and_a_warning() -> None:
    hits = [1, 0] * 30
    with pytest.warns(UserWarning, match=r"No threshold keeps false positives at 5% from there up on made up"):
        calibration = calibrate(*set_of(hits, falling(60)), reference="made up")
    # 11 of 21 are right, more than a half; of fewer than 20 nobody can say.
    assert calibration.threshold == falling(21)[-1]


def test_short_lists_are_taken_as_they_are() -> None:
    assert calibrate(*set_of([1, 1, 0], [0.75, 0.5, 0.25])).threshold == 0.5


def test_f1_ties_go_to_the_higher_threshold() -> None:
    # F1 is 2/3 after the first and after the fourth.
    assert calibrate(*set_of([1, 0, 0, 1], [0.9, 0.75, 0.5, 0.25]), "f1").threshold == pytest.approx(0.9)


def test_classes_with_enough_objects_get_a_threshold_of_their_own() -> None:
    first, true_first = set_of([1] * 50 + [0] * 5, falling(55))
    second, true_second = set_of([1] * 10, [0.25] * 10)
    both, truth = (
        Objects(
            image=torch.cat([one.image, other.image + 55]),
            boxes=torch.cat([one.boxes, other.boxes]),
            labels=torch.cat([one.labels, other.labels + 1]),
            num_images=65,
            scores=None if one.scores is None else torch.cat([one.scores, other.scores]),
            class_names=["many", "few"],
        )
        for one, other in ((first, second), (true_first, true_second))
    )
    calibration = calibrate(both, truth, per_class=True)
    assert list(calibration.thresholds) == ["many"]
    kept = calibration.keep(both)
    assert kept.scores is not None
    assert float(kept.scores[kept.labels == 0].min()) == pytest.approx(calibration.thresholds["many"])
    assert calibration.detections == len(kept)


def test_classes_are_matched_by_name() -> None:
    proposals, truth = random_set(0)
    renamed = Objects(
        truth.image, truth.boxes, 2 - truth.labels, truth.num_images, crowd=truth.crowd, class_names=list("cba")
    )
    assert calibrate(proposals, truth, "f1") == calibrate(proposals, renamed, "f1")


def test_classes_that_one_side_does_not_know_do_not_count() -> None:
    proposals, truth = random_set(1)
    kept = truth.where(truth.labels < 2)
    fewer = Objects(kept.image, kept.boxes, kept.labels, kept.num_images, crowd=kept.crowd, class_names=["a", "b"])
    part = proposals.where(proposals.labels < 2)
    assert calibrate(proposals, fewer, "f1") == calibrate(part, fewer, "f1")


def test_a_file_and_back(tmp_path: Path) -> None:
    calibration = calibrate(*random_set(2), "f1", reference="a set, 2026", per_class=True, proposer="key")
    for path in (tmp_path / "deep" / "calibration.json", "memory://calibration.json"):
        calibration.save(path)
        assert Calibration.load(path) == calibration


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format": 2, "units": null}', '{"format": 1, "units": 3}'])
def test_files_that_are_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(CoresetError, match="is no calibration"):
        Calibration.load(tmp_path / "a.json")
    with pytest.raises(CoresetError, match="is no calibration"):
        Calibration.load(tmp_path / "missing.json")


def test_what_people_drew_is_always_kept() -> None:
    truth = random_set(0)[1]
    assert len(Calibration(1.0, "f1", "").keep(truth)) == len(truth)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, t: calibrate(p, t, "recall"), "rule='recall' is not accepted"),
        (lambda p, t: calibrate(p, t.subset([0])), "proposals are of 6 images and annotations of 1"),
        (lambda p, t: calibrate(t, t), "proposals have no scores"),
        (lambda p, t: calibrate(p.where(p.labels > 3), t), "0 proposals and .* nothing to calibrate by"),
        (
            lambda p, t: calibrate(p, Objects([0], [BOX], [0], num_images=6, class_names=["z"])),
            "which is no class in common",
        ),
    ],
)
def test_what_cannot_be_calibrated(change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        change(*random_set(0))
    assert "\n" not in str(caught.value)


class TestUnits:
    def test_least_squares(self) -> None:
        proposals, truth = random_set(3)
        assert proposals.scores is not None
        sums = np.bincount(proposals.image.numpy(), proposals.scores.double().numpy(), minlength=6)
        units = np.bincount(truth.image.numpy(), minlength=6)
        slope, constant = np.polyfit(sums, units, 1)
        found = fit_units(proposals, truth)
        assert found.per_score == pytest.approx(slope)
        assert found.per_image == pytest.approx(constant)
        assert float(found.of(proposals).sum()) == pytest.approx(units.sum())

    def test_crowds_cost_unless_they_are_not_to_count(self) -> None:
        truth = random_set(3)[1]
        assert truth.crowd is not None
        assert float(true_units(truth).sum()) == 30
        assert float(true_units(truth, count_crowd=False).sum()) == int((~truth.crowd).sum())

    def test_equal_sums_leave_the_mean(self) -> None:
        proposals, truth = set_of([1, 1, 0], [0.5] * 3)
        assert fit_units(proposals, truth) == UnitEstimate(pytest.approx(2 / 3), 0.0)

    def test_never_negative(self) -> None:
        proposals = set_of([1, 0], [0.5, 0.25])[0]
        assert UnitEstimate(-1.0, 3.0).of(proposals).tolist() == [0.5, 0.0]
