"""Arrays in, coreset out: selection without Lightning."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_coreset.coreset import Coreset
from lightning_coreset.data import thumbnails
from lightning_coreset.ops import duplicate_groups
from lightning_coreset.ops.spending import Overshoot
from lightning_coreset.pool import Pool
from lightning_coreset.registry import build_selector
from lightning_coreset.selectors.base import Selector
from lightning_coreset.selectors.context import SelectionContext


def select(
    features: Any,
    labels: Any | None = None,
    *,
    method: str | Selector = "subzerocore",
    ratio: float | None = None,
    budget: int | None = None,
    budget_unit: str = "images",
    overshoot: Overshoot | None = None,
    per_class: bool | None = None,
    num_classes: int | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    memory_limit: int | str = "auto",
    initial: Tensor | Sequence[int] | None = None,
    forbidden: Tensor | Sequence[int] | None = None,
    group_duplicates: bool = False,
    **method_args: Any,
) -> Coreset:
    """Choose the part of a pool that is worth keeping.

    Args:
        features: Embeddings ``[N, d]``, array or tensor; or a `Pool`.
        labels: Class of each item ``[N]``; None for an unlabelled pool.
        method: Name of a method (`list_selectors`), or a selector.
        ratio: Share to keep, in (0, 1]: of the items, or of the pool's units. Give this or ``budget``.
        budget: Number of items to keep, or of their units.
        budget_unit: What the budget counts: "images", or the "boxes" or "masks" of a ``Pool(objects=...)``: true ones
            where they are known, else expected ones.
        overshoot: In boxes or masks: ``"never"`` passes over an image that does not fit, ``"last"`` takes the first one
            that does not, and ends; None takes the method's own argument of that name, else "never".
        per_class: Share the budget over the classes; None is the method's default.
        num_classes: Number of classes; given, an empty class is an error.
        seed: Of every random choice.
        device: Where to compute; None is where the features are.
        memory_limit: Bytes that may be used, ``"auto"`` for half of what is free. Picks do not depend on it.
        initial: Positions that count as chosen already; not returned, at no cost to the budget.
        forbidden: Positions that may not be chosen.
        group_duplicates: One candidate of each group of near duplicates among the images of a ``Pool(images=...)``.
        **method_args: Arguments of the method.

    Returns:
        The chosen items in order, with weights, gains and manifest. Time and memory are those of the method.

    Raises:
        ValueError: A wrong value; the message says what came, what is accepted and what to do.
        TypeError: An argument that the method does not know.

    Example:
        >>> coreset = select(torch.eye(6), [0, 0, 0, 1, 1, 1], method="herding", ratio=0.5)
        >>> coreset.indices.tolist()
        [0, 3, 1]
    """
    if isinstance(features, Pool):
        if labels is not None or num_classes is not None:
            msg = (
                "labels= and num_classes= beside a Pool are not accepted: the Pool holds its own, give them to "
                "Pool(...)."
            )
            raise ValueError(msg)
        pool = features
    else:
        pool = Pool(features, labels, num_classes=num_classes)
    if isinstance(method, Selector):
        if per_class is not None or method_args:
            given = ["per_class"] * (per_class is not None) + list(method_args)
            msg = f"{given[0]}= beside a selector object is not accepted: give it to {type(method).__name__}(...)."
            raise ValueError(msg)
        selector = method
    else:
        selector = build_selector(method, method_args | ({} if per_class is None else {"per_class": per_class}))
    context = SelectionContext(
        duplicates=_groups(pool) if group_duplicates else None,
        device=None if device is None else torch.device(device),
        memory_limit=memory_limit,
    )
    asked: dict[str, Any] = {"budget_unit": budget_unit, "initial": initial, "forbidden": forbidden, "context": context}
    total = selector.resolve_budget(pool, ratio=ratio, budget=budget, **asked)
    return selector.select(pool, total, seed=seed, overshoot=overshoot, **asked)


def _groups(pool: Pool) -> Tensor:
    if pool.images is None:
        msg = "group_duplicates=True compares images and the pool has none: give Pool(images=...)."
        raise ValueError(msg)
    return duplicate_groups(thumbnails(pool.images))
