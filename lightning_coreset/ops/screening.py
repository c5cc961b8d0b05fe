"""Greedy that screens all items with rounded products and decides in float32. Made for GPUs with bfloat16 units."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_coreset.ops.exact_greedy import exact_greedy
from lightning_coreset.ops.objective import SUM_ITEMS, FacilityLocationObjective
from lightning_coreset.ops.rows import Ranking, accumulator_dtype, first_argmax, row_blocks
from lightning_coreset.ops.similarity import SimilarityRows

# Items of the largest upper bounds that are evaluated in float32 for each pick: a share of all, several times what was
# open at any pick in benchmarks/screening.py, but not too few; so many rows at a time.
_LOOK_SHARE, _FEWEST_LOOKED_AT, _LOOK_ROWS = 32, 256, 256

_BLOCK_ROWS = 256
_BLOCK_VALUES = 2**25
_EPS = torch.finfo(torch.float32).eps
# Sums of d products in float32 are off by d eps / 2 of the lengths, in tensor units, which cut off, by d eps; what is
# done to a similarity afterwards by less than 8 eps.
_SUMMING, _AFTERWARDS = 2, 8
# What decides whether screening must pay, in columns of a float32 product: by the data sheets of A100, H100, H200 and
# B200 a column of a bfloat16 one costs a fifteenth or less, here a tenth, and passing over the block that it wrote as
# much as 140 to 360 columns. Other cards have smaller ratios.
_CAPABILITIES = ((8, 0), (9, 0), (10, 0))
_ROUNDED_COLUMN, _PASS_COLUMNS = 1 / 10, 256
# Running gains take at least so many float32 passes: before the first pick, and after it, when most items rose.
_FEWEST_PASSES = 2


class RoundedRows:
    """Unit rows in a short type, and how far their products are from the float32 ones at most.

    ``x.y`` is off by at most ``|x - r(x)| |y| + |r(x)| |y - r(y)|``, whose parts are known, and by what sums in
    float32 lose. The bound of a pair is the sum of one number for each of both, so it costs no matrix.

    Args:
        rows: Unit rows, or rows of zeros ``[N, d]``, float32.
        kind: What they are rounded to.

    Attributes:
        row_doubt: What a row's side adds to the bound ``[N]``.
        column_doubt: What the other side adds ``[N]``.

    Example:
        >>> rounded = RoundedRows(torch.tensor([[0.6, 0.8], [1.0, 0.0]]))
        >>> off = (rounded.products(slice(0, 2))[0, 1] - 0.6).abs()
        >>> bool(0 < off <= rounded.row_doubt[0] + rounded.column_doubt[1])
        True
    """

    def __init__(self, rows: Tensor, kind: torch.dtype = torch.bfloat16) -> None:
        short = rows.to(kind)
        back = short.float()
        width = rows.shape[1]
        # Lengths are sums of d squares themselves.
        lost = torch.linalg.vector_norm(rows - back, dim=1) * (1 + 4 * width * _EPS)
        self.row_doubt = lost
        self.column_doubt = lost * torch.linalg.vector_norm(back, dim=1).amax()
        self.column_doubt += (_SUMMING * width + _AFTERWARDS) * _EPS
        self._short = kind != torch.float32 and rows.device.type == "cuda" and _keeps_sums()
        self._rows = short if self._short else back

    def products(self, part: slice) -> Tensor:
        """Products of some rounded rows with all ``[b, N]``, float32; fresh memory, free to be changed."""
        if self._short:
            # A product in bfloat16 would be rounded once more, and partial sums with it.
            return torch.mm(self._rows[part], self._rows.T, out_dtype=torch.float32)
        return self._rows[part] @ self._rows.T


def _keeps_sums() -> bool:
    # Newer than the oldest torch that is supported, and made for CUDA.
    return torch.version.cuda is not None and "dtype" in torch.ops.aten.mm.overloads()


def upper_bounds(objective: FacilityLocationObjective, rounded: RoundedRows) -> Tensor:
    """No gain that `FacilityLocationObjective.gains` finds is above these ``[N]``, float64.

    An item that cannot improve even with its doubt adds nothing, so bounds become sharper as more is covered: the
    doubts of a pick made late are small like its gain. O(N^2 d) time in the short type, a block of rows in memory.

    Args:
        objective: What is covered so far.
        rounded: Rows of its similarity.
    """
    size, kind = objective.similarity.size, objective.similarity.kind
    upper = torch.empty(size, dtype=accumulator_dtype(objective.covered.device), device=objective.covered.device)
    columns = rounded.column_doubt + 1 if kind == "shifted" else rounded.column_doubt
    for part in row_blocks(size, min(_BLOCK_ROWS, _BLOCK_VALUES // size)):
        values = rounded.products(part).add_(columns).add_(rounded.row_doubt[part, None])
        if kind == "shifted":
            values.div_(2)
        if objective.candidate_weights is not None:
            values.mul_(objective.candidate_weights[part, None])
        values.sub_(objective.covered).clamp_(min=0)
        if objective.item_weights is not None:
            values.mul_(objective.item_weights)
        upper[part] = values.sum(dim=1, dtype=upper.dtype)
    # Gains are sums of so many items in float32.
    return upper.mul_(1 + SUM_ITEMS * _EPS)


class Screened(NamedTuple):
    """Picks that stayed on the device.

    Attributes:
        ranking: Picks in order with their gains.
        proven: How many of them, from the first, are known to be those of float32 alone; a scalar tensor.
        covered: What those cover ``[N]``.
    """

    ranking: Ranking
    proven: Tensor
    covered: Tensor


def screened_picks(
    objective: FacilityLocationObjective,
    candidates: Tensor,
    count: int,
    advance: Callable[[int], object] | None,
    looked_at: int | None = None,
) -> Screened:
    """Picks whose float32 gain is the largest among the items of the largest upper bounds; the host never waits.

    Args:
        objective: What is covered so far.
        candidates: Which items may be picked ``[N]``.
        count: Number of picks ``k``.
        advance: Called with the number of picks made since the last call.
        looked_at: Items that are evaluated in float32 for each pick; None: one of 32, at least 256.
    """
    rounded = RoundedRows(objective.similarity.features)
    excluded = ~candidates
    looked_at = max(len(excluded) // _LOOK_SHARE, _FEWEST_LOOKED_AT) if looked_at is None else looked_at
    looked_at = min(looked_at, len(excluded))
    indices = torch.empty(count, dtype=torch.int64, device=excluded.device)
    gains = torch.empty(count, device=excluded.device)
    sure = torch.ones((), dtype=torch.bool, device=excluded.device)
    proven = torch.zeros((), dtype=torch.int64, device=excluded.device)
    covered = objective.covered.clone()
    for step in range(count):
        upper = upper_bounds(objective, rounded).masked_fill_(excluded, -torch.inf)
        # In order, so that the first among equals is the lowest.
        near = upper.topk(looked_at).indices.sort().values
        fresh = torch.cat([objective.gains(objective.values(part)) for part in near.split(_LOOK_ROWS)])
        fresh.masked_fill_(excluded[near], -torch.inf)
        place = first_argmax(fresh).unsqueeze(0)
        pick = near.index_select(0, place)
        indices[step : step + 1] = pick
        gains[step : step + 1] = fresh.index_select(0, place)
        # One that only ties may have the lower index.
        sure = sure & (upper.index_fill_(0, near, -torch.inf).amax() < gains[step])
        proven += sure
        excluded.index_fill_(0, pick, True)
        objective.cover(objective.values(pick))
        covered = torch.where(sure, objective.covered, covered)
        if advance is not None:
            advance(1)
    return Screened(Ranking(indices, gains), proven, covered)


def screened_greedy(
    objective: FacilityLocationObjective,
    candidates: Tensor,
    count: int,
    advance: Callable[[int], object] | None,
    looked_at: int | None = None,
) -> Ranking:
    """`exact_greedy` with one product in bfloat16 a pick, and one wait of the host, at the end.

    A pick is proven where the upper bounds of all items that were not looked at in float32 are below its gain. From
    the first that is not on, all picks are made again by `exact_greedy`. A gain of zero proves nothing where there are
    more items than are looked at, because bounds are above zero: where nothing is left to gain the rest is made again,
    in order and in one pass over the similarities, but what was screened for it is lost. Picks and gains are those of
    `exact_greedy` to the bit where products of a row have the same bits beside any others, as on CPUs; else they may
    differ where gains are equal but for the rounding of float32.

    Args:
        objective: What is covered so far.
        candidates: Which items may be picked ``[N]``.
        count: Number of picks ``k``.
        advance: Called with the number of picks made since the last call.
        looked_at: Items that are evaluated in float32 for each pick; None: one of 32, at least 256.

    Returns:
        Picks in order with their gains. O(k N^2 d) time in bfloat16 and a 32nd of that in float32; ``2 N d`` bytes, 256
        rows of ``4 N`` bytes and a block. Where not all is proven, the time of `exact_greedy` for the rest.

    Example:
        >>> objective = FacilityLocationObjective(SimilarityRows(torch.eye(3), mode="streamed"))
        >>> screened_greedy(objective, torch.ones(3, dtype=torch.bool), 2, None).indices.tolist()
        [0, 1]
    """
    ranking, proven, covered = screened_picks(objective, candidates, count, advance, looked_at)
    made = int(proven)
    if made == count:
        return ranking
    objective.covered.copy_(covered)
    left = candidates.index_fill(0, ranking.indices[:made], False)
    rest = exact_greedy(objective, left, count - made, None)
    return Ranking(*(torch.cat([first[:made], later]) for first, later in zip(ranking, rest, strict=True)))


def worth_screening(similarity: SimilarityRows, count: int) -> bool:
    """Whether screening that proves its picks must be faster than `exact_greedy`: by arithmetic, not timed on a GPU.

    Screening makes one bfloat16 pass a pick, running gains some 1 + log k float32 ones in all, and at least two. So it
    must pay where all its passes cost less than two of theirs: for few picks from wide embeddings (3 at 512 columns, 7
    at 2,048). For more picks running gains are faster in spite of waiting at each. A matrix that is held has no product
    to save. Nor must anything pay on CPUs, on GPUs whose bfloat16 units are not far ahead, where float32 products are
    made in TF32 (fast themselves, and off by more than bounds allow for), or where 256 items are more than one of 32.
    """
    device, width = similarity.features.device, similarity.features.shape[1]
    if similarity.mode != "streamed" or device.type != "cuda" or not _keeps_sums() or _in_tf32():
        return False
    screened = count * ((_ROUNDED_COLUMN + 1 / _LOOK_SHARE) * width + _PASS_COLUMNS)
    pays = similarity.size >= _LOOK_SHARE * _FEWEST_LOOKED_AT and screened < _FEWEST_PASSES * width
    return pays and torch.cuda.get_device_capability(device) in _CAPABILITIES


def _in_tf32() -> bool:
    product = torch.backends.cuda.matmul
    # The older flag raises where the newer one was set.
    return bool(
        product.fp32_precision in ("tf32", "bf16") if hasattr(product, "fp32_precision") else product.allow_tf32
    )
