"""GLISTER: items whose gradients lower the loss on held-out items."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_coreset.ops.gradients import Gradients
from lightning_coreset.ops.rows import first_argmax
from lightning_coreset.selectors.base import Selector
from lightning_coreset.selectors.checks import check_least, check_whole
from lightning_coreset.selectors.cost import Work, gradient_work
from lightning_coreset.selectors.craig import group_gradients
from lightning_coreset.selectors.group import Group, Picks


class Glister(Selector, name="glister"):
    """Greedy on the gain of held-out items, whose gradient follows the last layer as picks move it.

    The gain of an item is ``<g_i, sum_v g_v>`` over the held-out items ``v``: what a step along its gradient lowers
    their loss by, to first order. After each block of picks the layer takes their step, ``W - eta sum_A g_a``, and the
    held-out gradient is computed anew at the logits that follow.

    It needs a validation split: a share of the pool that is drawn by the seed, or positions. Held-out items come last:
    they are picked when nothing else is left. (To keep given positions out for good, forbid them too.)

    O(k n C h / b) time for ``k`` picks of ``n`` items in blocks of ``b``, O(n (C + h)) memory. Paper: Killamsetty et
    al. 2021.

    Args:
        per_class: Held-out items and picks of each class instead of the whole pool (default: the whole pool).
        validation: Share of the items to hold out, in (0, 1), or the positions of those to hold out.
        block: Picks between two looks at the held-out gradient.
        learning_rate: ``eta`` in units of 1 / mean ``||[h, 1]||^2``, by how much a pick moves the logits of its like.

    Raises:
        ValueError: On selecting with an argument out of its range, from a recording that lacks an item, or with
            positions of which a class has none.

    Example:
        >>> from lightning_coreset import Pool, Signals, select
        >>> signals = Signals.from_logits(torch.tensor([[0.0, 2.0], [2.0, 0.0], [0.0, 1.0]]), [0, 0, 0])
        >>> select(Pool(signals=signals), method="glister", budget=2, validation=[2]).indices.tolist()
        [0, 1]
    """

    needs = frozenset({"signals"})

    def __init__(
        self,
        *,
        per_class: bool | None = None,
        validation: float | Sequence[int] = 0.1,
        block: int = 10,
        learning_rate: float = 1.0,
    ) -> None:
        super().__init__(per_class=per_class)
        self.validation = validation
        self.block = block
        self.learning_rate = learning_rate

    def check(self) -> None:
        """Refuse arguments out of their range."""
        check_whole(block=self.block)
        check_least(0, learning_rate=self.learning_rate)
        share = isinstance(self.validation, float) and 0 < self.validation < 1
        listed = _positions(self.validation)
        if not share and (listed is None or not len(listed)):
            msg = (
                f"validation={self.validation!r} is not accepted: 'glister' needs a validation split, give a share in "
                "(0, 1) or the positions of held-out items."
            )
            raise ValueError(msg)

    @property
    def arguments(self) -> dict[str, Any]:
        """The constructor's values, positions as plain numbers."""
        listed = _positions(self.validation)
        return super().arguments | ({} if listed is None else {"validation": listed.tolist()})

    def work(self, size: int, width: int, count: int, memory_limit: int) -> Work:
        """A product with all gradients for each block of picks."""
        return gradient_work(size, width, -(-count // self.block), copies=4)

    def select_group(self, group: Group) -> Picks:
        """Blocks of the highest gains, each against the layer that the earlier ones have moved."""
        held = self._held_out(group)
        gradients = group_gradients(group)
        device = gradients.inputs.device
        rate = self.learning_rate / float(gradients.inputs.square().sum(dim=1).mean())
        watched = _Watched(gradients.rows(held), group, held)
        equal = gradients.equal()
        candidates = group.candidates.clone()
        last = torch.zeros_like(candidates)
        last[held] = True
        moved = gradients.total(group.initial)
        indices = torch.empty(group.count, dtype=torch.int64, device=device)
        gains = torch.empty(group.count, device=device)
        done = 0
        while done < group.count:
            gain = gradients.along(watched.gradient(rate * moved), equal)
            first = candidates & ~last
            allowed = first if bool(first.any()) else candidates
            gain.masked_fill_(~allowed, -torch.inf)
            size = min(self.block, group.count - done, int(allowed.sum()))
            for place in range(done, done + size):
                pick = first_argmax(gain)
                indices[place], gains[place] = pick, gain[pick]
                gain[pick] = -torch.inf
            block = indices[done : done + size]
            candidates[block] = False
            moved += gradients.total(block)
            done += size
            if group.advance is not None:
                group.advance(size)
        return Picks(indices, gains, resolved={"validation_items": len(held)})

    def _held_out(self, group: Group) -> Tensor:
        """Rows of the group that are held out, ascending."""
        listed = _positions(self.validation)
        device = group.initial.device
        if listed is None:
            assert isinstance(self.validation, float)
            count = max(1, int(self.validation * group.size + 0.5))
            return torch.randperm(group.size, generator=group.generator())[:count].sort().values.to(device)
        positions = torch.arange(group.size) if group.positions is None else group.positions
        size = len(group.recorded if group.pool_signals is None else group.pool_signals)
        wrong = listed[(listed < 0) | (listed >= size)]
        if len(wrong):
            msg = (
                f"validation holds {int(wrong[0])}, but positions go from 0 to {size - 1}: give positions in this pool."
            )
            raise ValueError(msg)
        rows = torch.nonzero(torch.isin(positions, listed)).flatten()
        if not len(rows):
            msg = (
                f"validation holds no item of class {group.label}: give one of each class, or select with "
                "per_class=False."
            )
            raise ValueError(msg)
        return rows.to(device)


class _Watched:
    """The held-out items, and their gradient wherever the layer has moved."""

    def __init__(self, gradients: Gradients, group: Group, held: Tensor) -> None:
        rows = held.cpu()
        self._inputs = gradients.inputs
        self._logits = group.recorded.logits[rows].to(held.device)
        self._labels = group.recorded.labels[rows].to(held.device)

    def gradient(self, moved: Tensor) -> Tensor:
        """``sum_v (softmax(f_v - D [h_v, 1]) - y_v) [h_v, 1]^T`` for a layer moved by ``-D`` ``[C, h]``."""
        residuals = (self._logits - self._inputs @ moved.to(self._inputs.dtype).T).softmax(dim=1)
        residuals[torch.arange(len(residuals), device=residuals.device), self._labels] -= 1
        return Gradients(residuals, self._inputs).total()


def _positions(validation: float | Sequence[int]) -> Tensor | None:
    """Held-out positions; None where a share was given, or what is neither."""
    if isinstance(validation, bool | float | int | str) or validation is None:
        return None
    listed = torch.as_tensor(validation).flatten()
    return None if listed.is_floating_point() or listed.dtype == torch.bool else listed.long()
