"""Queries for detection, against plain numpy and as laws over tables of boxes."""

import numpy as np
import pytest
import torch
from torch import nn

from lightning_coreset import CoresetError
from lightning_coreset.active import QueryContext
from lightning_coreset.active.detecting import detect_all
from lightning_coreset.active.detections import (
    Detections,
    box_entropy,
    detection_uncertainty,
    difficulty_weights,
    match_similarity,
    ppal,
)
from lightning_coreset.active.queries import resolve_query, run_query
from tests.active.parts import NoisyNet, looped, opened, pooled
from tests.helpers.lightning_parts import digit_tensors
from tests.helpers.ranks import run_ranks
from tests.helpers.references_active import match_similarity as plain_similarity


def boxes(images: int = 12, most: int = 5, classes: int = 3, seed: int = 0) -> Detections:
    """Random boxes; some images have none."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, most + 1, (images,), generator=generator)
    image = torch.repeat_interleave(torch.arange(images), counts)
    image = image[torch.randperm(len(image), generator=generator)]
    probabilities = torch.rand(len(image), classes, generator=generator)
    return Detections(image, probabilities, torch.randn(len(image), 6, generator=generator), images)


def test_entropy_of_a_box() -> None:
    shares = torch.rand(20, 4, dtype=torch.float64)
    p = shares.numpy()
    assert np.allclose(box_entropy(shares), -(p * np.log(p) + (1 - p) * np.log(1 - p)).sum(axis=1))
    one = torch.tensor([[0.25, 0.25], [1.0, 0.0]])
    expected = [-(0.25 * np.log(0.25) * 2 + 0.5 * np.log(0.5)), 0.0]
    assert np.allclose(box_entropy(one, independent=False), expected)


@pytest.mark.parametrize("reduce", ["sum", "max"])
def test_an_image_is_the_sum_or_the_largest_of_its_boxes(reduce: str) -> None:
    found = boxes()
    weights = torch.tensor([1.0, 2.0, 0.5])
    values = (box_entropy(found.probabilities) * weights[found.classes]).numpy()
    together = {"sum": np.sum, "max": np.max}[reduce]
    expected = [
        together(values[(found.image == image).numpy()]) if (found.image == image).any() else 0.0 for image in range(12)
    ]
    assert np.allclose(detection_uncertainty(found, reduce, class_weights=weights), expected)
    assert 0.0 in expected, "an image without boxes"


def test_hard_classes_weigh_more_and_easy_ones_one() -> None:
    weights = difficulty_weights(torch.linspace(0, 1, 9))
    assert weights[0] == 1
    assert bool((weights.diff() > 0).all())
    assert weights[-1] == pytest.approx(1 + 0.3 * 0.2 * (1 / 0.3))


def test_similarity_is_that_of_plain_loops() -> None:
    found = boxes(seed=3)
    parts = [(found.image == image).numpy() for image in range(12)]
    columns = [
        [column.numpy()[part] for part in parts]
        for column in (found.classes, found.features.double(), found.scores.double())
    ]
    for image in range(12):
        if not parts[image].any():
            continue
        expected = [plain_similarity(*columns, other, image) for other in range(12)]
        assert np.allclose(match_similarity(found, image), expected)


def test_it_is_symmetric_and_one_with_itself() -> None:
    found = boxes(seed=4)
    rows = torch.stack([match_similarity(found, image) for image in range(12)])
    assert torch.allclose(rows, rows.T)
    shown = torch.bincount(found.image, minlength=12) > 0
    assert torch.allclose(rows.diagonal()[shown], torch.ones(int(shown.sum()), dtype=torch.float64))


class TestPPAL:
    def test_picks_are_distinct_and_among_the_most_uncertain(self) -> None:
        found = boxes(60, seed=1)
        picks = ppal(found, 5, multiple=3)
        order = detection_uncertainty(found).argsort(descending=True)
        assert len(set(picks.tolist())) == 5
        assert set(picks.tolist()) <= set(order[:15].tolist())
        assert picks[0] == order[0]

    def test_the_order_of_boxes_does_not_matter(self) -> None:
        found = boxes(40, seed=2)
        order = torch.randperm(len(found.image), generator=torch.Generator().manual_seed(0))
        mixed = Detections(found.image[order], found.probabilities[order], found.features[order], 40)
        assert ppal(found, 6, seed=1).tolist() == ppal(mixed, 6, seed=1).tolist()

    def test_with_a_multiple_of_one_it_is_the_order_of_uncertainty(self) -> None:
        found = boxes(30, seed=5)
        order = detection_uncertainty(found).argsort(descending=True, stable=True)
        assert set(ppal(found, 6, multiple=1).tolist()) == set(order[:6].tolist())

    def test_images_alike_are_not_both_picked_while_others_are_left(self) -> None:
        """Ten copies of one image and one that is different: the second pick is that one."""
        image = torch.arange(11)
        features = torch.eye(2)[[0] * 10 + [1]]
        probabilities = torch.full((11, 1), 0.5)
        assert set(ppal(Detections(image, probabilities, features, 11), 2, multiple=9).tolist()) == {0, 10}

    def test_classes_that_are_hard_come_first(self) -> None:
        image = torch.arange(4)
        probabilities = torch.tensor([[0.5, 0.1], [0.1, 0.5], [0.5, 0.1], [0.1, 0.5]])
        found = Detections(image, probabilities, torch.eye(4), 4)
        weights = difficulty_weights(torch.tensor([0.0, 1.0]))
        assert set(ppal(found, 2, multiple=1, class_weights=weights).tolist()) == {1, 3}

    def test_no_boxes_at_all(self) -> None:
        empty = Detections(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2), torch.zeros(0, 3), 5)
        assert len(set(ppal(empty, 3).tolist())) == 3

    @pytest.mark.parametrize("settings", [{"count": 0}, {"count": 99}, {"count": 2, "multiple": 0.5}])
    def test_bad_numbers(self, settings) -> None:
        with pytest.raises(ValueError, match="are not accepted: give 1 to 12"):
            ppal(boxes(), **settings)


def test_tables_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="give one row a box"):
        Detections(torch.tensor([0, 5]), torch.rand(2, 3), None, 3)
    with pytest.raises(ValueError, match="give one row a box"):
        Detections(torch.tensor([0, 1]), torch.rand(3, 3), None, 3)
    with pytest.raises(ValueError, match="without features say nothing"):
        match_similarity(Detections(torch.tensor([0]), torch.rand(1, 3), None, 3), 0)


class Detector(nn.Module):
    """Three boxes for each image, in its corners; in training it says other things."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 2)
        self.dropout = nn.Dropout(0.5)


