"""Balance by counts against a naive greedy, and what it promises."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from lightning_coreset import Coreset, Pool, select
from lightning_coreset.detection import UnitEstimate
from lightning_coreset.detection.report import class_balance
from tests.helpers import references_detection as reference
from tests.helpers.detection_examples import crowded_pool


def run(objects: Any, budget: int, **arguments: Any) -> Coreset:
    return select(Pool(objects=objects), method="class_balance", budget=budget, **arguments)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("unit", ["images", "boxes"])
def test_picks_are_those_of_a_naive_greedy(seed: int, unit: str) -> None:
    objects = crowded_pool(40, 5, seed=seed, scores=True)
    objects = replace(objects, units=crowded_pool(40, 5, seed=seed + 1).counts().sum(dim=1))
    kept = objects.where(objects.scores >= 0.4)  # type: ignore[operator]
    found = run(objects, 15, budget_unit=unit, threshold=0.4, charge="oracle", estimate=(0.5, 1.2))
    assert objects.units is not None
    prices = objects.units if unit == "boxes" else torch.ones(40)
    estimated = UnitEstimate(0.5, 1.2).of(objects) if unit == "boxes" else torch.ones(40)
    expected = reference.class_balance(kept.counts().numpy(), estimated.numpy(), prices.numpy(), 15)
    assert found.indices.tolist() == expected


def test_it_ends_where_nothing_helps() -> None:
    objects = crowded_pool(40, 3)
    found = run(objects, 40)
    assert sorted(found.indices.tolist()) == sorted(set(objects.image.tolist()))


def test_smaller_budgets_in_images_are_prefixes() -> None:
    objects = crowded_pool(60, 5)
    whole = run(objects, 30)
    for budget in (1, 7, 20):
        assert torch.equal(run(objects, budget).indices, whole.head(budget).indices)


def test_initial_objects_count() -> None:
    """With the rare class there already, the frequent one is the poorer."""
    objects = crowded_pool(60, 2, single=True)
    counts = objects.counts()
    rare = torch.nonzero(counts[:, 1] > 0).flatten().tolist()
    found = run(objects, 3, initial=rare[:-3])
    assert not set(found.indices.tolist()) & set(rare[:-3])
    assert counts[found.indices, 0].sum() > counts[found.indices, 1].sum()


def test_it_balances_better_than_random() -> None:
    objects = crowded_pool(300, 6)
    for share in (0.05, 0.15, 0.3):
        balanced = run(objects, None, ratio=share, budget_unit="boxes").manifest["objects"]["class_balance"]  # type: ignore[arg-type]
        draws = [
            select(Pool(objects=objects), method="random", ratio=share, budget_unit="boxes", seed=seed)
            for seed in range(5)
        ]
        assert balanced > 1.25 * sum(draw.manifest["objects"]["class_balance"] for draw in draws) / 5


@pytest.mark.parametrize("counts", [[3, 3, 3], [0, 0, 4], [1, 2, 4, 8], [0, 0, 0], [5], [7, 0, 7, 1]])
def test_the_score_is_a_mean_over_pairs(counts: list[int]) -> None:
    expected = reference.class_balance_score(torch.tensor(counts).numpy()) if len(counts) > 1 else 1.0
    assert class_balance(torch.tensor(counts)) == pytest.approx(expected)
