"""How hard classes are for a detector on labelled images, and what the query "ppal" makes of it."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_coreset import ActiveLearningDataModule, CoresetError
from lightning_coreset.active import CallableOracle, DatasetOracle, Detections, QueryContext
from lightning_coreset.active.detecting import class_difficulty
from lightning_coreset.active.queries import resolve_query, run_query
from tests.helpers.detection_parts import SceneSet, ScenesSource
from tests.helpers.ranks import run_ranks
from tests.helpers.references_difficulty import difficulty as plain_difficulty

CLASSES = 10


class Eyes(nn.Module):
    """Something with a parameter and modes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Dropout(0.5)


def said(targets: list[dict[str, Tensor]], seed: int = 0, **columns: Any) -> Detections:
    """The objects of some targets, each a little beside its place, with chances that follow from the place."""
    image = torch.repeat_interleave(torch.arange(len(targets)), torch.tensor([len(one["boxes"]) for one in targets]))
    corners = torch.cat([one["boxes"] for one in targets])
    labels = torch.cat([one["labels"] for one in targets])
    chances = (torch.sin(corners[:, :1] * 7 + torch.arange(CLASSES) + seed) + 1) / 4
    chances[torch.arange(len(labels)), labels] += 0.4
    moved = corners + torch.tensor([1.0, -1.0, 2.0, 1.0])
    return Detections(image, chances, chances, len(targets), moved, **columns)


def detect(module: Eyes, items: list[Any], **columns: Any) -> Detections:
    assert not module.training
    return said([target for _, target in items], **columns)


def hard(dataset: Any, detect: Any = detect, reducer: Any = None, **settings: Any) -> Any:
    if reducer is None:
        return run_ranks(1, lambda only: class_difficulty(Eyes(), detect, dataset, reducer=only, **settings))[0]
    return class_difficulty(Eyes(), detect, dataset, reducer=reducer, **settings)


def test_as_in_plain_loops() -> None:
    scenes = SceneSet(30)
    images = []
    for target in scenes.targets:
        found = said([target])
        boxes = list(zip(found.boxes.tolist(), found.probabilities.tolist(), strict=True))
        images.append((boxes, list(zip(target["boxes"].tolist(), target["labels"].tolist(), strict=True))))
    expected = plain_difficulty(images, CLASSES)
    assert torch.allclose(hard(scenes), torch.tensor(expected, dtype=torch.float64), atol=1e-6)
    assert len({round(value, 6) for value in expected}) > 5


def test_ranks_and_batches_do_not_matter() -> None:
    scenes = SceneSet(7)
    one = hard(scenes, batch_size=2)
    for ranks in (2, 3, 9):
        for found in run_ranks(ranks, lambda reducer: hard(scenes, reducer=reducer, batch_size=3)):
            assert torch.equal(found, one)


def test_what_nobody_knows_is_as_hard_as_can_be() -> None:
    scenes = SceneSet(6)
    shown = torch.bincount(torch.cat([target["labels"] for target in scenes.targets]), minlength=CLASSES) > 0
    assert 0 < int(shown.sum()) < CLASSES
    found = hard(scenes)
    assert bool((found[~shown] == 1).all())
    assert bool((found[shown] < 1).all())
    blind = hard(
        scenes,
        lambda _, items: Detections(
            torch.zeros(0, dtype=torch.int64), torch.zeros(0, CLASSES), None, len(items), torch.zeros(0, 4)
        ),
    )
    assert bool((blind == 1).all())


def test_targets_may_count_from_one() -> None:
    scenes, others = SceneSet(12), SceneSet(12)
    others.targets = [{**target, "labels": target["labels"] + 1} for target in others.targets]

    def from_one(module: Eyes, items: list[Any]) -> Detections:
        own = [{**target, "labels": target["labels"] - 1} for _, target in items]
        return said(own, class_ids=range(1, CLASSES + 1))

    assert torch.equal(hard(others, from_one), hard(scenes))

    def without_saying_so(module: Eyes, items: list[Any]) -> Detections:
        return replace(from_one(module, items), class_ids=None)

    others.targets[0] = {"boxes": torch.tensor([[0.0, 0.0, 9.0, 9.0]]), "labels": torch.tensor([10])}
    with pytest.raises(
        CoresetError, match=r"Labelled images show classes \[10\] and detect= knows .*: give .*class_ids="
    ):
        hard(others, without_saying_so)


