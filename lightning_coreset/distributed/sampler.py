"""Orders and draws that are the same on every machine and new in every epoch."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

from lightning_coreset.ops.random import seeded_generator


class EpochWeightedSampler(Sampler[int]):
    """Draws with replacement in proportion to weights, from a generator seeded by (seed, epoch).

    ``WeightedRandomSampler`` draws from the global generator, so ranks whose random states differ by one draw train
    on overlapping shards. Here every rank draws the same sequence; Lightning's distributed wrapper (or ``rank`` and
    ``num_replicas`` where that is switched off) deals it out, and ``set_epoch`` gives the next one.

    Args:
        weights: Weight of each item of the dataset ``[k]``, not negative, not all zero.
        seed: Together with the epoch, all the randomness there is.
        num_replicas: Ranks that share the sequence.
        rank: This rank.

    Raises:
        ValueError: Weights that are negative, not finite or all zero.

    Example:
        >>> sampler = EpochWeightedSampler(torch.tensor([0.0, 1.0]), seed=0)
        >>> list(sampler)
        [1, 1]
    """

    def __init__(self, weights: Tensor, *, seed: int = 0, num_replicas: int = 1, rank: int = 0) -> None:
        weights = torch.as_tensor(weights, dtype=torch.float64)
        if (
            weights.ndim != 1
            or not bool(torch.isfinite(weights).all())
            or bool((weights < 0).any())
            or weights.sum() <= 0
        ):
            msg = (
                f"Sampling weights of shape {list(weights.shape)} are not accepted: give finite ones [k], none "
                "negative, not all zero."
            )
            raise ValueError(msg)
        self.weights = weights
        self.seed = seed
        self.num_replicas = num_replicas
        self.rank = rank
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Draw the sequence of this epoch from now on (Lightning calls it)."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        """Positions of this rank's items."""
        # Rounded up, so that every rank gets the same number of items.
        uniform = torch.rand(
            len(self) * self.num_replicas,
            dtype=torch.float64,
            generator=seeded_generator(self.seed, "epoch", self.epoch),
        )
        cumulative = self.weights.cumsum(0)
        # By inversion: ``multinomial`` ends at 2^24 items.
        drawn = torch.searchsorted(cumulative, uniform * cumulative[-1], right=True).clamp_(max=len(cumulative) - 1)
        return iter(drawn[self.rank :: self.num_replicas].tolist())

    def __len__(self) -> int:
        """Draws of this rank in an epoch."""
        return -(-len(self.weights) // self.num_replicas)


class EpochShuffle(Sampler[int]):
    """A new order of all items in every epoch, from a generator seeded by (seed, epoch).

    The order of an epoch does not depend on what was drawn before it, so that a run that is resumed trains as one that
    was never interrupted. Lightning's distributed wrapper deals the items out.

    Args:
        size: Number of items.
        seed: Together with the epoch, all the randomness there is.

    Example:
        >>> sampler = EpochShuffle(3, seed=0)
        >>> sorted(sampler), list(sampler) == list(sampler)
        ([0, 1, 2], True)
    """

    def __init__(self, size: int, *, seed: int | str = 0) -> None:
        self.size = size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Give the order of this epoch from now on (Lightning calls it)."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        """Positions of all items."""
        order = torch.randperm(self.size, generator=seeded_generator(self.seed, "order", self.epoch))
        return iter(order.tolist())

    def __len__(self) -> int:
        """Number of items."""
        return self.size
