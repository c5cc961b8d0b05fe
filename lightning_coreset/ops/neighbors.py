"""Exact distance to the k-th nearest other item, and the coverage that follows from it."""

from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_coreset.ops.rows import accumulator_dtype, row_blocks
from lightning_coreset.ops.similarity import ExactMode, SimilarityRows

_BLOCK_ROWS = 256


class Neighbors(NamedTuple):
    """The nearest other items of each item, the nearest first.

    Attributes:
        indices: ``[N, k]``.
        distances: Euclidean, on unit rows ``[N, k]``.
    """

    indices: Tensor
    distances: Tensor


def nearest_neighbors(features: Tensor, neighbors: int) -> Neighbors:
    """The exact k nearest other items of each item on unit rows; equally near ones by lowest index.

    Args:
        features: ``[N, d]``; rows are normalised here.
        neighbors: ``k``, 1 to N - 1.

    Returns:
        Lists of ``k`` for each item. O(N^2 d) time; O(N k) memory beyond a block of rows.

    Raises:
        ValueError: ``neighbors`` outside 1 to N - 1.

    Example:
        >>> nearest_neighbors(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0]]), 1).indices.tolist()
        [[1], [2], [1]]
    """
    similarity = SimilarityRows(features, mode="streamed")
    check_neighbors(neighbors, similarity.size)
    indices = torch.empty(similarity.size, neighbors, dtype=torch.int64, device=features.device)
    values = torch.empty(similarity.size, neighbors, device=features.device)
    for part, rows in similarity.blocks():
        others = _without_self(rows, part)
        near = places_of_largest(others, neighbors)
        order = torch.argsort(others.gather(1, near), dim=1, descending=True, stable=True)
        indices[part] = near.gather(1, order)
        values[part] = others.gather(1, indices[part])
    return Neighbors(indices, (2 - 2 * values).clamp_(min=0).sqrt_())


def places_of_largest(values: Tensor, count: int) -> Tensor:
    """Columns of the largest values of each row, ascending; of equal values the lowest columns.

    Args:
        values: ``[b, N]``.
        count: How many, ``k``.

    Returns:
        ``[b, k]``. O(b N) time and memory.

    Example:
        >>> places_of_largest(torch.tensor([[1.0, 3.0, 2.0, 2.0]]), 2).tolist()
        [[1, 2]]
    """
    bound = _kth_largest(values, count)[:, None]
    largest = values >= bound
    found = torch.nonzero(largest)[:, 1]
    if len(found) > len(values) * count:
        # Places are counted only where a tie asks for it: they take twice the memory of the values.
        above = values > bound
        spare = count - above.sum(dim=1, keepdim=True)
        level = largest & ~above
        found = torch.nonzero(above | (level & (level.cumsum(dim=1) <= spare)))[:, 1]
    return found.reshape(len(values), count)


def knn_radius(
    features: Tensor,
    neighbors: int,
    *,
    metric: Literal["normalized", "raw"] = "normalized",
    mode: ExactMode | None = "streamed",
    memory_limit: int | str | None = None,
) -> Tensor:
    """Euclidean distance of each item to its k-th nearest other item.

    Args:
        features: ``[N, d]``.
        neighbors: ``k``, 1 to N - 1.
        metric: ``"normalized"`` rows of unit length, or ``"raw"`` rows as they come.
        mode: Of the similarity behind it, see `SimilarityRows`; the answer does not depend on it.
        memory_limit: Bytes for a dense similarity.

    Returns:
        ``[N]``, float32. O(N^2 d) time; O(N) memory beyond a block of rows.

    Raises:
        ValueError: ``neighbors`` outside 1 to N - 1.

    Example:
        >>> knn_radius(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0]]), 1, metric="raw").tolist()
        [1.4142135381698608, 1.0, 1.0]
    """
    check_neighbors(neighbors, len(features))
    if metric == "normalized":
        return radius_from_similarity(SimilarityRows(features, mode=mode, memory_limit=memory_limit), neighbors)
    if metric != "raw":
        msg = f"metric={metric!r} is not accepted: give 'normalized' or 'raw'."
        raise ValueError(msg)
    # Squared distances from a product lose their digits where norms are large: centred rows in float64 keep them.
    rows = features.to(accumulator_dtype(features.device))
    rows = rows - rows.mean(dim=0)
    squares = (rows * rows).sum(dim=1)
    radius = torch.empty(len(rows), device=features.device)
    for part in row_blocks(len(rows), _BLOCK_ROWS):
        distances = (squares[part, None] + squares - 2 * (rows[part] @ rows.T)).clamp_(min=0)
        radius[part] = (-_kth_largest_other(-distances, part, neighbors)).sqrt_().float()
    return radius