def test_crowds_are_left_out() -> None:
    scenes, others = SceneSet(12), SceneSet(12)
    others.targets = [
        {
            "boxes": torch.cat([target["boxes"], torch.tensor([[0.0, 0.0, 90.0, 90.0]])]),
            "labels": torch.cat([target["labels"], torch.tensor([0])]),
            "iscrowd": torch.tensor([0] * len(target["boxes"]) + [1]),
        }
        for target in others.targets
    ]

    def by_scenes(module: Eyes, items: list[Any]) -> Detections:
        return said([{key: value[:-1] for key, value in target.items()} for _, target in items])

    assert torch.equal(hard(others, by_scenes), hard(scenes))


def test_without_corners_all_classes_weigh_alike() -> None:
    assert hard(SceneSet(6), lambda module, items: replace(detect(module, items), boxes=None)) is None
    assert hard([]) is None


class TestInTheLoop:
    def context(self, budget_unit: str = "images", count: int = 4, **settings: Any) -> QueryContext:
        oracle = settings.pop("oracle", DatasetOracle())
        datamodule = ActiveLearningDataModule(
            ScenesSource(40), oracle=oracle, budget=5, budget_unit=budget_unit, cache_dir=None
        )
        datamodule.setup("fit")
        datamodule.ask(torch.arange(20), round=0)
        return QueryContext(datamodule, Eyes(), None, count=count, round=1, **({"detect": detect} | settings))

    @pytest.mark.parametrize("wrong", [0, 1])
    def test_images_of_hard_classes_are_asked_for(self, wrong: int) -> None:
        """Even images show one class and odd ones another, both as unsure; one is seen beside its place."""

        def two_classes(module: Eyes, items: list[Any]) -> Detections:
            kinds = torch.tensor([int(image.sum() * 1_000) % 2 for image, _ in items])
            chances = torch.full((len(items), 2), 0.1)
            chances[torch.arange(len(items)), kinds] = 0.5
            places = torch.tensor(
                [[90.0, 90.0, 99.0, 99.0] if kind == wrong else [0.0, 0.0, 9.0, 9.0] for kind in kinds]
            )
            return Detections(torch.arange(len(items)), chances, torch.randn(len(items), 3), len(items), places)

        context = self.context(count=2, detect=two_classes, oracle=CallableOracle(self.kinds))
        dataset = context.datamodule._pool_dataset
        chosen = run_query(resolve_query("ppal"), context).tolist()
        assert [int(dataset[place][0].sum() * 1_000) % 2 for place in chosen] == [wrong] * 2

    @staticmethod
    def kinds(ids: list[int]) -> list[dict[str, Tensor]]:
        scenes = SceneSet(40)
        kinds = [int(scenes[place][0].sum() * 1_000) % 2 for place in ids]
        return [{"boxes": torch.tensor([[0.0, 0.0, 9.0, 9.0]]), "labels": torch.tensor([kind])} for kind in kinds]

    def test_returned_targets_are_the_truth(self) -> None:
        """Annotators say that there is nothing: nothing is known of any class."""
        empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
        context = self.context(oracle=CallableOracle(lambda ids: [empty for _ in ids]))
        by_dataset = self.context().difficulty()
        found = context.difficulty()
        assert bool((found == 1).all())
        assert bool((by_dataset < 1).any())

    def test_how_many_images_a_budget_pays_for(self) -> None:
        assert self.context(count=10).images_expected == 10
        by_boxes = self.context("boxes", count=10)
        mean = by_boxes.pool.units_spent / 20
        assert mean > 1.5
        assert by_boxes.images_expected == -int(-10 // mean)
        assert self.context("boxes", count=1).images_expected == 1


def test_columns_that_do_not_fit() -> None:
    found = said(SceneSet(3).targets)
    assert found.boxes is not None
    with pytest.raises(ValueError, match=r"with corners \[1, 4\]: give x1, y1, x2, y2"):
        replace(found, boxes=found.boxes[:1])
    with pytest.raises(ValueError, match="class_ids names 3 classes and probabilities have 10 columns"):
        replace(found, class_ids=range(3))
