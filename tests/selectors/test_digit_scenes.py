"""Detection methods on scenes of real digits: long-tailed classes, a fifth near duplicates, a few empty images."""

import functools
import statistics
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_align

from lightning_coreset import Coreset, Pool, SelectionContext, select
from lightning_coreset.data import thumbnails
from lightning_coreset.detection import Objects
from lightning_coreset.ops import duplicate_groups
from lightning_coreset.ops.rows import normalize_rows
from lightning_coreset.registry import build_selector
from tests.helpers.digit_scenes import DigitScenes, digit_scenes

SEEDS = (0, 1)
RARE = slice(6, 10)


@functools.cache
def scenes(seed: int) -> tuple[DigitScenes, Objects]:
    """Scenes, and their boxes with the pixels inside as features: what is lighter or darker is alike."""
    found = digit_scenes(700, seed=seed, size=64)
    grey = found.images.float().mean(dim=1, keepdim=True)
    crops = roi_align(grey, [target["boxes"] for target in found.targets], 8, sampling_ratio=2).flatten(1)
    rows = normalize_rows(crops - crops.mean(dim=1, keepdim=True))
    return found, Objects.from_targets(found.targets, class_names=found.class_names, features=rows)


def chosen(method: str, seed: int, share: float = 0.15, **arguments: Any) -> Coreset:
    _, objects = scenes(seed)
    return select(Pool(objects=objects), method=method, ratio=share, budget_unit="boxes", seed=seed, **arguments)


def distance(seed: int, coreset: Coreset) -> float:
    """Mean cosine distance from every object to the nearest one on a chosen image."""
    _, objects = scenes(seed)
    assert objects.features is not None
    mine = torch.isin(objects.image, coreset.indices)
    return float((1 - (objects.features @ objects.features[mine].T).amax(dim=1)).mean())


def pairs(seed: int, coreset: Coreset) -> int:
    return scenes(seed)[0].duplicate_pairs(coreset.indices)


def mean(values: list[float]) -> float:
    return statistics.mean(values)


def test_clustering_pays_against_random_objects_of_the_same_classes() -> None:
    centroid, random = ([chosen("ofds", seed, pick=pick) for seed in SEEDS] for pick in ("centroid", "random"))
    repeated = [mean([pairs(seed, found[seed]) for seed in SEEDS]) for found in (centroid, random)]
    assert repeated[0] < repeated[1]
    away = [mean([distance(seed, found[seed]) for seed in SEEDS]) for found in (centroid, random)]
    assert away[0] < 0.95 * away[1]


@pytest.mark.parametrize("method", ["ofds", "class_balance", "csod"])
def test_rare_classes_and_balance_against_random(method: str) -> None:
    balance, rare, missing = [], [], []
    for seed in SEEDS:
        found = chosen(method, seed).manifest["objects"]
        draws = [
            select(Pool(objects=scenes(seed)[1]), method="random", ratio=0.15, budget_unit="boxes", seed=draw)
            for draw in range(5)
        ]
        told = [draw.manifest["objects"] for draw in draws]
        balance.append(found["class_balance"] / mean([one["class_balance"] for one in told]))
        rare.append(sum(found["per_class"][RARE]) / mean([sum(one["per_class"][RARE]) for one in told]))
        missing += [label for label in found["missing_classes"] if found["pool_per_class"][label] >= 5]
    assert mean(balance) >= 1.25
    assert mean(rare) >= 1.8
    assert missing == []


def test_every_class_is_there_at_five_percent() -> None:
    for seed in SEEDS:
        assert chosen("ofds", seed, share=0.05).manifest["objects"]["missing_classes"] == []


def test_groups_are_the_scenes_and_none_is_chosen_twice() -> None:
    for seed in SEEDS:
        found, objects = scenes(seed)
        groups = duplicate_groups(thumbnails(found.images))
        same = groups.unsqueeze(0) == groups.unsqueeze(1)
        assert torch.equal(same, found.groups.unsqueeze(0) == found.groups.unsqueeze(1))
        for method in ("ofds", "csod", "class_balance", "random"):
            coreset = build_selector(method, {}).select(
                Pool(objects=objects), 300, budget_unit="boxes", context=SelectionContext(duplicates=groups)
            )
            assert pairs(seed, coreset) == 0


def test_the_order_of_scenes_does_not_matter_where_they_have_names() -> None:
    _, objects = scenes(0)
    names = [f"scene {place:04d}" for place in range(700)]
    order: Tensor = torch.randperm(700, generator=torch.Generator().manual_seed(5))
    given: dict[str, Any] = {"method": "ofds", "ratio": 0.1, "budget_unit": "boxes"}
    straight = select(Pool(objects=objects, ids=names), **given)
    mixed = select(Pool(objects=objects.subset(order), ids=[names[place] for place in order]), **given)
    assert torch.equal(order[mixed.indices], straight.indices)
