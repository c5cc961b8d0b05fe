"""Learning curves of active learning: warm starts against random ones, at equal labels.

CIFAR-10 and resisc12 as SqueezeNet (ImageNet) sees them; a linear layer, new in each round, trained on all labels so
far in full batches. Each seed has a pool of its own, drawn from the train images, so that methods without a random
choice have a spread too; the pools are the same for all methods. Rounds take the module-level functions of
`lightning_coreset.active` on whole matrices; ``--check`` runs one setting through `ActiveLearningLoop` and compares the
accuracies and the items asked for, round by round.

    python -m benchmarks.active [--seeds 5] [--rounds 6] [--only cifar10] [--check] [--quick] [--append]
"""

import io
import statistics
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from benchmarks.common import (
    EmbeddedSet,
    data_folder,
    example,
    mean_and_spread,
    parser_of,
    progress,
    quiet,
    show,
    squeezenet_set,
)
from lightning_coreset import ActiveLearningDataModule, select
from lightning_coreset.active import ActiveLearningLoop, DatasetOracle
from lightning_coreset.active.badge import badge
from lightning_coreset.active.scores import model_uncertainty
from lightning_coreset.ops import k_center
from lightning_coreset.ops.random import seeded_generator

WARM_STARTS = (
    *("random", "k_center", "typiclust", "prototypes", "facility_location", "herding", "graph_cut", "moderate"),
    *("subzerocore", "zcore"),
)
QUERIES = ("margin", "badge", "k_center")
STEPS = 150
# As a pass of the loop has them: the last digits of a product depend on it.
ROWS = 64


class Scenes(Dataset):
    """resisc12 from its zip file."""

    def __init__(self, path: Path, part: str) -> None:
        self._path = path
        with zipfile.ZipFile(path) as file:
            self._names = sorted(
                name for name in file.namelist() if name.startswith(f"{part}/") and name.endswith("jpg")
            )
        classes = sorted({name.split("/")[1] for name in self._names})
        self.targets = [classes.index(name.split("/")[1]) for name in self._names]
        self._file: Any = None
        self.transform: Any = None

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        self._file = self._file or zipfile.ZipFile(self._path)
        image = Image.open(io.BytesIO(self._file.read(self._names[index]))).convert("RGB")
        return (image if self.transform is None else self.transform(image)), self.targets[index]


def resisc12_set(cache: Path) -> EmbeddedSet | None:
    """The scenes as SqueezeNet sees them; None where they are not at hand."""
    folder = data_folder()
    path = None if folder is None else folder / "resisc12" / "resisc12.zip"
    if path is None or not path.exists():
        return None
    train, test = Scenes(path, "train"), Scenes(path, "test")
    embedder = example.choose_embedder(folder)
    rows = [example.embed(images, embedder, example.FOR_SQUEEZENET, cache) for images in (train, test)]
    return EmbeddedSet("resisc12", rows[0], torch.tensor(train.targets), rows[1], torch.tensor(test.targets))


def part_of(whole: EmbeddedSet, size: int, seed: int, test_size: int = 2_000) -> EmbeddedSet:
    """A pool of its own for each seed."""
    order = torch.randperm(len(whole.train), generator=seeded_generator(seed, "pool"))[:size].sort().values
    return EmbeddedSet(
        whole.name,
        whole.train[order].contiguous(),
        whole.train_labels[order],
        whole.test[:test_size] if whole.name != "resisc12" else whole.test,
        whole.test_labels[:test_size] if whole.name != "resisc12" else whole.test_labels,
    )


def new_layer(width: int, classes: int, seed: int, round: int) -> nn.Linear:
    """A linear layer whose weights follow from seed and round."""
    layer = nn.utils.skip_init(nn.Linear, width, classes)
    nn.init.normal_(layer.weight, std=0.01, generator=seeded_generator(seed, "layer", round))
    nn.init.zeros_(layer.bias)
    return layer


def optimizer_of(layer: nn.Module) -> torch.optim.Optimizer:
    """The same for both ways."""
    return torch.optim.AdamW(layer.parameters(), lr=0.003, weight_decay=0.01)


def in_blocks(layer: nn.Module, rows: Tensor) -> Tensor:
    """Logits in blocks of equal size."""
    filled = torch.cat([rows, rows[-1:].expand(-len(rows) % ROWS, -1)])
    with torch.no_grad():
        return torch.cat([layer(block) for block in filled.split(ROWS)])[: len(rows)]


def ask(query: str, layer: nn.Module, rows: Tensor, labelled: Tensor, count: int, seed: int, round: int) -> Tensor:
    """Positions that a query asks for next, as the strategies of the package do."""
    free = torch.ones(len(rows), dtype=torch.bool)
    free[labelled] = False
    candidates = torch.nonzero(free).flatten()
    if query == "k_center":
        return k_center(rows, count, initial=labelled).indices
    logits = in_blocks(layer, rows[candidates])
    if query == "badge":
        draws = int(torch.randint(2**31, (1,), generator=seeded_generator(seed, "badge", round)))
        return candidates[badge(logits, rows[candidates], count, seed=draws)]
    scores = model_uncertainty(logits, query).float()  # type: ignore[arg-type]
    return candidates[scores.argsort(descending=True, stable=True)[:count]]


