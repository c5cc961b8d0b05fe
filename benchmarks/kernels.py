"""Time and memory of the kernels as ratios to floors and peers measured in the same run.

Everything on one thread: a busy neighbour stalls two. Pieces of work take turns; "best" is best time over best time,
"median" the median of the ratios within a round.

    OMP_NUM_THREADS=1 python -m benchmarks.kernels [--only greedy graph_cut pass training] [--rounds 7] [--append]
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from benchmarks.common import (
    EmbeddedSet,
    cifar10_images,
    data_folder,
    example,
    facility_value,
    gaussian,
    interleaved,
    parser_of,
    quiet,
    ratios,
    show,
    squeezenet_set,
)
from benchmarks.fresh import answers, spent
from lightning_coreset import CoresetDataModule, select
from lightning_coreset.data import EvaluationView
from lightning_coreset.features import extract_features, resolve_extractor
from lightning_coreset.ops import graph_cut

HEADER = ["work", "best s", "median s", "ratio, best", "ratio, median", "must hold"]


def lines(
    seconds: dict[str, list[float]], floor: str, must_hold: dict[str, str], prefix: str = ""
) -> list[Sequence[object]]:
    """One row for each piece of work, as ratio to the floor."""
    rows: list[Sequence[object]] = []
    for name, values in seconds.items():
        best, median = ratios(values, seconds[floor])
        told = ("", "") if name == floor else (f"{best:.2f}", f"{median:.2f}")
        times = (f"{min(values):.3f}", f"{statistics.median(values):.3f}")
        rows.append([prefix + name, *times, *told, must_hold.get(name, "")])
    return rows


def greedy(pool: EmbeddedSet, quick: bool, rounds: int, append: bool) -> None:
    """Facility location and SubZeroCore against their own product, and against submodlib's lazy greedy."""
    size, width, count = (400, 64, 40) if quick else (5_000, 512, 500)
    real = pool.of_class(0)[:size, :width]
    table: list[Sequence[object]] = []
    against: list[Sequence[object]] = []
    for name, rows in (("embeddings of one class", real), ("Gaussian", gaussian(size, width))):
        unit = nn.functional.normalize(rows)
        work: dict[str, Callable[[], object]] = {
            "similarity product": partial(torch.mm, unit, unit.T),
            "facility_location": partial(select, rows, method="facility_location", budget=count),
            "subzerocore": partial(select, rows, method="subzerocore", budget=count),
            "subzerocore, one_sided": partial(select, rows, method="subzerocore", budget=count, one_sided=True),
        }
        seconds = interleaved(work, rounds)
        limits = {"facility_location": "2.0", "subzerocore": "2.4", "subzerocore, one_sided": "2.4"}
        table += lines(seconds, "similarity product", limits, f"{name}: ")
        against += _against_submodlib(name, rows, count, 1 if quick else 2)
    note = (
        f"N={size}, d={width}, k={count}, one thread, {rounds} rounds after one to warm up. The floor is the full "
        "float32 product of the unit rows; the others are whole `select` calls, weights and manifest included."
    )
    show("Greedy against its similarity product", note, HEADER, table, append)
    if against:
        note = (
            f"N={size}, d={width}, k={count}, one thread, best of the rounds. submodlib: FacilityLocationFunction, "
            "dense, cosine, LazyGreedy, its kernel build included. Objectives in double precision."
        )
        header = ["rows", "submodlib s", "ours s", "times faster", "must hold", "objective, theirs", "objective, ours"]
        show("Facility location against submodlib", note, header, against, append)


def _against_submodlib(name: str, rows: Tensor, count: int, rounds: int) -> list[Sequence[object]]:
    try:
        from submodlib import FacilityLocationFunction
    except ImportError:
        print("submodlib-py is not installed: its comparison is left out.")
        return []

    def theirs() -> list[int]:
        function = FacilityLocationFunction(
            n=len(rows), mode="dense", separate_rep=False, data=rows.numpy(), metric="cosine"
        )
        greedily: list[Any] = function.maximize(budget=count, optimizer="LazyGreedy", show_progress=False)
        return [pick for pick, _ in greedily]

    ours = partial(select, rows, method="facility_location", budget=count)
    seconds = interleaved({"submodlib": theirs, "ours": ours}, rounds)
    best = {key: min(values) for key, values in seconds.items()}
    values = [facility_value(rows, torch.tensor(theirs())), facility_value(rows, ours().indices)]
    faster = f"{best['submodlib'] / best['ours']:.1f}"
    return [[name, f"{best['submodlib']:.2f}", f"{best['ours']:.2f}", faster, "5", *(f"{v:.4f}" for v in values)]]


