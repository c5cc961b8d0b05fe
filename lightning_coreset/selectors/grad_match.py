"""GRAD-MATCH: few items whose weighted gradients add up to those of all."""

import torch

from lightning_coreset.ops.matching_pursuit import matching_pursuit
from lightning_coreset.selectors.base import Selector
from lightning_coreset.selectors.cost import Work, gradient_work
from lightning_coreset.selectors.craig import group_gradients
from lightning_coreset.selectors.group import Group, Picks


class GradMatch(Selector, name="grad_match"):
    """Orthogonal matching pursuit of the sum of all last-layer gradients, with non-negative weights and a ridge.

    Weights are those of the last step, scaled so that they sum to the size of the class; always as many picks as asked
    for, though some may weigh 0. Gradients are ``(p - y) [h, 1]^T``, or ``p - y`` where the recording has no
    embeddings ``h``. O(k n C h + k^3) time and ``8 k^2`` bytes for ``k`` picks of ``n`` items: select by class where
    ``k`` is large. Paper: Killamsetty et al. 2021.

    Args:
        per_class: Match the sum of each class (default), or of the whole pool.
        ridge: Above 0, in units of the mean squared length of a gradient; larger spreads the weights more evenly.

    Raises:
        ValueError: On selecting with a ridge that is not positive, or from a recording that lacks an item.

    Example:
        >>> from lightning_coreset import Pool, Signals, select
        >>> signals = Signals.from_logits(torch.tensor([[4.0, 0.0], [0.0, 4.0], [0.0, 3.0]]), [0, 0, 0])
        >>> coreset = select(Pool(signals=signals), method="grad_match", budget=2)
        >>> coreset.indices.tolist(), float((coreset.weights * coreset.manifest["weight_scale"]).sum())
        ([1, 2], 3.0)
    """

    needs = frozenset({"signals"})
    weighted = True
    per_class_default = True

    def __init__(self, *, per_class: bool | None = None, ridge: float = 0.5) -> None:
        super().__init__(per_class=per_class)
        self.ridge = ridge

    def check(self) -> None:
        """Refuse a ridge that is not positive."""
        if isinstance(self.ridge, bool) or not self.ridge > 0:
            msg = f"ridge={self.ridge!r} is not accepted: give a positive number."
            raise ValueError(msg)

    def work(self, size: int, width: int, count: int, memory_limit: int) -> Work:
        """A product with all gradients for each pick, and the inverse of those among picks."""
        found = gradient_work(size, width, count, copies=2)
        return found._replace(bytes=found.bytes + 8 * count * (count + width))

    def select_group(self, group: Group) -> Picks:
        """See `lightning_coreset.ops.matching_pursuit`."""
        indices, gains, weights = matching_pursuit(
            group_gradients(group),
            group.count,
            ridge=self.ridge,
            initial=group.initial,
            forbidden=group.forbidden,
            advance=group.advance,
        )
        # Nothing to match, or initial items that match it alone: all picks count alike.
        weights = weights if bool(weights.sum() > 0) else torch.ones_like(weights)
        return Picks(indices, gains, weights=weights * (group.size / weights.sum()))
