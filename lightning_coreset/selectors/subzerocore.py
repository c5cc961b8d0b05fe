"""SubZeroCore: facility location with candidates weighted by how typical their local density is."""

import math
import warnings
from itertools import count as counting
from numbers import Integral
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lightning_coreset.ops.batched_greedy import MATRICES, BatchedClasses
from lightning_coreset.ops.facility_location import (
    MODES,
    Mode,
    approximate_greedy,
    facility_location_greedy,
    plan_mode,
)
from lightning_coreset.ops.neighbor_graph import LARGEST_FLAT, approximate_neighbors
from lightning_coreset.ops.neighbors import coverage_from_similarity, knn_radius, radius_from_similarity
from lightning_coreset.ops.rows import accumulator_dtype
from lightning_coreset.ops.similarity import SimilarityRows, represented_by
from lightning_coreset.selectors.base import Selector
from lightning_coreset.selectors.cost import Work, facility_work
from lightning_coreset.selectors.facility_location import check_words, picks_of
from lightning_coreset.selectors.group import Group, Picks

KSolver = Literal["log", "eq9", "paper_float64"]

_SMALL_CLASS = 300
_ROUNDING = 1e-6
_ROUNDING_OF_LOGS = 1e-12


class SubZeroCore(Selector, name="subzerocore"):
    """Training-free selection: density-weighted facility location in each class.

    1. The wanted coverage gives the number of neighbours ``K`` (`neighbors_for_coverage`).
    2. ``r_i``: distance of each item to its K-th nearest other item of the class.
    3. ``d_i = exp(-(r_i - mu)^2 / (2 sigma^2))`` with mean and deviation of the class.
    4. Greedy on ``sum_i max_{j in A} d_j s_ij``.

    Steps 2 and 4 share one product. Dense: O(n^2 d) time for a class of ``n`` items, ``4 n^2`` bytes; streamed: the
    same picks in O(n) memory. Above 50,000 items in a group radii come from a faiss index and the greedy is
    partitioned. Paper: SubZeroCore (Moser et al. 2025), with the readings of its formulas that hold.

    Args:
        per_class: Select in each class (default), or in the whole pool.
        coverage: Wanted share of items with a chosen one among their ``K`` nearest, in (0, 1).
        neighbors: ``K`` itself, instead of deriving it from the coverage and the budget.
        k_solver: ``"log"``; ``"eq9"`` (one factor more, as printed); ``"paper_float64"`` (overflows as theirs did).
        one_sided: Leave items that are denser than the mean at weight 1.
        density_power: Exponent of the density weight; 0 is plain facility location.
        similarity: ``"cosine"`` clamped at 0, or ``"shifted"``, (1 + cosine) / 2.
        radius: Distances between ``"normalized"`` rows or between rows as they come, ``"raw"``.
        mode: As for `FacilityLocation`; None is exact up to 50,000 items in a group and partitioned above.

    Raises:
        ValueError: On selecting with an argument out of its range.

    Example:
        >>> from lightning_coreset import select
        >>> features = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.8, 0.3], [0.0, 1.0]])
        >>> select(features, method="subzerocore", budget=2).manifest["resolved"]["neighbors"]
        [1]
    """

    weighted = True
    per_class_default = True

    def __init__(
        self,
        *,
        per_class: bool | None = None,
        coverage: float = 0.6,
        neighbors: int | None = None,
        k_solver: KSolver = "log",
        one_sided: bool = False,
        density_power: float = 1.0,
        similarity: Literal["cosine", "shifted"] = "cosine",
        radius: Literal["normalized", "raw"] = "normalized",
        mode: Literal["dense", "streamed", "neighbours", "partitioned", "stochastic"] | None = None,
    ) -> None:
        super().__init__(per_class=per_class)
        self.coverage = coverage
        self.neighbors = neighbors
        self.k_solver = k_solver
        self.one_sided = one_sided
        self.density_power = density_power
        self.similarity = similarity
        self.radius = radius
        self.mode: Mode | None = mode

    def check(self) -> None:
        """Refuse arguments out of their range."""
        check_words(
            k_solver=(self.k_solver, ("log", "eq9", "paper_float64")),
            similarity=(self.similarity, ("cosine", "shifted")),
            radius=(self.radius, ("normalized", "raw")),
            mode=(self.mode, (*MODES, None)),
        )
        _check_coverage(self.coverage)
        whole = isinstance(self.neighbors, Integral) and not isinstance(self.neighbors, bool)
        if self.neighbors is not None and (not whole or self.neighbors < 1):
            msg = (
                f"neighbors={self.neighbors!r} is not accepted: give a whole number of at least 1, or None to "
                "derive it."
            )
            raise ValueError(msg)
        if not self.density_power >= 0:
            msg = f"density_power={self.density_power!r} is not accepted: give a number of at least 0."
            raise ValueError(msg)

    def work(self, size: int, width: int, count: int, memory_limit: int) -> Work:
        """That of facility location in the mode that will run."""
        return facility_work(plan_mode(size, self.mode, memory_limit), size, width, count)

    def batch_bytes(self, size: int, memory_limit: int) -> int | None:
        """Two matrices, where they fit the limit."""
        needed = 4 * MATRICES * size * size
        return needed if plan_mode(size, self.mode, memory_limit).mode == "dense" and needed <= memory_limit else None

    def select_groups(self, groups: list[Group]) -> list[Picks]:
        """Several classes in one tensor, with the picks of one after the other."""
        if len(groups) == 1 or self.radius == "raw":
            return super().select_groups(groups)
        classes = BatchedClasses([group.rows for group in groups], self.similarity)
        neighbors = [self._neighbors(group) if group.size > 1 else 0 for group in groups]
        radii = classes.radii(neighbors)
        weights = torch.ones_like(radii)
        for place, group in enumerate(groups):
            if neighbors[place]:
                density = density_weights(radii[place, : group.size], one_sided=self.one_sided)
                weights[place, : group.size] = density.pow_(self.density_power)
        return picks_of(classes, groups, weights, [{"neighbors": number or None} for number in neighbors])

    def select_group(self, group: Group) -> Picks:
        """Density weights and greedy on one similarity."""
        plan = plan_mode(group.size, self.mode, group.memory_limit, group.rows.device)
        similarity = SimilarityRows(group.rows, kind=self.similarity, mode=plan.similarity)
        # A class of one item has no neighbours, and nothing to weigh it against.
        neighbors = self._neighbors(group) if group.size > 1 else None
        weights = None
        if neighbors is not None:
            radii = self._radii(group, similarity, neighbors)
            weights = density_weights(radii, one_sided=self.one_sided).pow_(self.density_power)
        given: dict[str, Any] = {
            "candidate_weights": weights,
            "initial": group.initial,
            "forbidden": group.forbidden,
            "advance": group.advance,
        }
        if plan.exact:
            indices, gains = facility_location_greedy(similarity, group.count, **given)
        else:
            given |= {"similarity": self.similarity, "seed": group.seed, "memory_limit": group.memory_limit}
            indices, gains = approximate_greedy(group.rows, group.count, mode=plan.mode, **given)
        resolved: dict[str, Any] = {"neighbors": neighbors, "mode": plan.mode, "mode_reason": plan.reason}
        if neighbors is not None and group.size < _SMALL_CLASS:
            chosen = torch.cat([group.initial, indices])
            resolved["measured_coverage"] = round(coverage_from_similarity(similarity, chosen, neighbors), 4)
        return Picks(indices, gains, represented_by(similarity, indices), resolved=resolved)

    def report(self, resolved: dict[str, Any], group_sizes: list[int]) -> None:
        """Warn where K spans so much of a class that a radius is no local density."""
        known = [number for number in resolved.get("neighbors", []) if number is not None]
        sizes = [size for size in group_sizes if size > 1]
        wide = [(number, size) for number, size in zip(known, sizes, strict=True) if number > size / 10 and size > 10]
        if wide:
            number, size = max(wide)
            measured = [value for value in resolved.get("measured_coverage", []) if value is not None]
            told = f" Measured coverage: {min(measured)} to {max(measured)}." if measured else ""
            warnings.warn(
                f"SubZeroCore looks at K={number} neighbours of {size} items ({len(wide)} of {len(sizes)} groups "
                "have K "
                f"above a tenth of their items), hardly a local density: keep more, ask for less coverage than "
                f"{self.coverage}, or give neighbors=.{told}",
                stacklevel=4,
            )

    def _radii(self, group: Group, similarity: SimilarityRows, neighbors: int) -> Tensor:
        if self.radius == "raw":
            return knn_radius(group.rows, neighbors, metric="raw")
        if group.size <= LARGEST_FLAT:
            return radius_from_similarity(similarity, neighbors)
        # Exact radii would be the one step that looks at all pairs.
        return approximate_neighbors(group.rows, neighbors, seed=group.seed).distances[:, -1]

    def _neighbors(self, group: Group) -> int:
        chosen = group.count + len(group.initial)
        wanted = self.neighbors or neighbors_for_coverage(group.size, chosen, self.coverage, solver=self.k_solver)
        return max(1, min(int(wanted), group.size - chosen - 1))