def graph_cuts(pool: EmbeddedSet, quick: bool, rounds: int, append: bool) -> None:
    """Graph cut against one matrix-vector product for each pick, and its memory."""
    size, width, count = (1_000, 64, 50) if quick else (50_000, 128, 1_000)
    table: list[Sequence[object]] = []
    projection = gaussian(pool.train.shape[1], width)
    sets = {"projected embeddings": pool.train[:size] @ projection, "Gaussian": gaussian(size, width)}
    for name, rows in sets.items():
        unit = nn.functional.normalize(rows)
        picks = graph_cut(rows, count).indices

        def products(unit: Tensor = unit, picks: Tensor = picks) -> None:
            for pick in picks:
                torch.mv(unit, unit[pick])

        work: dict[str, Callable[[], object]] = {
            "k matrix-vector products": products,
            "ops.graph_cut": partial(graph_cut, rows, count),
            "select": partial(select, rows, method="graph_cut", budget=count),
        }
        seconds = interleaved(work, rounds)
        limits = {"ops.graph_cut": "1.5", "select": "1.5"}
        table += lines(seconds, "k matrix-vector products", limits, f"{name}: ")
    note = f"N={size}, d={width}, k={count}, one thread, {rounds} rounds after one to warm up."
    show("Graph cut against its products", note, HEADER, table, append)
    grown = answers(_measure_graph_cut, [rows.numpy() for rows in sets.values()], count, patience=1_800)
    memory: list[Sequence[object]] = [
        [name, f"{4 * rows.numel() / 1e6:.1f}", *(f"{value:.1f}" for value in peaks), "150"]
        for (name, rows), peaks in zip(sets.items(), grown, strict=True)
    ]
    note = (
        f"N={size}, d={width}, k={count}. Largest resident size of a fresh process during the call, above what is "
        "resident with the features read and the same call made on 300 rows."
    )
    header = ["rows", "features MB", "ops.graph_cut MB above", "select MB above", "must hold MB"]
    show("Memory of graph cut", note, header, memory, append)


def _measure_graph_cut(sets: Sequence[Any], count: int) -> Iterator[list[float]]:
    """Megabytes that `ops.graph_cut` and `select` take above the features, for each set of rows."""
    quiet()
    for rows in map(torch.from_numpy, sets):
        calls = [partial(graph_cut, count=count), partial(select, method="graph_cut", budget=count)]
        graph_cut(rows[:300], 10)
        select(rows[:300], method="graph_cut", budget=10)
        yield [spent(partial(call, rows)).above for call in calls]


def feature_pass(cache: Path, quick: bool, rounds: int, device: str, append: bool) -> None:
    """The feature pass against the bare network over the same loader."""
    size = 128 if quick else 1_024
    train, _ = cifar10_images(cache, quick)
    on_cpu = device == "cpu"
    trainer = None if on_cpu else pl.Trainer(accelerator=device, devices=1, logger=False, enable_checkpointing=False)
    table: list[Sequence[object]] = []
    small = example.ResNet20().eval()
    cases = {
        "SqueezeNet, 96 px": (example.choose_embedder(data_folder()), example.FOR_SQUEEZENET, 0),
        "ResNet-20, 32 px": (small, example.FOR_TESTING, 0),
        "ResNet-20, 32 px, 1 worker": (small, example.FOR_TESTING, 1),
    }
    for name, (embedder, transform, workers) in cases.items():
        extractor = resolve_extractor(embedder)
        network = extractor.module().eval().to(device)
        view = Subset(EvaluationView(train, transform), range(size))
        loader = DataLoader(view, extractor.batch_size, num_workers=workers, pin_memory=not on_cpu)

        def bare(network: nn.Module = network, loader: DataLoader[Any] = loader) -> None:
            with torch.no_grad():
                rows = [network(images.to(device, non_blocking=True)) for images, _ in loader]
            # Reading a value waits for a GPU.
            float(rows[-1].flatten()[0])

        passed = partial(
            extract_features,
            train,
            extractor,
            torch.arange(size),
            transform=transform,
            trainer=trainer,
            num_workers=workers,
        )
        seconds = interleaved({"bare forward": bare, "feature pass": passed}, rounds)
        best, median = (1 / ratio for ratio in ratios(seconds["feature pass"], seconds["bare forward"]))
        speeds = [f"{size / min(values):.0f}" for values in seconds.values()]
        table.append([name, *speeds, f"{best:.3f}", f"{median:.3f}", "0.90"])
    note = f"{size} CIFAR-10 images on {device}, decoding and resizing included, one thread, no cache, {rounds} rounds."
    header = ["network", "bare images/s", "pass images/s", "share, best", "share, median", "must hold"]
    show("Feature pass against the bare forward", note, header, table, append)


