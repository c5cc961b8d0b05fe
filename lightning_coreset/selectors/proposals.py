"""What the methods share that choose by proposals: which of them count, and what an image is charged."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from lightning_coreset.detection import Calibration, Objects, UnitEstimate
from lightning_coreset.selectors.checks import check_least
from lightning_coreset.selectors.context import SelectionContext
from lightning_coreset.selectors.detection import DetectionSelector
from lightning_coreset.selectors.facility_location import check_words
from lightning_coreset.selectors.object_rows import usable
from lightning_coreset.selectors.units import PLAIN_ESTIMATE, Charge, Charges, make_charges


class ProposalSelector(DetectionSelector):
    """Chooses images by proposals above a threshold.

    Args:
        per_class: Must stay at its default: an image shows several classes.
        threshold: Least score of a proposal that counts, one number or one for each class; labelled boxes all count.
        min_box_area: Least share of its image; 0 keeps all, and so do objects without ``image_sizes``.
        calibration: File of a `Calibration`: its thresholds and, where it has one, its estimate of units.
        charge: In boxes or masks: ``"estimate"`` charges expected units, ``"oracle"`` true ones, which must be known.
        estimate: ``a`` and ``b`` of the expected units ``a + b * sum of scores`` of all proposals of an image; None
            takes what the surroundings have fitted, else 0 and 1.
        overshoot: In boxes or masks: ``"never"``, or ``"last"`` for one image above the budget.
    """

    def __init__(
        self,
        *,
        per_class: bool | None = None,
        threshold: float | list[float] = 0.0,
        min_box_area: float = 5e-4,
        calibration: str | None = None,
        charge: Charge = "estimate",
        estimate: tuple[float, float] | None = None,
        overshoot: Literal["never", "last"] = "never",
    ) -> None:
        super().__init__(per_class=per_class, overshoot=overshoot)
        self.threshold = threshold
        self.min_box_area = min_box_area
        self.calibration = calibration
        self.charge = charge
        self.estimate = estimate

    def check(self) -> None:
        """Refuse arguments out of their range."""
        super().check()
        if self.calibration is not None and self.threshold != 0.0:
            msg = (
                f"threshold={self.threshold!r} beside calibration= is not accepted: the file holds one; leave one out."
            )
            raise ValueError(msg)
        check_words(charge=(self.charge, ("estimate", "oracle")))
        check_least(0, min_box_area=self.min_box_area)
        for value in self.threshold if isinstance(self.threshold, Sequence) else [self.threshold]:
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                msg = f"threshold={self.threshold!r} is not accepted: give scores from 0 to 1, one or one a class."
                raise ValueError(msg)
        if self.estimate is not None:
            numbers = isinstance(self.estimate, Sequence) and len(self.estimate) == 2
            if not numbers or not all(isinstance(number, int | float) for number in self.estimate):
                msg = f"estimate={self.estimate!r} is not accepted: give a and b of a + b * sum of scores."
                raise ValueError(msg)

    def check_objects(self, objects: Objects | None) -> None:
        """Refuse a pool without a proposal that counts, and thresholds of other classes."""
        super().check_objects(objects)
        assert objects is not None
        if isinstance(self.threshold, Sequence) and len(self.threshold) != objects.num_classes:
            msg = f"threshold holds {len(self.threshold)} scores for {objects.num_classes} classes: give one for each."
            raise ValueError(msg)
        if not bool(self.counting(objects).any()):
            msg = (
                f"No proposal of {len(objects)} has threshold={self.threshold!r} and min_box_area={self.min_box_area!r}"
                ": lower them, or calibrate the proposer."
            )
            raise ValueError(msg)

    def charges(self, objects: Objects | None, size: int, unit: str, context: SelectionContext) -> Charges:
        """What each image costs, true or expected."""
        own = None if self.estimate is None else UnitEstimate(*map(float, self.estimate))
        fitted = None if self.calibration is None else Calibration.load(self.calibration).units
        return make_charges(objects, size, unit, self.charge, own or fitted or context.unit_estimate or PLAIN_ESTIMATE)

    def counting(self, objects: Objects) -> Tensor:
        """Which proposals count, as a mask ``[M]``: sure enough, large enough, no crowd."""
        mask = usable(objects)
        if self.calibration is not None:
            mask &= Calibration.load(self.calibration).reached(objects)
        elif objects.scores is not None:
            least = torch.as_tensor(self.threshold, dtype=torch.float32)
            mask &= objects.scores >= (least[objects.labels] if least.ndim else least)
        if objects.image_sizes is not None:
            whole = objects.image_sizes[objects.image].double().prod(dim=1)
            mask &= objects.areas() >= self.min_box_area * whole
        return mask