def neighbors_for_coverage(size: int, chosen: int, coverage: float, *, solver: KSolver = "log") -> int:
    """Smallest ``K`` at which ``chosen`` random items of ``size`` reach the wanted share of K-neighbourhoods.

    ``1 - prod_{t=1..K} (N - M - t) / (N - t) >= coverage`` in logarithms (the paper's Appendix C). ``"eq9"`` begins at
    ``t = 0``. ``"paper_float64"`` multiplies numerator and denominator as two floats and stops when they overflow.

    Args:
        size: Items of the class, ``N``.
        chosen: Chosen items, ``M``.
        coverage: Wanted share, in (0, 1).
        solver: How to evaluate the product.

    Returns:
        ``K``, at least 1. O(K) time.

    Example:
        >>> [neighbors_for_coverage(5000, 5000 * kept // 1000, 0.6) for kept in (1, 5, 10, 50, 100, 200, 300)]
        [837, 180, 91, 18, 9, 5, 3]
        >>> neighbors_for_coverage(5000, 50, 0.6, solver="paper_float64")
        84
    """
    _check_coverage(coverage)
    if solver == "paper_float64":
        return _overflowing_neighbors(size, chosen, coverage)
    factors = np.arange(0 if solver == "eq9" else 1, max(2, size - chosen))
    with np.errstate(divide="ignore"):
        missed = np.cumsum(np.log(np.maximum(size - chosen - factors, 0)) - np.log(np.maximum(size - factors, 1)))
    # The entry of "eq9" at K is the product of its first K + 1 factors.
    missed = missed[1:] if solver == "eq9" else missed
    # A share that is reached exactly must not be missed by the rounding of the logarithms.
    reached = np.nonzero(missed <= math.log1p(-coverage) + _ROUNDING_OF_LOGS)[0]
    return int(reached[0]) + 1 if len(reached) else max(1, len(missed))