class StepClock(pl.Callback):
    """Seconds from the first step to the end of the last."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Start with the second step: the first one starts what stays."""
        if trainer.global_step == 1:
            self.started = time.perf_counter()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Stop."""
        self.seconds = time.perf_counter() - self.started


def seconds_a_step(datamodule: pl.LightningDataModule, network: nn.Module, steps: int) -> float:
    """Mean over all steps but the first."""
    torch.manual_seed(0)
    clock = StepClock()
    trainer = pl.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[clock],
    )
    trainer.fit(example.Classifier(network, 0.003, steps), datamodule=datamodule)
    return clock.seconds / (steps - 1)


def training(pool: EmbeddedSet, cache: Path, quick: bool, rounds: int, append: bool) -> None:
    """A training step on the wrapped datamodule against one on a hand-made Subset."""
    train, test = cifar10_images(cache, quick)
    rows = TensorDataset(pool.train, pool.train_labels)
    chosen = select(pool.train, pool.train_labels, method="herding", ratio=0.1).indices.sort().values.tolist()
    table: list[Sequence[object]] = []
    cases: dict[str, tuple[Any, int, int, Callable[[], nn.Module]]] = {
        "linear layer on embeddings, batch 128": (rows, 128, 30 if quick else 600, partial(nn.Linear, 512, 10)),
        "ResNet-20 on images, batch 32": (train, 32, 5 if quick else 40, example.ResNet20),
    }
    for name, (dataset, batch_size, steps, network) in cases.items():
        by_hand = example.Loaders(Subset(dataset, chosen), test, batch_size)
        wrapped = CoresetDataModule(
            example.Loaders(dataset, test, batch_size),
            method="herding",
            ratio=0.1,
            features=pool.train,
            cache_dir=None,
        )
        seconds: dict[str, list[float]] = {"hand-made Subset": [], "wrapped": []}
        for number in range(rounds + 1):
            for key, datamodule in zip(seconds, (by_hand, wrapped), strict=True):
                took = seconds_a_step(datamodule, network(), steps)
                if number:
                    seconds[key].append(1e3 * took)
        table += lines(seconds, "hand-made Subset", {"wrapped": "1.01"}, f"{name}: ")
    note = f"Milliseconds a step within Trainer.fit, loading included, one thread, {rounds} rounds; 10 % of CIFAR-10."
    header = ["work", "best ms", "median ms", *HEADER[3:]]
    show("Training step, wrapped against a hand-made Subset", note, header, table, append)


def main() -> None:
    """All parts, or those asked for."""
    parser = parser_of(__doc__)
    parts = ("greedy", "graph_cut", "pass", "training")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu", help="of the feature pass")
    given = parser.parse_args()
    quiet()
    torch.set_num_threads(1)
    pool = squeezenet_set(given.cache, given.quick)
    rounds = 2 if given.quick else given.rounds
    if "greedy" in given.only:
        greedy(pool, given.quick, rounds, given.append)
    if "graph_cut" in given.only:
        graph_cuts(pool, given.quick, rounds, given.append)
    if "pass" in given.only:
        feature_pass(given.cache, given.quick, rounds, given.device, given.append)
    if "training" in given.only:
        training(pool, given.cache, given.quick, rounds, given.append)


if __name__ == "__main__":
    main()
