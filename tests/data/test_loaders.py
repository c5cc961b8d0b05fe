"""Reading a train loader, and building the same one over fewer items."""

from typing import Any

import pytest
import torch
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from lightning_coreset.data.loaders import WeightedItems, check_batches, read_train_loader, reduced_loader
from lightning_coreset.errors import CoresetError, UnsupportedSourceError

DATA = TensorDataset(torch.arange(20))


def reduced(loader: DataLoader, kept: list[int]) -> DataLoader:
    template = read_train_loader(loader)
    return reduced_loader(template, torch.utils.data.Subset(template.dataset, kept), kept)


def test_a_subset_sampler_is_the_pool() -> None:
    template = read_train_loader(DataLoader(DATA, sampler=SubsetRandomSampler([3, 5, 7, 9])))
    assert [int(template.dataset[place][0]) for place in range(template.size)] == [3, 5, 7, 9]
    loader = reduced(DataLoader(DATA, batch_size=2, sampler=SubsetRandomSampler([3, 5, 7, 9])), [0, 2])
    assert sorted(torch.cat([batch[0] for batch in loader]).tolist()) == [3, 7]


def test_a_weighted_sampler_keeps_the_weights_of_what_is_left() -> None:
    weights = [0.0] * 10 + [1.0] * 10
    loader = reduced(DataLoader(DATA, sampler=WeightedRandomSampler(weights, 40)), [8, 9, 10, 11])
    drawn = torch.cat([batch[0] for batch in loader])
    assert set(drawn.tolist()) == {10, 11}
    assert len(drawn) == 8, "two draws an item, as before"


def test_a_distributed_sampler_is_made_again_for_the_smaller_set() -> None:
    old = DistributedSampler(DATA, num_replicas=2, rank=1, shuffle=True, seed=5, drop_last=True)
    sampler = reduced(DataLoader(DATA, sampler=old), [1, 2, 3, 4]).sampler
    assert isinstance(sampler, DistributedSampler)
    assert (sampler.num_replicas, sampler.rank, sampler.shuffle, sampler.seed, len(sampler)) == (2, 1, True, 5, 2)


class Curriculum(Sampler[int]):
    def __iter__(self) -> Any:
        return iter(range(20))

    def __len__(self) -> int:
        return 20


@pytest.mark.parametrize(
    "sampler", [Curriculum(), RandomSampler(DATA, replacement=True), RandomSampler(DATA, num_samples=5)]
)
def test_other_samplers_are_refused(sampler: Sampler[int]) -> None:
    with pytest.raises(UnsupportedSourceError, match=f"draws with a {type(sampler).__name__}.*shuffle=True or False"):
        read_train_loader(DataLoader(DATA, sampler=sampler))


@pytest.mark.parametrize(("count", "ranks", "fits"), [(8, 1, True), (7, 1, False), (15, 2, True), (14, 2, False)])
def test_a_dropped_last_batch(count: int, ranks: int, fits: bool) -> None:
    loader = DataLoader(DATA, batch_size=8, drop_last=True)
    if fits:
        check_batches(count, loader, None, ranks)
        return
    with pytest.raises(CoresetError, match=f"keep at least {7 * ranks + 1}"):
        check_batches(count, loader, None, ranks)


@pytest.mark.parametrize(
    ("item", "weighted"),
    [
        ({"image": 1}, {"image": 1, "weight": 0.5}),
        ((1, 2), (1, 2, 0.5)),
        ([1, 2], (1, 2, 0.5)),
        (1, (1, 0.5)),
    ],
)
def test_weights_join_items_of_any_form(item: Any, weighted: Any) -> None:
    assert WeightedItems([item], torch.tensor([0.5]))[0] == weighted


def test_workers_settings_are_left_out_without_workers() -> None:
    template = read_train_loader(DataLoader(DATA, num_workers=1, prefetch_factor=4, persistent_workers=True, timeout=3))
    loader = reduced_loader(template, DATA, list(range(20)), num_workers=0)
    assert (loader.num_workers, loader.prefetch_factor, loader.persistent_workers, loader.timeout) == (
        0,
        None,
        False,
        0,
    )