def detect(module: Detector, items: list) -> Detections:
    corners = torch.stack(
        [
            item[0][0, top : top + 4, left : left + 4].flatten()
            for item in items
            for top, left in ((0, 0), (0, 4), (4, 0))
        ]
    )
    image = torch.arange(len(items)).repeat_interleave(3)
    return Detections(image, module.head(module.dropout(corners)).sigmoid(), corners, len(items))


class TestInTheLoop:
    def context(self, **settings) -> QueryContext:
        datamodule = opened()
        datamodule.pool.label(range(20))
        torch.manual_seed(0)
        return QueryContext(datamodule, Detector(), None, count=4, round=1, **({"detect": detect} | settings))

    @pytest.mark.parametrize("name", ["ppal", "box_sum", "box_max"])
    def test_batches_do_not_matter_and_the_module_is_left_as_it_was(self, name: str) -> None:
        chosen = []
        for size in (7, 64):
            asked = self.context(batch_size=size)
            chosen.append(run_query(resolve_query(name), asked).tolist())
            assert all(part.training for part in asked.module.modules())
        assert chosen[0] == chosen[1]
        assert not set(chosen[0]) & set(range(20))

    def test_ranks_hold_what_one_holds(self) -> None:
        images, _ = digit_tensors(30)
        torch.manual_seed(0)
        module = Detector()
        positions = torch.arange(3, 20)

        def work(reducer):
            return detect_all(
                module, detect, [(image, 0) for image in images], positions, batch_size=4, reducer=reducer
            )

        (one,) = run_ranks(1, work)
        for found in run_ranks(3, work):
            for column in ("image", "probabilities", "features"):
                assert torch.allclose(getattr(found, column), getattr(one, column), atol=1e-6)
            assert found.num_images == 17

    def test_nobody_detects(self) -> None:
        with pytest.raises(ValueError, match="looks at boxes: give detect="):
            run_query(resolve_query("ppal"), self.context(detect=None))
        with pytest.raises(CoresetError, match="detect= gave list for 64 items: return Detections"):
            run_query(resolve_query("ppal"), self.context(detect=lambda module, items: []))

    def test_rounds(self, tmp_path) -> None:
        class Both(NoisyNet):
            def __init__(self) -> None:
                super().__init__()
                self.head, self.dropout = nn.Linear(16, 2), nn.Dropout(0.5)

        reports = looped(tmp_path, pooled(), query="ppal", module_factory=Both, detect=detect).run()
        assert [line["images"] for line in reports] == [12, 18, 24]
