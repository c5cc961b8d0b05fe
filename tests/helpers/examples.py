"""Small data whose answers are known, and the methods by what they promise."""

from dataclasses import replace

import torch
from torch import Tensor

from lightning_coreset import DQv2, Pool, Signals


class QuantizedArrays(DQv2, name="dq_v2_example"):
    """`DQv2` as it works on arrays, without new images: what all methods promise, it promises too."""

    def __init__(self, *, augment: float = 0, per_class: bool | None = None) -> None:
        super().__init__(augment=augment, per_class=per_class)


#: Methods that take the items with the highest score.
SCORED = ("aum", "cal", "deepfool", "el2n", "forgetting", "grand", "uncertainty")
#: Methods that need training signals.
RECORDED = (*SCORED, "ccs", "craig", "d2", "glister", "grad_match")
CLASSWISE = (
    *("dq_v2_example", "facility_location", "graph_cut", "herding", "moderate", "subzerocore", "uniform"),
    *("craig", "grad_match"),
)
GLOBAL = (
    *("freesel", "hacon", "k_center", "prototypes", "random", "typiclust", "zcore"),
    *SCORED,
    *("ccs", "d2", "glister"),
)
METHODS = tuple(sorted(CLASSWISE + GLOBAL))
#: Methods without a random choice: their picks do not depend on the order of the items.
UNSEEDED = (
    *("facility_location", "graph_cut", "herding", "k_center", "moderate", "subzerocore"),
    *(*SCORED, "craig", "d2", "grad_match"),
)
SEEDED = (
    *("ccs", "dq_v2_example", "freesel", "glister", "hacon", "prototypes", "random", "typiclust", "uniform", "zcore"),
)
#: Methods that can select in a pool without labels.
LABEL_FREE = tuple(method for method in METHODS if method != "uniform")
#: Methods that look at the features at all.
SEEING = tuple(method for method in METHODS if method not in ("random", "uniform"))
WEIGHTED = ("facility_location", "subzerocore")
#: Methods whose weights come from gradients.
WEIGHTED_BY_GRADIENTS = ("craig", "grad_match")


def normal_rows(size: int, width: int = 16, seed: int = 0) -> Tensor:
    """Rows in general position: no ties."""
    return torch.randn(size, width, generator=torch.Generator().manual_seed(seed))


def clouds(sizes: list[int], width: int = 16, seed: int = 0, spread: float = 0.6) -> tuple[Tensor, Tensor]:
    """One cloud of rows around a random centre for each class, in mixed order: features [N, d], labels [N]."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels), generator=generator)]
    centers = torch.randn(len(sizes), width, generator=generator)
    return centers[labels] + spread * torch.randn(len(labels), width, generator=generator), labels


def tied_rows(size: int, width: int = 6, seed: int = 0) -> Tensor:
    """Rows with four entries of +-1 and zeros elsewhere: full of ties, and exact in float32.

    Their length is 2, so unit rows hold +-1/2 and all cosines are multiples of 1/4. Sums of those have no rounding,
    whatever their order, so naive and clever greedy must agree pick by pick.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.zeros(size, width)
    for row in rows:
        places = torch.randperm(width, generator=generator)[:4]
        row[places] = torch.randint(0, 2, (4,), generator=generator).float() * 2 - 1
    return rows


def signals_of(features: Tensor, labels: Tensor | None) -> Signals:
    """A recording that hangs on nothing but each item's own row and class, not on its place or its length.

    Four epochs of two runs in which the label's logit grows, unevenly. Classes that do not occur have logits that no
    softmax sees, so that only the order of the labels matters; two more classes do occur in the logits.
    """
    labels = torch.zeros(len(features), dtype=torch.int64) if labels is None else labels
    present = labels.unique()
    generator = torch.Generator().manual_seed(0)
    rows = features.double()
    # Powers of two, so that lengths go without rounding.
    rows = rows / 2.0 ** rows.abs().amax(dim=1, keepdim=True).clamp(min=1e-30).log2().floor()
    rows = torch.nn.functional.normalize(rows, dim=1)
    columns = torch.cat([present, labels.max() + torch.tensor([1, 2])])
    logits = torch.full((4, len(rows), int(columns.max()) + 1), -60.0, dtype=torch.float64)
    for epoch in range(4):
        mixing = torch.randn(rows.shape[1], len(columns), dtype=torch.float64, generator=generator)
        logits[epoch][:, columns] = 3 * torch.sin(3 * rows @ mixing + 0.1 * epoch)
    own = logits.gather(2, labels.expand(4, -1).unsqueeze(2))
    growth = torch.tensor([0.5, 2.0, 0.5, 2.0], dtype=torch.float64)[:, None, None]
    logits.scatter_(2, labels.expand(4, -1).unsqueeze(2), own + growth)
    found = Signals.from_logits(logits, labels, embeddings=rows)
    return replace(found, runs=torch.tensor([0, 0, 1, 1]))


def pool_of(method: str, features: Tensor | None, labels: Tensor | None, signals: Signals | None = None) -> Pool:
    """A pool with what a method needs; signals, unless given, follow from the features."""
    if method in RECORDED and signals is None and features is not None:
        signals = signals_of(features, labels)
    return Pool(features, labels, signals=signals if method in RECORDED else None)


def budget_free_arguments(method: str) -> dict[str, int]:
    """Arguments that keep a method's derived arguments from depending on the budget."""
    return {"neighbors": 3} if method == "subzerocore" else {}
