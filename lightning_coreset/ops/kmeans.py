"""K-means from seeded k-means++ centres; faiss runs the iterations where it is installed."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lightning_coreset.ops.faiss_guard import has_gpus, load_faiss
from lightning_coreset.ops.k_center import distances_to
from lightning_coreset.ops.random import seeded_generator
from lightning_coreset.ops.rows import accumulator_dtype, first_argmax, row_blocks

_BLOCK_ROWS = 4_096


class Clustering(NamedTuple):
    """What k-means found.

    Attributes:
        centers: ``[k, d]``; a cluster that lost all its items keeps its last centre.
        assignment: Nearest centre of each item, the lowest one among equals ``[N]``.
        inertia: Sum of squared distances to the nearest centre.
    """

    centers: Tensor
    assignment: Tensor
    inertia: float


def kmeans(
    features: Tensor,
    clusters: int,
    *,
    seed: int = 0,
    iterations: int = 25,
    restarts: int = 1,
    engine: Literal["auto", "faiss", "torch"] = "auto",
) -> Clustering:
    """Cluster rows by squared Euclidean distance; rows are taken as they come.

    The starting centres are our own seeded k-means++ whichever engine iterates, so the clusters do not depend on
    faiss being installed.

    Args:
        features: ``[N, d]``.
        clusters: ``k``, 1 to N.
        seed: Of the k-means++ draws.
        iterations: At most this many rounds; the torch engine stops when no item changes its cluster.
        restarts: Runs from different draws, of which the one with the lowest inertia is kept.
        engine: ``"auto"`` takes faiss where it is installed and the features are on the CPU.

    Returns:
        Centres, assignment and inertia. O(iterations N k d) time, O(N + k d) memory beyond blocks of rows.

    Raises:
        ValueError: ``clusters`` outside 1 to N, or an unknown engine.
        CoresetError: Two faiss distributions at once, or ``engine="faiss"`` without faiss.

    References:
        Lloyd 1982; Arthur and Vassilvitskii 2007 (k-means++).

    Example:
        >>> kmeans(torch.tensor([[0.0], [0.1], [5.0], [5.1]]), 2, engine="torch").assignment.unique().numel()
        2
    """
    if not 1 <= clusters <= len(features):
        msg = f"{clusters} clusters of {len(features)} items are not accepted: give 1 to {len(features)}."
        raise ValueError(msg)
    if engine not in ("auto", "faiss", "torch"):
        msg = f"engine={engine!r} is not accepted: give 'auto', 'faiss' or 'torch'."
        raise ValueError(msg)
    faiss = None if engine == "torch" or (engine == "auto" and features.device.type != "cpu") else load_faiss()
    if engine == "faiss" and faiss is None:
        msg = (
            "engine='faiss' needs faiss, which is not installed: `pip install lightning-coreset[cpu]`, or "
            "engine='torch'."
        )
        raise ValueError(msg)
    rows = features.to(torch.float32).contiguous()
    best: Clustering | None = None
    for restart in range(restarts):
        centers = plus_plus_centers(rows, clusters, seeded_generator(seed, "kmeans", restart))
        if faiss is None:
            found = _lloyd(rows, centers, iterations)
        else:
            trainer = faiss.Kmeans(
                rows.shape[1],
                clusters,
                niter=iterations,
                seed=seed % 2**31,
                gpu=has_gpus(faiss),
                # Without these faiss trains on a sample and complains about small clusters.
                min_points_per_centroid=1,
                max_points_per_centroid=len(rows),
            )
            trainer.train(rows.cpu().numpy(), init_centroids=centers.cpu().numpy())
            found = _assign(rows, torch.from_numpy(trainer.centroids.copy()).to(rows.device))
        if best is None or found.inertia < best.inertia:
            best = found
    assert best is not None
    return best


def plus_plus_centers(rows: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """K-means++ starting centres: each next one drawn in proportion to squared distance to the nearest so far.

    Rows that are all taken or duplicates of taken ones have no chance; when only such rows are left the lowest free
    one is taken. O(N k d) time, O(N) memory. Returns ``[clusters, d]``.
    """
    first = torch.randint(len(rows), (1,), generator=generator).to(rows.device)
    chosen = [first]
    nearest = distances_to(rows, first).to(accumulator_dtype(rows.device)).square_()
    draws = torch.rand(clusters, generator=generator, dtype=torch.float64).to(nearest)
    free = torch.ones(len(rows), dtype=torch.int8, device=rows.device)
    free[first] = 0
    for draw in draws[1:]:
        cumulative = nearest.cumsum(0)
        if cumulative[-1] > 0:
            # Strictly above the draw, so that a row without a chance is never hit.
            pick = torch.searchsorted(cumulative, draw.view(1) * cumulative[-1], right=True).clamp_(max=len(rows) - 1)
        else:
            pick = first_argmax(free).unsqueeze(0)
        chosen.append(pick)
        free[pick] = 0
        torch.minimum(nearest, distances_to(rows, pick).to(nearest).square_(), out=nearest)
    return rows.index_select(0, torch.cat(chosen))


def _lloyd(rows: Tensor, centers: Tensor, iterations: int) -> Clustering:
    found = _assign(rows, centers)
    for _ in range(iterations):
        centers = _means(rows, found.assignment, found.centers)
        moved = _assign(rows, centers)
        settled = torch.equal(moved.assignment, found.assignment)
        found = moved
        if settled:
            break
    return found


def _means(rows: Tensor, assignment: Tensor, previous: Tensor) -> Tensor:
    # Float64, because the order of atomic additions on a GPU would otherwise show in the centres.
    sums = torch.zeros(previous.shape, dtype=accumulator_dtype(rows.device), device=rows.device)
    sums.index_add_(0, assignment, rows.to(sums.dtype))
    counts = torch.bincount(assignment, minlength=len(previous)).unsqueeze(1)
    return torch.where(counts > 0, (sums / counts.clamp(min=1)).float(), previous)


def nearest_center(rows: Tensor, centers: Tensor) -> Tensor:
    """The centre nearest to each row, the lowest one among equals ``[N]``; O(N k d) time."""
    nearest = torch.empty(len(rows), dtype=torch.int64, device=rows.device)
    squares = (centers * centers).sum(dim=1)
    for part in row_blocks(len(rows), _BLOCK_ROWS):
        nearest[part] = first_argmax((rows[part] @ centers.T).mul_(2).sub_(squares), dim=1)
    return nearest


def _assign(rows: Tensor, centers: Tensor) -> Clustering:
    assignment = nearest_center(rows, centers)
    inertia = 0.0
    for part in row_blocks(len(rows), _BLOCK_ROWS):
        away = rows[part] - centers[assignment[part]]
        inertia += float(away.square_().sum(dtype=accumulator_dtype(rows.device)))
    return Clustering(centers, assignment, inertia)
