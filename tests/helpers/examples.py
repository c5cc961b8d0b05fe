"""Small data whose answers are known, and the methods by what they promise."""

import torch
from torch import Tensor

from lightning_coreset import DQv2


class QuantizedArrays(DQv2, name="dq_v2_example"):
    """`DQv2` as it works on arrays, without new images: what all methods promise, it promises too."""

    def __init__(self, *, augment: float = 0, per_class: bool | None = None) -> None:
        super().__init__(augment=augment, per_class=per_class)


CLASSWISE = ("dq_v2_example", "facility_location", "graph_cut", "herding", "moderate", "subzerocore", "uniform")
GLOBAL = ("k_center", "prototypes", "random", "typiclust")
METHODS = tuple(sorted(CLASSWISE + GLOBAL))
#: Methods without a random choice: their picks do not depend on the order of the items.
UNSEEDED = ("facility_location", "graph_cut", "herding", "k_center", "moderate", "subzerocore")
SEEDED = ("dq_v2_example", "prototypes", "random", "typiclust", "uniform")
#: Methods that can select in a pool without labels.
LABEL_FREE = tuple(method for method in METHODS if method != "uniform")
#: Methods that look at the features at all.
SEEING = tuple(method for method in METHODS if method not in ("random", "uniform"))
WEIGHTED = ("facility_location", "subzerocore")


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


def budget_free_arguments(method: str) -> dict[str, int]:
    """Arguments that keep a method's derived arguments from depending on the budget."""
    return {"neighbors": 3} if method == "subzerocore" else {}