def _overflowing_neighbors(size: int, chosen: int, coverage: float) -> int:
    above, below = 1.0, 1.0
    for number in counting(1):
        above *= size - chosen - number
        below *= size - number
        # inf / inf is nan, and nothing is true of nan: this is where the paper's K of 84 comes from.
        if number >= size - 1 or not 1 - above / below < coverage:
            return number
    raise AssertionError


def density_weights(radii: Tensor, *, one_sided: bool = False) -> Tensor:
    """How typical each radius is: ``exp(-(r_i - mu)^2 / (2 sigma^2))`` with population mean and deviation.

    Args:
        radii: Distance of each item to its K-th nearest other item ``[n]``.
        one_sided: Leave radii below the mean at weight 1.

    Returns:
        ``[n]`` in (0, 1], float32; ones where all radii are equal up to rounding.

    Example:
        >>> density_weights(torch.tensor([1.0, 2.0, 3.0]))[1].item()
        1.0
    """
    precise = radii.to(accumulator_dtype(radii.device))
    mean, deviation = precise.mean(), precise.std(correction=0)
    if deviation <= _ROUNDING * mean:
        return torch.ones_like(radii)
    weights = torch.exp(-((precise - mean) ** 2) / (2 * deviation**2))
    return (torch.where(precise < mean, 1.0, weights) if one_sided else weights).float()


def _check_coverage(coverage: float) -> None:
    if not 0 < coverage < 1:
        msg = f"coverage={coverage!r} is not accepted: give a number between 0 and 1, both excluded."
        raise ValueError(msg)
