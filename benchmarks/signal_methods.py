"""All methods side by side: those of geometry, and those that ask what training found hard.

CIFAR-10 as SqueezeNet (ImageNet) sees it. The signals are those of a linear layer trained on the pool: logits of every
item after each epoch. Two tables: test accuracy of a linear layer trained on what each method chose; and the same on
the worst of three human labels of each image (CIFAR-10N, ``worst`` in the folder of LIGHTNING_CORESET_DATA,
"worse_label" in the original files), with the share of wrong labels that each method kept.

    python -m benchmarks.signal_methods [--ratios 0.01 0.05 0.1 0.3] [--seeds 3] [--images 10000] [--quick] [--append]
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.cifar10 import BATCH, probe
from benchmarks.common import EmbeddedSet, data_folder, mean_and_spread, parser_of, quiet, show, squeezenet_set
from lightning_coreset import Coreset, Pool, Signals, select

GEOMETRY: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in ("random", "uniform", "herding", "k_center", "facility_location", "graph_cut")},
    **{name: (name, {}) for name in ("moderate", "prototypes", "typiclust", "subzerocore")},
    "subzerocore, one_sided": ("subzerocore", {"one_sided": True}),
    "zcore": ("zcore", {}),
}
SIGNALLED: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in ("forgetting", "el2n", "grand", "aum")},
    "aum, keep=easy": ("aum", {"keep": "easy"}),
    **{name: (name, {}) for name in ("uncertainty", "cal", "deepfool", "craig", "grad_match", "glister", "ccs")},
    "ccs, beta=0.4": ("ccs", {"beta": 0.4}),
    "d2": ("d2", {}),
}
# Typiclust draws once, because it takes longer than all the others together.
SEEDED = ("random", "uniform", "prototypes", "zcore", *SIGNALLED)
# Their answer to a smaller budget is not the beginning of that to a larger one.
EVERY_BUDGET = ("typiclust", "subzerocore", "subzerocore, one_sided")
NOISE_RATIOS = [0.1, 0.3]


def proxy(rows: Tensor, labels: Tensor, epochs: int, seed: int) -> Signals:
    """Signals of a linear layer: its logits of all items after each epoch of plain training."""
    generator = torch.Generator().manual_seed(seed)
    layer = nn.utils.skip_init(nn.Linear, rows.shape[1], 10)
    nn.init.normal_(layer.weight, std=0.01, generator=generator)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.001, weight_decay=0.01)
    logits = []
    for _ in range(epochs):
        for batch in torch.randperm(len(rows), generator=generator).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(layer(rows[batch]), labels[batch]).backward()
            optimizer.step()
        with torch.no_grad():
            logits.append(layer(rows))
    return Signals.from_logits(torch.stack(logits), labels, embeddings=rows)


def choose(name: str, pool: Pool, ratios: list[float], seed: int) -> list[Coreset]:
    """What a method chooses at each ratio: one run where a smaller answer is the beginning of a larger one."""
    method, arguments = (GEOMETRY | SIGNALLED)[name]
    if name in EVERY_BUDGET:
        return [select(pool, method=method, ratio=ratio, seed=seed, **arguments) for ratio in ratios]
    largest = select(pool, method=method, ratio=max(ratios), seed=seed, **arguments)
    return [largest.head(max(1, int(ratio * pool.size + 0.5))) for ratio in ratios]


def compare(
    pool: EmbeddedSet, labels: Tensor, ratios: list[float], steps: int, seeds: int, epochs: int
) -> tuple[dict[str, list[list[float]]], dict[str, list[list[float]]], dict[str, float]]:
    """Accuracies and shares of wrong labels, ``[ratio][seed]`` for each method, and seconds of the largest selection.

    Args:
        pool: Embeddings, and labels that are right.
        labels: Labels that are trained on and selected by.
        ratios: Shares to keep.
        steps: Of the layer that is tested.
        seeds: Of that layer, of the proxy, and of methods that draw.
        epochs: Of the proxy.
    """
    shift, scale = pool.train.mean(0), pool.train.std(0).clamp(min=1e-3)
    rows, test = (pool.train - shift) / scale, (pool.test - shift) / scale
    signals = [proxy(rows, labels, epochs, seed) for seed in range(seeds)]
    accuracies: dict[str, list[list[float]]] = {}
    wrong: dict[str, list[list[float]]] = {}
    seconds: dict[str, float] = {}
    for name in GEOMETRY | SIGNALLED:
        coresets = [
            choose(name, Pool(pool.train, labels, signals=signals[seed]), ratios, seed)
            for seed in range(seeds if name in SEEDED else 1)
        ]
        seconds[name] = coresets[0][-1].manifest["seconds"]
        accuracies[name], wrong[name] = [], []
        for place in range(len(ratios)):
            picks = [coresets[seed % len(coresets)][place].indices for seed in range(seeds)]
            accuracies[name].append(
                [
                    probe(rows[chosen], labels[chosen], test, pool.test_labels, steps, seed)
                    for seed, chosen in enumerate(picks)
                ]
            )
            wrong[name].append(
                [100 * float((labels[chosen] != pool.train_labels[chosen]).float().mean()) for chosen in picks]
            )
    everything = [probe(rows, labels, test, pool.test_labels, steps, seed) for seed in range(seeds)]
    accuracies["everything"] = [everything] * len(ratios)
    wrong["everything"] = [[100 * float((labels != pool.train_labels).float().mean())] * seeds] * len(ratios)
    return accuracies, wrong, seconds


def first_of_each_class(pool: EmbeddedSet, images: int) -> Tensor:
    """Positions of the first images of each class, ascending."""
    classes = [torch.nonzero(pool.train_labels == label).flatten()[: images // 10] for label in range(10)]
    return torch.cat(classes).sort().values


def main() -> None:
    """Clean labels, then human ones."""
    parser = parser_of(__doc__)
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.01, 0.05, 0.1, 0.3])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1_000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--images", type=int, default=10_000)
    given = parser.parse_args()
    quiet()
    if given.quick:
        given.ratios, given.seeds, given.steps, given.epochs = [0.1, 0.3], 2, 50, 3
    whole = squeezenet_set(given.cache, given.quick)
    kept = first_of_each_class(whole, given.images)
    pool = EmbeddedSet(whole.name, whole.train[kept], whole.train_labels[kept], whole.test, whole.test_labels)
    setting = (
        f"{pool.name} embeddings; the first {len(kept) // 10} train images of each class, {len(pool.test)} test "
        f"images; signals of a linear layer, {given.epochs} epochs; {given.steps} steps of AdamW on the choice, batch "
        f"{BATCH}, weights left out; seeds 0 to {given.seeds - 1} of proxy, drawing methods (`typiclust` draws once) "
        "and tested layer"
    )
    columns = [f"{100 * ratio:g} %" for ratio in given.ratios]
    accuracies, _, seconds = compare(pool, pool.train_labels, given.ratios, given.steps, given.seeds, given.epochs)
    table = [
        [name, "yes" if name in SIGNALLED else "no", *map(mean_and_spread, found), _seconds(seconds, name)]
        for name, found in accuracies.items()
    ]
    note = f"{setting}. Test accuracy %, ± deviation; seconds of one selection at {columns[-1]}."
    header = ["method", "signals", *columns, "seconds"]
    show("CIFAR-10, all methods on the same embeddings and proxy", note, header, table, given.append)

    folder = data_folder()
    if folder is None:
        print("The human labels need LIGHTNING_CORESET_DATA: their table is left out.")
        return
    with np.load(folder / "cifar10" / "cifar10n_labels.npz") as noisy:
        human = torch.from_numpy(noisy["worst"].astype(np.int64))[kept]
    accuracies, wrong, _ = compare(pool, human, NOISE_RATIOS, given.steps, given.seeds, given.epochs)
    table = [
        [name, *(mean_and_spread(part, 1) for part in wrong[name]), *map(mean_and_spread, found)]
        for name, found in accuracies.items()
    ]
    note = (
        f'{setting}. Labels are CIFAR-10N `worst` ("worse_label"), of which '
        f"{wrong['everything'][0][0]:.1f} % are wrong here; selected and trained by these, tested on clean ones."
    )
    shares = [f"{100 * ratio:g} %" for ratio in NOISE_RATIOS]
    header = ["method", *(f"wrong % of {share}" for share in shares), *(f"accuracy % at {share}" for share in shares)]
    show("CIFAR-10N, wrong human labels that each method keeps", note, header, table, given.append)


def _seconds(seconds: dict[str, float], name: str) -> str:
    return f"{seconds[name]:.1f}" if name in seconds else ""


if __name__ == "__main__":
    main()
