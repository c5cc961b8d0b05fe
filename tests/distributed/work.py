"""What the ranks of a real process group are asked to do; they import it by name."""

import json
from typing import Any

import torch
import torch.distributed as dist
from huggingface_hub import constants as hub_constants
from torch import Tensor, nn
from torch.utils.data import TensorDataset, random_split

from lightning_coreset import CoresetDataModule, Pool, SelectionContext
from lightning_coreset.distributed import EpochWeightedSampler, current_reducer, gather_json, gather_ragged, together
from lightning_coreset.registry import build_selector
from tests.helpers.examples import clouds, pool_of, signals_of
from tests.helpers.lightning_parts import digit_tensors


def who() -> tuple[int, int, str]:
    reducer = current_reducer()
    return reducer.rank, reducer.world_size, type(reducer).__name__


def gather_lengths(lengths: list[int], width: int, dtype: torch.dtype) -> list[Tensor]:
    rank = dist.get_rank()
    rows = torch.arange(lengths[rank] * width).reshape(lengths[rank], width) + 1000 * rank
    return gather_ragged(rows.to(dtype))


def gather_notes() -> list[Any]:
    rank = dist.get_rank()
    return gather_json(current_reducer(), {"rank": rank, "note": "ü" * rank, "empty": [], "none": None})


def fail_together(failing: list[int]) -> str:
    reducer = current_reducer()
    with together(reducer, "this test"):
        if reducer.rank in failing:
            msg = f"rank {reducer.rank} has a reason"
            raise KeyError(msg)
    return "went on"


def still_in_step() -> list[int]:
    return [int(part) for part in current_reducer().gather(torch.tensor([dist.get_rank()]))]


def sampled(weights: list[float], epochs: int) -> list[list[int]]:
    sampler = EpochWeightedSampler(
        torch.tensor(weights), seed=7, num_replicas=dist.get_world_size(), rank=dist.get_rank()
    )
    # Ranks whose global random states differ must still draw one sequence.
    torch.manual_seed(dist.get_rank())
    drawn = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        drawn.append(list(sampler))
    return drawn


def selected(method: str, arguments: dict[str, Any], budget: int, on_demand: bool) -> tuple[dict[str, Any], list[int]]:
    """A coreset as plain JSON, and the positions that this rank embedded."""
    features, labels = clouds([40, 25, 1, 64, 31])
    asked: list[int] = []

    def embed(positions: Tensor) -> Tensor:
        asked.extend(positions.tolist())
        return features[positions]

    coreset = build_selector(method, arguments).select(
        pool_of(method, None if on_demand else features, labels, signals_of(features, labels)),
        budget,
        seed=3,
        initial=[1, 90],
        forbidden=[2, 3],
        context=SelectionContext(embed=embed if on_demand else None, reducer=current_reducer()),
    )
    return coreset.to_plain(), asked


def embedding_fails_on(rank: int) -> None:
    features, labels = clouds([40, 25])
    reducer = current_reducer()

    def embed(positions: Tensor) -> Tensor:
        if reducer.rank == rank:
            msg = "an image cannot be read"
            raise OSError(msg)
        return features[positions]

    context = SelectionContext(embed=embed, reducer=reducer)
    build_selector("herding", {}).select(Pool(labels=labels), 5, context=context)


def set_up(differs: str, method: str = "facility_location") -> list[int]:
    """A data module's selection, where something may differ from rank to rank."""
    data = TensorDataset(*digit_tensors(200))
    torch.manual_seed(dist.get_rank() if differs == "the split" else 0)
    part, _ = random_split(data, [150, 50])
    torch.manual_seed(dist.get_rank() if differs == "the network" else 0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 8))
    datamodule = CoresetDataModule(part, method=method, ratio=0.1, features=network)
    datamodule.setup("fit")
    assert datamodule.coreset is not None
    return list(datamodule.coreset.indices.tolist())


def without_weights(method: str, cache: str) -> None:
    hub_constants.HF_HUB_OFFLINE, hub_constants.HF_HUB_CACHE = True, cache
    CoresetDataModule(TensorDataset(*digit_tensors(150)), method=method, ratio=0.1).setup("fit")


def comparable(coreset: dict[str, Any]) -> str:
    """All of a coreset but what a clock and a memory meter say."""
    manifest = {name: value for name, value in coreset["manifest"].items() if name not in ("seconds", "peak_bytes")}
    return json.dumps(coreset | {"manifest": manifest}, sort_keys=True)
