"""Which regions of a level are kept: by importance, greedily, or by the coreset selectors of ``ops``."""

import torch
from torch import Tensor

from lightning_coreset.ops import facility_location, herding, k_center
from lightning_coreset.ops.random import seeded_generator
from lightning_coreset.ops.rows import first_argmax
from lightning_coreset.regions.config import HCSConfig
from lightning_coreset.regions.importance import utility
from lightning_coreset.regions.losses import RegionSets

#: Importances that differ by less are ties: equal crops get bits that differ with their place in a batch.
_STEPS = 1e5


def order(score: Tensor, violating: Tensor | None = None) -> Tensor:
    """Positions by falling importance ``[b, m]``, ties to the lowest; those that violate the criterion at the end.

    Example:
        >>> order(torch.tensor([[1.0, 3.0, 3.0000001]])).tolist()
        [[1, 2, 0]]
    """
    found = coarse(score).argsort(dim=1, descending=True, stable=True)
    if violating is None:
        return found
    return found.gather(1, violating.gather(1, found).long().argsort(dim=1, stable=True))


def coarse(score: Tensor) -> Tensor:
    """Importance without its last digits."""
    return (score * _STEPS).round()


def sureness(loss: Tensor) -> Tensor:
    """What falls as a loss grows, and tells small losses apart: minus its logarithm ``[b, m]``.

    A model that is sure of many regions gives losses far below the steps of `coarse`; orders of magnitude still tell
    which it knows best. Scenes with negative losses (of a callable) are compared by the loss itself.

    Example:
        >>> sureness(torch.tensor([[1e-9, 1e-12]])).round()
        tensor([[21., 28.]])
    """
    tiny = torch.finfo(loss.dtype).tiny
    return torch.where((loss < 0).any(dim=1, keepdim=True), -loss, -loss.clamp(min=tiny).log())


def choose(
    config: HCSConfig,
    keep: int,
    number: int,
    terms: dict[str, Tensor],
    sets: RegionSets,
    embeddings: Tensor,
    area: Tensor,
    whole: Tensor,
    floored: Tensor,
    violating: Tensor | None,
) -> Tensor:
    """Positions of the kept regions ``[b, keep]``, -1 where greedy selection stopped early.

    Args:
        config: The choices.
        keep: How many.
        number: Of the level, for random selection.
        terms: Its terms, ``score`` among them, each ``[b, m]``.
        sets: Losses of sets of the candidates.
        embeddings: Unit rows ``[b, m, d]``.
        area: Share of the scene ``[b, m]``.
        whole: L(X) ``[b, 1]``.
        floored: l0 ``[b, 1]``.
        violating: Which violate the criterion ``[b, m]``.
    """
    images, count = terms["score"].shape
    keep = min(keep, count)
    if config.select == "greedy":
        return _greedy(config, keep, terms, sets, area, whole, floored)
    if config.select == "rank":
        return order(terms["score"], violating)[:, :keep]
    if config.select == "random":
        drawn = torch.randperm(count, generator=seeded_generator(config.seed, "regions", number))[:keep]
        return drawn.to(terms["score"].device).expand(images, keep)
    if config.select == "k_center":
        # The start is the most important region, not the one nearest to the mean.
        first = order(terms["score"])[:, 0].tolist()
        picks = [k_center(rows, keep, start=start).indices for rows, start in zip(embeddings, first, strict=True)]
    elif config.select == "facility_location":
        picks = [facility_location(rows, keep, mode="dense").indices for rows in embeddings]
    else:
        picks = [herding(rows, keep) for rows in embeddings]
    return torch.stack(picks)


def _greedy(
    config: HCSConfig,
    keep: int,
    terms: dict[str, Tensor],
    sets: RegionSets,
    area: Tensor,
    whole: Tensor,
    floored: Tensor,
) -> Tensor:
    """Add the region that raises F(A) most, until none does.

    F(A) is the utility of the set (Eq. 3 for the mean of its logits and its area) plus the mean of the other terms of
    its members.
    """
    member = terms["score"] - terms["ut"]
    chosen = torch.zeros_like(area, dtype=torch.bool)
    kept = torch.full((len(area), keep), -1, dtype=torch.int64, device=area.device)
    best = torch.full((len(area),), -torch.inf, dtype=area.dtype, device=area.device)
    for step in range(keep):
        covered = (area * chosen).sum(dim=1, keepdim=True) + area
        others = ((member * chosen).sum(dim=1, keepdim=True) + member) / (chosen.sum(dim=1, keepdim=True) + 1)
        value = utility(sets.joined(chosen), whole, floored, covered, config.lam, config.utility) + others
        pick = first_argmax(coarse(value).masked_fill(chosen, -torch.inf)).unsqueeze(1)
        reached = value.gather(1, pick).squeeze(1)
        better = coarse(reached) > coarse(best)
        if not bool(better.any()):
            break
        kept[:, step] = torch.where(better, pick.squeeze(1), -1)
        chosen |= torch.zeros_like(chosen).scatter(1, pick, better.unsqueeze(1))
        # One that stopped once has stopped.
        best = torch.where(better, reached, torch.inf)
    return kept