def radius_from_similarity(similarity: SimilarityRows, neighbors: int) -> Tensor:
    """`knn_radius` on unit rows, from similarities that are there already, ``[N]``."""
    check_neighbors(neighbors, similarity.size)
    kth = torch.empty(similarity.size, device=similarity.features.device)
    for part, values in similarity.blocks():
        kth[part] = _kth_largest_other(values, part, neighbors)
    return (2 - 2 * similarity.to_cosine(kth)).clamp_(min=0).sqrt_()


def coverage(features: Tensor, chosen: Tensor, k: int) -> float:
    """Share of items whose ball out to the k-th nearest other item holds a chosen item.

    The ball is closed, and a chosen item covers itself. Rows are normalised.

    Args:
        features: ``[N, d]``.
        chosen: Positions of the chosen items ``[M]``.
        k: Which neighbour bounds the ball, 1 to N - 1.

    Returns:
        Share in [0, 1]. O(N^2 d) time; O(N) memory beyond a block of rows.

    Example:
        >>> coverage(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), torch.tensor([1]), 1)
        1.0
    """
    return coverage_from_similarity(SimilarityRows(features, mode="streamed"), torch.as_tensor(chosen), k)


def coverage_from_similarity(similarity: SimilarityRows, chosen: Tensor, k: int) -> float:
    """`coverage` from similarities that are there already."""
    check_neighbors(k, similarity.size)
    covered = torch.zeros(similarity.size, dtype=torch.bool, device=similarity.features.device)
    chosen = chosen.to(covered.device)
    for part, values in similarity.blocks():
        # Similarities are compared, not distances: the chosen neighbour and the bound are then the same bits.
        covered[part] = values[:, chosen].amax(dim=1) >= _kth_largest_other(values, part, k)
    covered[chosen] = True
    return float(covered.float().mean())


def check_neighbors(neighbors: int, size: int) -> None:
    """Refuse a neighbour that is not there.

    Raises:
        ValueError: ``neighbors`` outside 1 to size - 1.
    """
    if not 1 <= neighbors <= size - 1:
        msg = f"{neighbors} neighbours of {size} items are not accepted: give 1 to {size - 1}."
        raise ValueError(msg)


def _kth_largest_other(values: Tensor, part: slice, k: int) -> Tensor:
    """The k-th largest value of each row of a block ``[b, N]``, the item itself left out, ``[b]``."""
    return _kth_largest(_without_self(values, part), k)


def _kth_largest(values: Tensor, k: int) -> Tensor:
    if values.device.type == "cpu":
        # numpy's selection is vectorised: the same time for every k, where torch's grows with it.
        split = values.shape[1] - k
        return torch.from_numpy(np.ascontiguousarray(np.partition(values.numpy(), split, axis=1)[:, split]))
    return values.topk(k, dim=1).values[:, -1]


def _without_self(values: Tensor, part: slice) -> Tensor:
    others = values.clone()
    places = torch.arange(part.stop - part.start, device=values.device)
    others[places, places + part.start] = -torch.inf
    return others


def mean_neighbor_distance(features: Tensor, neighbors: int) -> Tensor:
    """Mean Euclidean distance of each item to its nearest other items, on unit rows.

    Args:
        features: ``[N, d]``; rows are normalised here.
        neighbors: How many others count, 1 to N - 1.

    Returns:
        ``[N]``. O(N^2 d) time; O(N) memory beyond a block of rows.

    Example:
        >>> mean_neighbor_distance(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0]]), 1).tolist()
        [1.4142135381698608, 0.0, 0.0]
    """
    similarity = SimilarityRows(features, mode="streamed")
    check_neighbors(neighbors, similarity.size)
    mean = torch.empty(similarity.size, device=features.device)
    for part, values in similarity.blocks():
        others = _without_self(values, part)
        mean[part] = (2 - 2 * others.topk(neighbors, dim=1).values).clamp_(min=0).sqrt_().mean(dim=1)
    return mean
