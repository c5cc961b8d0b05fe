"""Share of each class's items that have a chosen one within their K nearest: the paper's coverage table, measured.

K is the one SubZeroCore derives from the wanted coverage 0.6 and the budget, the same for all methods of a column.

    python -m benchmarks.coverage [--seeds 3] [--quick] [--append]
"""

import statistics
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import EmbeddedSet, mean_and_spread, parser_of, quiet, show, squeezenet_set
from lightning_coreset import select
from lightning_coreset.ops import coverage

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "subzerocore": ("subzerocore", {}),
    "subzerocore, one_sided": ("subzerocore", {"one_sided": True}),
    "subzerocore, shifted": ("subzerocore", {"similarity": "shifted"}),
    "facility_location": ("facility_location", {}),
    "random": ("random", {}),
    "random, by class": ("random", {"per_class": True}),
}
PRUNED = (99, 95, 90, 70)
PAPER = {"facility_location": (56, 60, 61, 65), "subzerocore": (47, 74, 80, 89)}


def class_coverage(pool: EmbeddedSet, chosen: Tensor, neighbors: list[int]) -> float:
    """Percent covered, class by class with its own K, averaged."""
    shares = []
    for label, k in enumerate(neighbors):
        members = (pool.train_labels == label).nonzero().flatten()
        inside = torch.isin(members, chosen).nonzero().flatten()
        shares.append(coverage(pool.train[members], inside, k) if len(inside) else 0.0)
    return 100 * statistics.mean(shares)


def main() -> None:
    """One column for each share that is pruned."""
    parser = parser_of(__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    quiet()
    pool = squeezenet_set(given.cache, given.quick)
    rows = [[name] for name in METHODS]
    solved: list[list[int]] = []
    for pruned in PRUNED:
        ratio = (100 - pruned) / 100
        neighbors = select(pool.train, pool.train_labels, ratio=ratio).manifest["resolved"]["neighbors"]
        solved.append(neighbors)
        for row, (method, arguments) in zip(rows, METHODS.values(), strict=True):
            shares = [
                class_coverage(
                    pool,
                    select(pool.train, pool.train_labels, method=method, ratio=ratio, seed=seed, **arguments).indices,
                    neighbors,
                )
                for seed in range(given.seeds if method == "random" else 1)
            ]
            row.append(mean_and_spread(shares, 1) if method == "random" else f"{shares[0]:.1f}")
    rows += [[f"*paper: {name}*", *map(str, figures)] for name, figures in PAPER.items()]
    texts = [f"{min(column)}" if len(set(column)) == 1 else f"{min(column)} to {max(column)}" for column in solved]
    note = (
        f"{pool.name} embeddings of {len(pool.train)} images. Percent of items with a chosen one within the K nearest "
        f"others of their class (the item itself counts), averaged over the classes; `random` ± deviation over seeds 0 "
        f"to {given.seeds - 1}; K is {', '.join(texts)}."
    )
    header = ["method", *(f"{pruned} % pruned" for pruned in PRUNED)]
    show("Coverage", note, header, rows, given.append)


if __name__ == "__main__":
    main()
