"""Greedy facility location that makes the picks of naive greedy: on CPUs by running estimates, on devices by force."""

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_coreset.ops.objective import FacilityLocationObjective
from lightning_coreset.ops.rows import Ranking, accumulator_dtype, first_argmax

# Sums in float32 are off by far less than this share of what they add up.
_ROUNDING = 128 * torch.finfo(torch.float32).eps
# Estimates are made anew when their doubt exceeds this share of the largest gain,
_LARGEST_DOUBT = 3e-3
# or when a pick changes more than this share of the items, where a whole pass costs less.
_LARGEST_CHANGE = 0.5
_LOOK_ROWS = 64


class RunningGains:
    """Estimates of all marginal gains, kept up by what each pick takes from them, and how far they may be off.

    A pick raises the best value of some items only, and later of few: an item's best value rises O(log k) times in k
    picks, so all updates together cost O(log k) passes over the similarities, where naive greedy needs k.
    """

    def __init__(self, objective: FacilityLocationObjective, candidates: Tensor) -> None:
        self._objective = objective
        self._excluded = ~candidates
        self.estimates = torch.empty(0)
        self.doubt = 0.0
        self.refresh()

    def refresh(self) -> None:
        """All gains from one pass over the similarities."""
        gains = self._objective.all_gains().to(accumulator_dtype(self._excluded.device))
        self.estimates = gains.masked_fill_(self._excluded, -torch.inf)
        self.doubt = _ROUNDING * max(0.0, float(self.estimates.max()))

    def take(self, pick: Tensor, values: Tensor) -> None:
        """Choose a candidate ``[1]`` with its values ``[1, N]``."""
        covered = self._objective.covered
        items = torch.nonzero(values[0] > covered).flatten()
        low, high = covered[items], values[0, items]
        self._excluded[pick] = True
        self.estimates[pick] = -torch.inf
        self._objective.cover(values)
        if len(items) > _LARGEST_CHANGE * len(covered):
            self.refresh()
        elif len(items):
            self.estimates -= self._objective.losses(items, low, high)
            self.doubt += _ROUNDING * self._objective.raised(items, low, high)


def exact_greedy(
    objective: FacilityLocationObjective, candidates: Tensor, count: int, advance: Callable[[int], object] | None
) -> Ranking:
    """The picks and gains of naive greedy, ties to the lowest index.

    Only candidates whose estimate is within its doubt of the largest are evaluated afresh, and the fresh gains
    decide. Gains only shrink, so once all are zero the rest follows in order.

    Args:
        objective: What is covered so far.
        candidates: Which items may be picked ``[N]``.
        count: Number of picks ``k``.
        advance: Called with the number of picks made since the last call.

    Returns:
        Picks in order with their gains. About 1 + log k passes over the similarities, O(N) memory beside them and a
        block of 64 rows.
    """
    running = RunningGains(objective, candidates.clone())
    look = _Look(objective)
    indices: list[int] = []
    gains: list[float] = []
    while len(indices) < count:
        largest = float(running.estimates.max())
        if largest <= 0 and running.doubt == 0:
            rest = torch.nonzero(torch.isfinite(running.estimates)).flatten()[: count - len(indices)].tolist()
            indices += rest
            gains += [0.0] * len(rest)
            _tell(advance, len(rest))
            break
        if running.doubt > _LARGEST_DOUBT * largest:
            running.refresh()
            continue
        near = torch.nonzero(running.estimates >= largest - 2 * running.doubt).flatten()
        values, fresh = look.at(near, running.estimates)
        place = int(first_argmax(fresh))
        indices.append(int(near[place]))
        gains.append(float(fresh[place]))
        running.take(near[place : place + 1], values[place : place + 1])
        _tell(advance, 1)
    device = objective.covered.device
    return Ranking(torch.tensor(indices, device=device), torch.tensor(gains, device=device))


class _Look:
    """Values of candidates; where rows are computed each time, 64 likely ones at once and kept for the next picks."""

    def __init__(self, objective: FacilityLocationObjective) -> None:
        self._objective = objective
        self._kept: Tensor | None = None
        self._place = torch.full((objective.similarity.size,), -1, device=objective.covered.device)

    def at(self, wanted: Tensor, estimates: Tensor) -> tuple[Tensor, Tensor]:
        """Values ``[b, N]`` and fresh gains ``[b]`` of some candidates."""
        if self._objective.similarity.mode == "dense":
            values = self._objective.values(wanted)
        elif len(wanted) > _LOOK_ROWS:
            # Many at once are ties; they are looked at part by part, and only the best of each part is kept.
            return self._best_of_many(wanted)
        else:
            if self._kept is None or bool((self._place[wanted] < 0).any()):
                self._read(wanted, estimates)
            assert self._kept is not None
            values = self._kept[self._place[wanted]]
        return values, self._objective.gains(values)

    def _read(self, wanted: Tensor, estimates: Tensor) -> None:
        likely = estimates.topk(min(_LOOK_ROWS, len(estimates))).indices
        rows = torch.cat([wanted, likely[~torch.isin(likely, wanted)]])[:_LOOK_ROWS]
        self._kept = self._objective.values(rows)
        self._place.fill_(-1)
        self._place[rows] = torch.arange(len(rows), device=rows.device)

    def _best_of_many(self, wanted: Tensor) -> tuple[Tensor, Tensor]:
        fresh = torch.cat([self._objective.gains(self._objective.values(part)) for part in wanted.split(_LOOK_ROWS)])
        best = int(first_argmax(fresh))
        row = self._objective.values(wanted[best : best + 1])
        return row.expand(len(wanted), -1), fresh


def greedy_on_device(
    objective: FacilityLocationObjective, gains: Tensor, count: int, advance: Callable[[int], object] | None
) -> Ranking:
    """Every gain again for every pick: no synchronisation with the host until the end."""
    excluded = torch.isinf(gains)
    indices = torch.empty(count, dtype=torch.int64, device=gains.device)
    values = torch.empty(count, device=gains.device)
    for step in range(count):
        if step:
            gains = objective.all_gains().masked_fill_(excluded, -torch.inf)
        pick = first_argmax(gains).unsqueeze(0)
        indices[step : step + 1] = pick
        values[step : step + 1] = gains.index_select(0, pick)
        excluded.index_fill_(0, pick, True)
        objective.cover(objective.values(pick))
        _tell(advance, 1)
    return Ranking(indices, values)


def _tell(advance: Callable[[int], object] | None, count: int) -> None:
    if advance is not None:
        advance(count)
