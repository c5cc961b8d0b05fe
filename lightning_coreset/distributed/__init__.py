"""The only room that speaks ``torch.distributed``: ranks, ragged gather, sharding, samplers."""

from lightning_coreset.distributed.gather import gather_ragged
from lightning_coreset.distributed.reducer import (
    ProcessGroupReducer,
    current_reducer,
    from_first_rank,
    gather_json,
    together,
)
from lightning_coreset.distributed.sampler import EpochShuffle, EpochWeightedSampler
from lightning_coreset.distributed.sharding import deal, index_range

__all__ = (
    "EpochShuffle",
    "EpochWeightedSampler",
    "ProcessGroupReducer",
    "current_reducer",
    "deal",
    "from_first_rank",
    "gather_json",
    "gather_ragged",
    "index_range",
    "together",
)