def curve(
    pool: EmbeddedSet, first: Tensor, query: str, budget: int, rounds: int, seed: int
) -> tuple[list[float], list[list[int]]]:
    """Test accuracy after each round, and what each round asked for."""
    classes = int(pool.train_labels.max()) + 1
    labelled = first.sort().values
    accuracies, asked = [], [first.tolist()]
    for round in range(rounds):
        layer = new_layer(pool.train.shape[1], classes, seed, round)
        rows, labels, optimizer = pool.train[labelled], pool.train_labels[labelled], optimizer_of(layer)
        for _ in range(STEPS):
            optimizer.zero_grad()
            nn.functional.cross_entropy(layer(rows), labels).backward()
            optimizer.step()
        with torch.no_grad():
            accuracies.append(100 * float((layer(pool.test).argmax(1) == pool.test_labels).float().mean()))
        if round + 1 < rounds:
            found = ask(query, layer, pool.train, labelled, budget, seed, round + 1)
            asked.append(found.tolist())
            labelled = torch.cat([labelled, found]).sort().values
    return accuracies, asked


class Source(pl.LightningDataModule):
    """Rows as a user's datamodule would hold them."""

    def __init__(self, pool: EmbeddedSet) -> None:
        super().__init__()
        self.pool = pool

    def train_dataloader(self) -> DataLoader:
        """All labels in one batch."""
        return DataLoader(TensorDataset(self.pool.train, self.pool.train_labels), batch_size=1_000_000)

    def val_dataloader(self) -> DataLoader:
        """The test rows."""
        return DataLoader(TensorDataset(self.pool.test, self.pool.test_labels), batch_size=1_000_000)


