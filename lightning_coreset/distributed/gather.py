"""Gathering tensors of different lengths over a process group."""

import torch
import torch.distributed as dist
from torch import Tensor


def gather_ragged(rows: Tensor, group: dist.ProcessGroup | None = None) -> list[Tensor]:
    """The tensors of all ranks, which may differ in their first dimension.

    Collectives need equal shapes (with unequal ones some return wrong answers without an error), so rows are padded
    to the longest and cut again. Ranks must agree on the other dimensions and the type.

    Args:
        rows: ``[n_r, ...]``, on a device the group's backend can send.
        group: The process group; None is the default one.

    Returns:
        One tensor for each rank, in rank order, on the device of ``rows``. O(world size x longest) memory.
    """
    world_size = dist.get_world_size(group)
    count = torch.tensor([len(rows)], dtype=torch.int64, device=rows.device)
    counts = [torch.zeros_like(count) for _ in range(world_size)]
    dist.all_gather(counts, count, group=group)
    longest = int(torch.stack(counts).max())
    padded = rows.new_zeros((longest, *rows.shape[1:]))
    padded[: len(rows)] = rows
    gathered = [torch.empty_like(padded) for _ in range(world_size)]
    if longest:
        dist.all_gather(gathered, padded, group=group)
    return [part[: int(size)] for part, size in zip(gathered, counts, strict=True)]
