"""Small rules that every kernel shares: unit rows, blocks of rows, ties to the lowest index, masks of candidates."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_coreset.ops.random import seeded_generator

#: Products of fewer rows than this are not bit-equal to the same rows of a larger product on common CPUs.
MIN_BLOCK_ROWS = 64

_BLOCK_ROWS = 8_192
_CONVERTED_ROWS = 2_048


class Ranking(NamedTuple):
    """Picks in the order chosen.

    Attributes:
        indices: Rows chosen ``[k]``.
        gains: What each pick added to the objective ``[k]``, float32.
    """

    indices: Tensor
    gains: Tensor


def normalize_rows(features: Tensor) -> Tensor:
    """Rows of unit Euclidean length; rows of zeros stay zeros.

    Rows are divided by their largest entry first, so that lengths neither overflow nor vanish in float32 and a
    positive factor per row changes nothing.

    Args:
        features: ``[N, d]``.

    Returns:
        ``[N, d]``, float32.

    Example:
        >>> normalize_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist()
        [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    unit = torch.empty(features.shape, dtype=torch.float32, device=features.device)
    # In blocks, because whole copies for absolute values and the like would double the memory.
    for part, out in zip(features.split(_BLOCK_ROWS), unit.split(_BLOCK_ROWS), strict=True):
        rows = part.to(torch.float32)
        largest = rows.abs().amax(dim=1, keepdim=True)
        torch.div(rows, largest.masked_fill_(largest == 0, 1.0), out=out)
        length = torch.linalg.vector_norm(out, dim=1, keepdim=True)
        out.div_(length.masked_fill_(length == 0, 1.0))
    return unit


def column_sum(rows: Tensor) -> Tensor:
    """Sum of all rows ``[d]`` in double precision where there is any; O(N d) time and a block of rows in memory.

    A sum with another type than its input's would convert all of it first.

    Args:
        rows: ``[N, d]``.
    """
    total = torch.zeros(rows.shape[1], dtype=accumulator_dtype(rows.device), device=rows.device)
    for part in converted(rows, total.dtype):
        total += part.sum(dim=0)
    return total


def converted(rows: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    """Rows in another type, a block at a time ``[b, d]``, each written over the one before it.

    Fresh blocks would pile up: the allocator of the C library keeps what it once gave out.
    """
    block = torch.empty(min(len(rows), _CONVERTED_ROWS), rows.shape[1], dtype=dtype, device=rows.device)
    for part in rows.split(_CONVERTED_ROWS):
        yield block[: len(part)].copy_(part)


def row_blocks(rows: int, block: int) -> Iterator[slice]:
    """Slices that cover ``rows`` rows once, none smaller than ``MIN_BLOCK_ROWS`` unless there are fewer rows in all.

    Example:
        >>> [(part.start, part.stop) for part in row_blocks(150, 64)]
        [(0, 64), (64, 150)]
    """
    block = max(block, MIN_BLOCK_ROWS)
    start = 0
    while start < rows:
        stop = start + block
        if rows - stop < MIN_BLOCK_ROWS:
            stop = rows
        yield slice(start, stop)
        start = stop


def first_argmax(values: Tensor, dim: int = -1) -> Tensor:
    """Index of the largest value, the lowest one among equals (torch's ``argmax`` and ``topk`` do not promise it).

    Args:
        values: ``[..., N, ...]``.
        dim: The dimension to search.

    Returns:
        Index along ``dim``, a tensor on the same device; on a GPU nothing is synchronised.

    Example:
        >>> first_argmax(torch.tensor([1.0, 3.0, 3.0])).item()
        1
    """
    if values.device.type == "cpu":
        # numpy promises the first occurrence.
        return torch.as_tensor(np.argmax(values.numpy(), axis=dim))
    values = values.movedim(dim, -1)
    places = torch.arange(values.shape[-1], device=values.device)
    return torch.where(values == values.amax(dim=-1, keepdim=True), places, values.shape[-1]).amin(dim=-1)


def row_keys(rows: Tensor) -> Tensor:
    """A number for each row that is the same for equal rows, and by chance only for others ``[N]``, int64.

    Args:
        rows: ``[N, d]``, float32.
    """
    # Sums of integers wrap around without rounding, so equal rows have equal keys in whatever order they are added.
    factors = torch.randint(2**62, (rows.shape[1],), generator=seeded_generator("equal rows")).to(rows.device)
    keys = torch.empty(len(rows), dtype=torch.int64, device=rows.device)
    product = torch.empty(min(len(rows), _CONVERTED_ROWS), rows.shape[1], dtype=torch.int64, device=rows.device)
    for part, out in zip(rows.split(_CONVERTED_ROWS), keys.split(_CONVERTED_ROWS), strict=True):
        torch.mul((part + 0.0).view(torch.int32), factors, out=product[: len(part)])
        torch.sum(product[: len(part)], dim=1, out=out)
    return keys


def first_equal_row(rows: Tensor) -> Tensor | None:
    """For each row the lowest row with the same values ``[N]``; None where all rows differ.

    A matrix-vector product adds up its last rows in another order than the others, so equal rows do not get equal
    bits: ties between them are only ties when all of them take the value of the first. O(N d) time, O(N) memory.

    Args:
        rows: ``[N, d]``, float32.

    Example:
        >>> first_equal_row(torch.tensor([[1.0], [2.0], [1.0]])).tolist()
        [0, 1, 0]
    """
    keys = row_keys(rows)
    _, group = torch.unique(keys, return_inverse=True)
    places = torch.arange(len(rows), device=rows.device)
    first = torch.full_like(places, len(rows)).scatter_reduce_(0, group, places, "amin")[group]
    later = torch.nonzero(first != places).flatten()
    # Different rows may share a key by chance.
    later = torch.cat([part[(rows[part] == rows[first[part]]).all(dim=1)] for part in later.split(_BLOCK_ROWS)])
    if not len(later):
        return None
    return places.index_copy(0, later, first[later])


def as_positions(positions: Tensor | None, rows: int, name: str, device: torch.device) -> Tensor:
    """Distinct row numbers as a LongTensor, empty for None.

    Raises:
        ValueError: No whole numbers, a number outside 0..rows-1, or one given twice.
    """
    if positions is None:
        return torch.empty(0, dtype=torch.int64, device=device)
    given = torch.as_tensor(positions, device=device).flatten()
    if len(given) and (given.is_floating_point() or given.is_complex() or given.dtype == torch.bool):
        msg = (
            f"{name} holds {given.dtype} values: give positions as whole numbers (mask.nonzero().flatten() makes "
            "them of a mask)."
        )
        raise ValueError(msg)
    listed = given.to(torch.int64)
    wrong = listed[(listed < 0) | (listed >= rows)]
    if len(wrong):
        msg = f"{name} holds {int(wrong[0])}, but positions go from 0 to {rows - 1}: give positions in this pool."
        raise ValueError(msg)
    if len(torch.unique(listed)) != len(listed):
        msg = (
            f"{name} holds a position twice ({len(listed)} given, {len(torch.unique(listed))} distinct): give each "
            "once."
        )
        raise ValueError(msg)
    return listed


def candidate_mask(rows: int, initial: Tensor, forbidden: Tensor, count: int) -> Tensor:
    """Which rows may be picked ``[N]``: neither ``initial`` nor ``forbidden``.

    Raises:
        ValueError: ``initial`` and ``forbidden`` overlap, or fewer than ``count`` candidates are left.
    """
    mask = torch.ones(rows, dtype=torch.bool, device=initial.device)
    mask[initial] = False
    if not bool(mask[forbidden].all()):
        both = forbidden[~mask[forbidden]]
        msg = f"initial and forbidden both hold {int(both[0])} ({len(both)} in all): an item is one or the other."
        raise ValueError(msg)
    mask[forbidden] = False
    if not 1 <= count <= int(mask.sum()):
        msg = (
            f"{count} picks are asked for, but {int(mask.sum())} of {rows} rows are candidates: ask for 1 to "
            f"{int(mask.sum())}."
        )
        raise ValueError(msg)
    return mask


def accumulator_dtype(device: torch.device) -> torch.dtype:
    """Float64 for running sums where the device has it (Apple's GPUs do not)."""
    return torch.float32 if device.type == "mps" else torch.float64
