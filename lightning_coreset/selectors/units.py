"""Budgets in annotation units: what each image of a pool costs, and what a selection has spent."""

import math
import sys
import warnings
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_coreset.budget import resolve_total
from lightning_coreset.detection import Objects, UnitEstimate, true_units
from lightning_coreset.ops.spending import Overshoot, Purse

Charge = Literal["estimate", "oracle"]

BUDGET_UNITS = ("images", "boxes", "masks")
#: Expected units of an image where nothing better is known: the sum of the scores of its proposals.
PLAIN_ESTIMATE = UnitEstimate(per_image=0.0, per_score=1.0)


@dataclass(frozen=True)
class Charges:
    """What each image costs.

    Attributes:
        unit: "images", "boxes" or "masks".
        prices: What a budget is charged for each image ``[N]``, float64.
        estimated: Expected units of each image ``[N]``, float64.
        true: Units of each image where they are known ``[N]``, float64.
        source: Whether prices are "images", "true" or "estimated" units.
    """

    unit: str
    prices: Tensor
    estimated: Tensor
    true: Tensor | None
    source: Literal["images", "true", "estimated"]

    def reordered(self, positions: Tensor) -> "Charges":
        """Those of the images at some positions."""
        true = None if self.true is None else self.true[positions]
        return replace(self, prices=self.prices[positions], estimated=self.estimated[positions], true=true)

    def told(self, indices: Tensor, asked: float, overshoot: str) -> dict[str, Any]:
        """For the manifest: what was asked for and what the chosen images cost."""
        return {
            "unit": self.unit,
            "asked": asked,
            "charged": self.source,
            "overshoot": overshoot,
            "images": len(indices),
            "spent": round(float(self.prices[indices].sum()), 6),
            "estimated": round(float(self.estimated[indices].sum()), 6),
            "true": None if self.true is None else round(float(self.true[indices].sum()), 6),
        }

    def details(self, indices: Tensor) -> dict[str, list[Any]]:
        """Units of each pick."""
        found: dict[str, list[Any]] = {
            "estimated_units": [round(units, 6) for units in self.estimated[indices].tolist()]
        }
        return found if self.true is None else found | {"units": self.true[indices].tolist()}


def known_units(objects: Objects) -> Tensor | None:
    """Units of each image where they are known ``[N]``, float64: given, or the rows of a labelled table, crowds too."""
    if objects.units is not None:
        return objects.units
    return true_units(objects) if objects.scores is None else None


def make_charges(
    objects: Objects | None, size: int, unit: str, charge: Charge | None, estimate: UnitEstimate
) -> Charges:
    """What each image of a pool costs in a unit.

    Args:
        objects: What the images show; None for a pool without.
        size: Images ``N``.
        unit: "images", "boxes" or "masks".
        charge: ``"oracle"`` charges true units, ``"estimate"`` expected ones of proposals; None true ones where they
            are known. Labelled boxes are never estimated.
        estimate: Of the units of images whose true ones are not known.

    Raises:
        ValueError: Another unit, boxes or masks of a pool without objects, or true units that nobody knows.
    """
    if unit not in BUDGET_UNITS:
        msg = f"budget_unit={unit!r} is not accepted: give one of {', '.join(map(repr, BUDGET_UNITS))}."
        raise ValueError(msg)
    if objects is None:
        if unit != "images":
            msg = (
                f"budget_unit={unit!r} is not accepted for a pool without objects: give 'images', or Pool(objects=...)."
            )
            raise ValueError(msg)
        ones = torch.ones(size, dtype=torch.float64)
        return Charges(unit, ones, ones, None, "images")
    true, estimated = known_units(objects), estimate.of(objects)
    if unit == "images":
        return Charges(unit, torch.ones(size, dtype=torch.float64), estimated, true, "images")
    if charge == "oracle" and true is None:
        msg = (
            "charge='oracle' needs the true units of every image, and the objects are proposals without: give "
            "Objects(units=...), or charge='estimate'."
        )
        raise ValueError(msg)
    if true is not None and (charge != "estimate" or objects.scores is None):
        return Charges(unit, true, estimated, true, "true")
    return Charges(unit, estimated, estimated, true, "estimated")


def resolve_units(charges: Charges, *, ratio: float | None, budget: int | None, available: int) -> int:
    """Turn a share of the pool's units, or a count of them, into a count; see `resolve_total`.

    Raises:
        ValueError: Both or neither, or one out of its range.
    """
    if charges.unit == "images":
        return resolve_total(len(charges.prices), ratio=ratio, budget=budget, available=available)
    if ratio is None:
        return resolve_total(available, budget=budget, available=sys.maxsize)
    resolve_total(available, ratio=ratio, budget=budget)
    return max(1, math.floor(ratio * float(charges.prices.sum()) + 0.5))


def make_purse(charges: Charges, total: int, overshoot: Overshoot, candidates: Tensor) -> Purse:
    """A purse for the candidates ``[N]`` of a pool.

    Raises:
        ValueError: Another overshoot, less than the cheapest image costs, or more than all of them.
    """
    if overshoot not in ("never", "last"):
        msg = f"overshoot={overshoot!r} is not accepted: give 'never' or 'last'."
        raise ValueError(msg)
    if charges.unit != "images":
        prices = charges.prices[candidates]
        costing = prices[prices > 0]
        whole, cheapest = float(prices.sum()), float(costing.min()) if len(costing) else 0.0
        if cheapest > total and overshoot == "never":
            msg = (
                f"budget={total} {charges.unit} is less than the cheapest image has ({cheapest:g}): ask for at least "
                f"{-int(-cheapest // 1)}."
            )
            raise ValueError(msg)
        if total > whole + 0.5:
            told = f"budget={total} {charges.unit} is more than the images that may be picked have ({whole:g})"
            if charges.source == "true":
                msg = f"{told}: ask for at most {int(whole)}."
                raise ValueError(msg)
            warnings.warn(f"{told}, by estimate: all that a method can use are chosen.", stacklevel=4)
    return Purse(charges.prices, total, overshoot)
