"""Test accuracy on CIFAR-10 of a linear layer trained on what each method chose, and what it chose.

All 50,000 train and 10,000 test images. Embeddings by SqueezeNet (ImageNet), and by a ResNet-20 that was trained on
all labels of the pool, which no one has who still must choose.

    python -m benchmarks.cifar10 [--ratios 0.01 0.05 0.1 0.3] [--steps 1000] [--seeds 5] [--quick] [--append]
"""

import statistics
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common import EmbeddedSet, mean_and_spread, parser_of, quiet, resnet20_set, show, squeezenet_set
from lightning_coreset import Coreset, select
from lightning_coreset.ops import knn_radius

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "subzerocore": ("subzerocore", {}),
    "subzerocore, one_sided": ("subzerocore", {"one_sided": True}),
    "facility_location": ("facility_location", {}),
    "k_center": ("k_center", {}),
    "herding": ("herding", {}),
    "random": ("random", {}),
    "uniform": ("uniform", {}),
}
SEEDED = ("random", "uniform")
BATCH = 128
# One K for all ratios, so that densities can be compared; SubZeroCore's own K changes with the budget.
DENSITY_NEIGHBORS = 18


def probe(rows: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor, steps: int, seed: int) -> float:
    """Test accuracy in percent of a linear layer after a fixed number of steps, whatever the number of rows."""
    generator = torch.Generator().manual_seed(seed)
    layer = nn.utils.skip_init(nn.Linear, rows.shape[1], 10)
    nn.init.normal_(layer.weight, std=0.01, generator=generator)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.003, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.003, steps)
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        while len(order) < BATCH:
            order = torch.cat([order, torch.randperm(len(rows), generator=generator)])
        batch, order = order[:BATCH], order[BATCH:]
        optimizer.zero_grad()
        nn.functional.cross_entropy(layer(rows[batch]), labels[batch]).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return 100 * float((layer(test).argmax(1) == test_labels).float().mean())


def describe(pool: EmbeddedSet, radii: Tensor, coreset: Coreset) -> tuple[float, float, float]:
    """How far the chosen ones' mean is from the class mean, how near all are to a chosen one, how dense these lie.

    Means over the classes, on unit rows: distance of the means; mean cosine of an item to the nearest chosen one; mean
    place of the chosen ones among the radii of their class, 0 the densest, 1 the loneliest, 0.5 expected of random.
    """
    gaps, near, places = [], [], []
    picked = torch.zeros(len(pool.train), dtype=torch.bool)
    picked[coreset.indices] = True
    for label in pool.train_labels.unique().tolist():
        members = pool.train_labels == label
        rows = nn.functional.normalize(pool.train[members])
        chosen = picked[members]
        if not chosen.any():
            continue
        gaps.append(float((rows[chosen].mean(0) - rows.mean(0)).norm()))
        near.append(float(torch.cat([(part @ rows[chosen].T).amax(1) for part in rows.split(1_000)]).mean()))
        ranks = radii[members].argsort().argsort().float() / max(1, len(rows) - 1)
        places.append(float(ranks[chosen].mean()))
    return statistics.mean(gaps), statistics.mean(near), statistics.mean(places)


def radii_of(pool: EmbeddedSet) -> Tensor:
    """Distance of each item to its 18th nearest neighbour of its class ``[N]``."""
    radii = torch.empty(len(pool.train))
    for label in pool.train_labels.unique().tolist():
        radii[pool.train_labels == label] = knn_radius(pool.of_class(label), DENSITY_NEIGHBORS)
    return radii


def run(pool: EmbeddedSet, ratios: list[float], steps: int, seeds: int, append: bool) -> None:
    """Select, probe and describe for all ratios and methods on one set of embeddings."""
    shift, scale = pool.train.mean(0), pool.train.std(0).clamp(min=1e-3)
    rows, test = (pool.train - shift) / scale, (pool.test - shift) / scale
    radii = radii_of(pool)
    everything = [probe(rows, pool.train_labels, test, pool.test_labels, steps, seed) for seed in range(seeds)]
    accuracies = [["everything", *[mean_and_spread(everything)] * len(ratios)]]
    accuracies += [[name] for name in METHODS]
    seconds: list[list[object]] = [[name] for name in METHODS]
    found: list[list[object]] = []
    for ratio in ratios:
        for place, (name, (method, arguments)) in enumerate(METHODS.items()):
            coresets = [
                select(pool.train, pool.train_labels, method=method, ratio=ratio, seed=seed, **arguments)
                for seed in range(seeds if name in SEEDED else 1)
            ]
            results = []
            for seed in range(seeds):
                chosen = coresets[seed % len(coresets)].indices
                labels = pool.train_labels[chosen]
                results.append(probe(rows[chosen], labels, test, pool.test_labels, steps, seed))
            accuracies[place + 1].append(mean_and_spread(results))
            seconds[place].append(f"{coresets[0].manifest['seconds']:.2f}")
            gap, near, density = (
                statistics.mean(values) for values in zip(*(describe(pool, radii, c) for c in coresets), strict=True)
            )
            found.append([f"{100 * ratio:g} %", name, f"{gap:.4f}", f"{near:.4f}", f"{density:.3f}"])
    columns = [f"{100 * ratio:g} %" for ratio in ratios]
    setting = (
        f"{pool.name} embeddings, {pool.train.shape[1]} wide; {len(rows)} train and {len(test)} test images; "
        f"{steps} steps of AdamW, batch {BATCH}; seeds 0 to {seeds - 1}"
    )
    note = (
        f"{setting}: of the linear layer and its batches, and of `random` and `uniform`. Test accuracy %, ± deviation."
    )
    show(f"CIFAR-10, linear layer on {pool.name}", note, ["method", *columns], accuracies, append)
    note = "Seconds of selection, without the feature pass."
    show(f"CIFAR-10, time of selection on {pool.name}", note, ["method", *columns], seconds, append)
    note = (
        "Means over the classes, on unit rows: distance between the mean of the chosen and of the class; cosine of an "
        "item to its nearest chosen one; place of the chosen among the class's radii to the 18th neighbour (0 densest, "
        "1 loneliest, 0.5 expected of random)."
    )
    header = ["kept", "method", "mean gap", "nearest chosen", "place by radius"]
    show(f"CIFAR-10, what was chosen on {pool.name}", note, header, found, append)


def main() -> None:
    """Both sets of embeddings."""
    parser = parser_of(__doc__)
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.01, 0.05, 0.1, 0.3])
    parser.add_argument("--steps", type=int, default=1_000)
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    quiet()
    for read in (squeezenet_set, resnet20_set):
        pool = read(given.cache, given.quick)
        if pool is None:
            print("The weights of the ResNet-20 need LIGHTNING_CORESET_DATA: its tables are left out.")
            continue
        seeds, steps = (2, 50) if given.quick else (given.seeds, given.steps)
        run(pool, [0.1, 0.3] if given.quick else given.ratios, steps, seeds, given.append)


if __name__ == "__main__":
    main()
