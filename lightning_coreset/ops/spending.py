"""A budget in units: what an image costs, and whether it still fits."""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

Overshoot = Literal["never", "last"]

# Sums of estimates round: what fits but for so small a part of the budget fits.
_SLACK = 1e-9


class Purse:
    """What is left of a budget while images are chosen one by one.

    Args:
        charges: What each image costs ``[N]``, float64, at least 0.
        total: The budget.
        overshoot: ``"never"`` passes over what does not fit; ``"last"`` takes the first image that does not, and ends.

    Example:
        >>> purse = Purse(torch.tensor([3.0, 4.0, 1.0]), 5)
        >>> [purse.take(image) for image in range(3)], purse.spent
        ([True, False, True], 4.0)
    """

    def __init__(self, charges: Tensor, total: float, overshoot: Overshoot = "never") -> None:
        self.charges = charges.detach().cpu().to(torch.float64)
        self._prices: list[float] = self.charges.tolist()
        self.total = float(total)
        self.overshoot = overshoot
        self.spent = 0.0
        self.refused = False
        self._closed = False

    @property
    def left(self) -> float:
        """What may still be spent; 0 once an image has exceeded the budget."""
        return 0.0 if self._closed else max(0.0, self.total - self.spent)

    def fits(self, image: int) -> bool:
        """Whether an image may be taken."""
        if self._closed:
            return False
        return self._within(self._prices[image]) or (self.overshoot == "last" and self.left > 0)

    def fitting(self) -> Tensor:
        """Which images may be taken, as a mask ``[N]``."""
        if self._closed:
            return torch.zeros(len(self.charges), dtype=torch.bool)
        if self.overshoot == "last" and self.left > 0:
            return torch.ones(len(self.charges), dtype=torch.bool)
        return self.charges <= self.left + _SLACK * self.total

    def take(self, image: int) -> bool:
        """Pay for an image, where it fits."""
        if not self.fits(image):
            self.refused = True
            return False
        price = self._prices[image]
        self._closed = not self._within(price)
        self.spent += price
        return True

    def fresh(self) -> "Purse":
        """The same budget, of which nothing is spent."""
        return Purse(self.charges, self.total, self.overshoot)

    def raise_to(self, total: float) -> None:
        """Go on with a larger budget."""
        self.total, self._closed = float(total), False

    def walk(self, order: Iterable[int]) -> list[int]:
        """Take what fits of images in their order; after the first that did not, nothing that costs nothing.

        Without that rule the last units would bring all images that are free, however far down they stand.
        """
        taken = []
        for image in order:
            if self._closed:
                break
            if (self._prices[image] > 0 or not self.refused) and self.take(image):
                taken.append(image)
        return taken

    def _within(self, price: float) -> bool:
        return price <= self.left + _SLACK * self.total