class Head(pl.LightningModule):
    """The linear layer as a user's module."""

    def __init__(self, width: int, classes: int, seed: int, round: int) -> None:
        super().__init__()
        self.layer = new_layer(width, classes, seed, round)

    def forward(self, rows: Tensor) -> Tensor:
        """Logits."""
        return self.layer(rows)

    def training_step(self, batch: list[Tensor]) -> Tensor:
        """Cross-entropy."""
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor]) -> None:
        """Accuracy."""
        self.log("accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return optimizer_of(self)


def looped(
    pool: EmbeddedSet, first: Tensor, query: str, budget: int, rounds: int, seed: int
) -> tuple[list[float], list[list[int]]]:
    """The same by `ActiveLearningLoop`."""
    datamodule = ActiveLearningDataModule(Source(pool), features=pool.train, oracle=DatasetOracle(), seed=seed)
    datamodule.setup("fit")
    datamodule.ask(first, round=0)
    with tempfile.TemporaryDirectory() as root:
        loop = ActiveLearningLoop(
            lambda: pl.Trainer(
                max_epochs=STEPS,
                check_val_every_n_epoch=STEPS,
                num_sanity_val_steps=0,
                accelerator="cpu",
                default_root_dir=root,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            ),
            lambda round: Head(pool.train.shape[1], int(pool.train_labels.max()) + 1, seed, round),
            datamodule,
            query=query,
            rounds=rounds,
            budget=budget,
            monitor="accuracy",
            query_batch_size=ROWS,
        )
        reports = loop.run()
    asked = [event["ids"] for event in datamodule.pool.history if event["event"] == "request"]
    return [100 * line["metric"] for line in reports], asked


def area(accuracies: list[float]) -> float:
    """Area under the curve over equal steps, divided by its width."""
    inner = sum(accuracies) - (accuracies[0] + accuracies[-1]) / 2
    return inner / (len(accuracies) - 1)


def gains(values: list[float], others: list[float], same: bool = False, digits: int = 2) -> str:
    """Mean difference and how often it is positive, in brackets; nothing where both are the same."""
    found = [one - other for one, other in zip(values, others, strict=True)]
    return "" if same else f" ({statistics.mean(found):+.{digits}f}, {sum(gain > 0 for gain in found)}/{len(found)})"


Curves = dict[tuple[str, str], list[list[float]]]


def measure(pools: list[EmbeddedSet], budget: int, rounds: int) -> tuple[Curves, dict[str, list[float]]]:
    """Curves ``[seed][round]`` for each start and query, and accuracies of one pass with all labels."""
    curves: Curves = {}
    one_pass: dict[str, list[float]] = {name: [] for name in WARM_STARTS}
    for seed, pool in enumerate(pools):
        for name in WARM_STARTS:
            first = select(pool.train, method=name, budget=budget, seed=seed).indices
            for query in QUERIES:
                found, _ = curve(pool, first, query, budget, rounds, seed)
                curves.setdefault((name, query), []).append(found)
            everything = select(pool.train, method=name, budget=budget * rounds, seed=seed).indices
            one_pass[name] += curve(pool, everything, "margin", budget, 1, seed)[0]
        progress(f"{pool.name}: seed {seed} done")
    return curves, one_pass


def tell(name: str, size: int, curves: Curves, one_pass: dict[str, list[float]], given: Any, budget: int) -> None:
    """The table of one dataset."""
    rows = []
    for start in WARM_STARTS:
        starts = [found[0] for found in curves[start, QUERIES[0]]]
        cells: list[object] = [start, mean_and_spread(starts)]
        for query in QUERIES:
            areas, others = ([area(found) for found in curves[name, query]] for name in (start, "random"))
            cells.append(mean_and_spread(areas) + gains(areas, others, start == "random"))
        rows.append([*cells, mean_and_spread(one_pass[start])])
    ends = {query: [found[-1] for found in curves["random", query]] for query in QUERIES}
    note = (
        f"Pools of {size} images, another for each of {given.seeds} seeds; {budget} labels in round 0 and in each of "
        f"{given.rounds - 1} later rounds. Test accuracy % at round 0; area under the curve over {given.rounds} "
        "rounds, ± deviation over seeds (mean difference to the random start on the same pools, and on how many it is "
        f"positive); accuracy of the start's method in one pass with all {budget * given.rounds} labels. From a random "
        "start the loop ends at "
        + ", ".join(f"{statistics.mean(values):.2f} ({query})" for query, values in ends.items())
        + "."
    )
    header = ["warm start", "round 0", *(f"area, {query}" for query in QUERIES), "one pass"]
    show(f"Active learning, {name}", note, header, rows, given.append)


def draw(
    found: dict[str, tuple[Curves, int]], path: Path, unit: str = "labels", measured: str = "test accuracy %"
) -> None:
    """A row for each dataset, a panel for each query, a line for each start."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    starts, queries = (list(dict.fromkeys(column)) for column in zip(*next(iter(found.values()))[0], strict=True))
    figure, axes = pyplot.subplots(
        len(found), len(queries), figsize=(13, 4.2 * len(found)), squeeze=False, sharey="row"
    )
    for row, (name, (curves, budget)) in enumerate(found.items()):
        for column, query in enumerate(queries):
            axis = axes[row][column]
            for start in starts:
                several = torch.tensor(curves[start, query])
                labels = [budget * (round + 1) for round in range(several.shape[1])]
                style = {"color": "black", "linewidth": 2.5} if start == "random" else {"linewidth": 1.2}
                axis.plot(labels, several.mean(0), label=start, marker="o", markersize=3, **style)
                if start == "random":
                    spread = several.std(0)
                    axis.fill_between(labels, several.mean(0) - spread, several.mean(0) + spread, color="0.85")
            axis.set_title(f"{name}, query {query}")
            axis.set_xlabel(unit)
            axis.set_ylabel(measured)
    axes[0][-1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def check(pool: EmbeddedSet, budget: int, rounds: int) -> list[list[object]]:
    """One setting by both ways."""
    first = select(pool.train, method="typiclust", budget=budget).indices
    ways: dict[str, Callable[..., Any]] = {"matrices": curve, "ActiveLearningLoop": looped}
    rows: list[list[object]] = []
    for query in QUERIES:
        (one, asked), (other, asked_too) = (way(pool, first, query, budget, rounds, 0) for way in ways.values())
        same = sum(a == b for a, b in zip(asked, asked_too, strict=True))
        apart = max(abs(a - b) for a, b in zip(one, other, strict=True))
        rows.append([query, f"{same} of {rounds}", f"{apart:.3f}"])
    return rows


def main() -> None:
    """Both datasets."""
    parser = parser_of(__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--check", action="store_true", help="compare with the loop, on the first pool")
    parser.add_argument("--only", choices=("cifar10", "resisc12"))
    parser.add_argument("--output", type=Path, default=Path("active.png"))
    given = parser.parse_args()
    quiet()
    if given.quick:
        given.seeds, given.rounds = min(2, given.seeds), 3
    sets = [] if given.only == "resisc12" else [(squeezenet_set(given.cache, given.quick), 5_000, 50)]
    scenes = None if given.quick or given.only == "cifar10" else resisc12_set(given.cache)
    sets += [] if scenes is None else [(scenes, 3_000, 36)]
    for whole, size, budget in sets:
        name = "resisc12" if whole.name == "resisc12" else "CIFAR-10"
        size, budget = (500, 20) if given.quick else (size, budget)
        pools = [part_of(whole, size, seed) for seed in range(given.seeds)]
        if given.check:
            note = "Warm start by typiclust, seed 0: rounds that ask for the same items in the same order, and the "
            note += "largest difference in test accuracy, percentage points."
            header = ["query", "same requests", "difference"]
            show(
                f"Active learning by matrices and by the loop, {name}",
                note,
                header,
                check(pools[0], budget, given.rounds),
                given.append,
            )
        curves, one_pass = measure(pools, budget, given.rounds)
        tell(name, size, curves, one_pass, given, budget)
        path = given.output.with_stem(f"{given.output.stem}_{name.lower().replace('-', '')}")
        draw({name: (curves, budget)}, path)
        print(f"Picture: {path}")


if __name__ == "__main__":
    main()
