"""Neighbour lists of large pools: exact for some tens of thousands of items, by a faiss index beyond."""

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lightning_coreset.errors import CoresetError
from lightning_coreset.ops.faiss_guard import has_gpus, load_faiss
from lightning_coreset.ops.neighbors import Neighbors, nearest_neighbors
from lightning_coreset.ops.rows import normalize_rows

Search = Literal["auto", "flat", "ivf", "hnsw"]

#: Largest pool that ``"auto"`` searches exactly.
LARGEST_FLAT = 50_000

_TRAINED_PER_LIST = 39
_PROBES = 16
_HNSW_LINKS = 32
_SEARCHED_ROWS = 16_384


def approximate_neighbors(features: Tensor, neighbors: int, *, search: Search = "auto", seed: int = 0) -> Neighbors:
    """The nearest other items of each item, exactly or nearly.

    Args:
        features: ``[N, d]``; rows are normalised here.
        neighbors: ``k``, 1 to N - 1.
        search: ``"flat"`` is exact; ``"ivf"`` looks into the 16 nearest of ``sqrt(N)`` cells; ``"hnsw"`` walks a graph;
            ``"auto"`` is flat up to 50,000 items and ivf beyond. The latter two need faiss.
        seed: Of the cells' k-means.

    Returns:
        Lists of ``k``, the nearest first; where an index finds fewer, the item itself fills up. Flat: O(N^2 d) time and
        O(N k) memory. ivf: O(16 N sqrt(N) d) time, and a copy of the features in the index.

    Raises:
        ValueError: ``neighbors`` outside 1 to N - 1, or an unknown search.
        CoresetError: An index is wanted and faiss is not installed.

    Example:
        >>> approximate_neighbors(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0]]), 1).indices.tolist()
        [[1], [2], [1]]
    """
    if search not in ("auto", "flat", "ivf", "hnsw"):
        msg = f"search={search!r} is not accepted: give 'auto', 'flat', 'ivf' or 'hnsw'."
        raise ValueError(msg)
    if search == "flat" or (search == "auto" and len(features) <= LARGEST_FLAT):
        return nearest_neighbors(features, neighbors)
    if not 1 <= neighbors < len(features):
        msg = f"{neighbors} neighbours of {len(features)} items are not accepted: give 1 to {len(features) - 1}."
        raise ValueError(msg)
    rows = normalize_rows(features).cpu().numpy()
    index = _index(rows, "ivf" if search == "auto" else search, seed)
    indices = torch.empty(len(rows), neighbors, dtype=torch.int64)
    cosines = torch.empty(len(rows), neighbors)
    for start in range(0, len(rows), _SEARCHED_ROWS):
        part = slice(start, min(start + _SEARCHED_ROWS, len(rows)))
        values, found = index.search(rows[part], neighbors + 1)
        cosines[part], indices[part] = _others(values, found, np.arange(part.start, part.stop))
    distances = (2 - 2 * cosines).clamp_(min=0).sqrt_()
    return Neighbors(indices.to(features.device), distances.to(features.device))


def _index(rows: np.ndarray, search: str, seed: int) -> Any:
    """A faiss index over all rows, by inner product."""
    faiss = load_faiss()
    if faiss is None:
        msg = (
            f"search={search!r} on {len(rows)} items needs faiss, which is not installed: "
            "`pip install lightning-coreset[cpu]`, or take mode='partitioned' or 'streamed'."
        )
        raise CoresetError(msg)
    width = rows.shape[1]
    if search == "hnsw":
        index = faiss.IndexHNSWFlat(width, _HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efSearch = 4 * _HNSW_LINKS
    else:
        lists = max(1, round(len(rows) ** 0.5))
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, lists, faiss.METRIC_INNER_PRODUCT)
        index.cp.seed = seed % 2**31
        index.cp.min_points_per_centroid = 1
        index.nprobe = min(_PROBES, lists)
        step = max(1, len(rows) // (_TRAINED_PER_LIST * lists))
        index.train(np.ascontiguousarray(rows[::step]))
    if search == "ivf" and has_gpus(faiss):
        index = faiss.index_cpu_to_all_gpus(index)
    index.add(rows)
    return index


def _others(values: np.ndarray, found: np.ndarray, own: np.ndarray) -> tuple[Tensor, Tensor]:
    """The lists without the item itself, equally near ones by lowest index."""
    missing = (found < 0) | (found == own[:, None])
    values = np.where(missing, -np.inf, values)
    found = np.where(found < 0, own[:, None], found)
    order = np.lexsort((found, -values), axis=1)[:, :-1]
    cosines = np.take_along_axis(values, order, axis=1)
    places = np.take_along_axis(found, order, axis=1)
    return torch.from_numpy(np.where(np.isfinite(cosines), cosines, 1.0)), torch.from_numpy(places)
