"""Sampling by weight from (seed, epoch) alone."""

import pytest
import torch

from lightning_coreset.distributed import EpochWeightedSampler

WEIGHTS = torch.tensor([0.0, 1.0, 2.0, 0.0, 5.0, 0.0])


def test_items_come_in_proportion_to_their_weights() -> None:
    sampler = EpochWeightedSampler(WEIGHTS.repeat(2000), seed=1)
    counts = torch.bincount(torch.tensor(list(sampler)) % 6, minlength=6)
    assert torch.allclose(counts / counts.sum(), WEIGHTS / WEIGHTS.sum(), atol=0.02)
    assert counts[WEIGHTS == 0].tolist() == [0, 0, 0]


def test_an_epoch_is_the_same_every_time_and_unlike_the_next() -> None:
    first, second = (EpochWeightedSampler(torch.ones(50), seed=3) for _ in range(2))
    torch.manual_seed(0)
    drawn = list(first)
    torch.manual_seed(1)
    assert list(second) == drawn == list(first)
    second.set_epoch(1)
    assert list(second) != drawn
    second.set_epoch(0)
    assert list(second) == drawn
    assert list(EpochWeightedSampler(torch.ones(50), seed=4)) != drawn


def test_the_global_random_state_is_not_touched() -> None:
    before = torch.get_rng_state()
    list(EpochWeightedSampler(WEIGHTS))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("ranks", [1, 2, 4, 5, 64])
def test_ranks_share_one_sequence(ranks: int) -> None:
    alone = list(EpochWeightedSampler(torch.arange(1.0, 14.0), seed=2))
    parts = [
        EpochWeightedSampler(torch.arange(1.0, 14.0), seed=2, num_replicas=ranks, rank=rank) for rank in range(ranks)
    ]
    assert len({len(part) for part in parts}) == 1
    assert all(len(part) == len(list(part)) for part in parts)
    dealt = [item for turn in zip(*parts, strict=True) for item in turn]
    assert dealt[:13] == alone
    assert len(dealt) - 13 < ranks


@pytest.mark.parametrize("wrong", [[-1.0, 2.0], [0.0, 0.0], [float("nan")], [float("inf")], [[1.0]], []])
def test_weights_that_are_none(wrong: list[float]) -> None:
    with pytest.raises(ValueError, match="give finite ones .*none negative, not all zero"):
        EpochWeightedSampler(torch.tensor(wrong))
