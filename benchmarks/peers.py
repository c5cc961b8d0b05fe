"""Ours and other people's kernels side by side in one run, and the floors under all of them.

Everything on one thread, in turn; whole calls, with whatever they build first. Objectives in double precision.

    OMP_NUM_THREADS=1 python -m benchmarks.peers [--only facility_location graph_cut k_center kmeans floors] [--append]
"""

import importlib.util
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.common import (
    clustered,
    data_folder,
    example,
    facility_modes,
    facility_value,
    gaussian,
    interleaved,
    parser_of,
    quiet,
    show,
    squeezenet_set,
)
from lightning_coreset import select
from lightning_coreset.features import resolve_extractor
from lightning_coreset.ops import k_center, kmeans
from lightning_coreset.ops.kmeans import plus_plus_centers
from lightning_coreset.ops.random import seeded_generator

ITERATIONS = 25
# Names that begin so are ours: ratios are to the first of them.
OURS = "ours"


@dataclass(frozen=True)
class Entrant:
    """Something that answers the same question.

    Attributes:
        name: In the table.
        run: ``(rows, count)`` to its answer.
        package: What it needs; None is nothing but ours.
        power: Its time grows at most by this power of N where k grows with N.
        judged: Its answer has an objective.
    """

    name: str
    run: Callable[[Tensor, int], Any]
    package: str | None = None
    power: float = 3.0
    judged: bool = True


@dataclass(frozen=True)
class Limits:
    """How often, and how many seconds a single call may be expected to take."""

    rounds: int
    seconds: float


def race(
    entrants: Sequence[Entrant],
    cases: Sequence[tuple[Tensor, int]],
    value: Callable[[Tensor, Any], float],
    limits: Limits,
) -> list[list[object]]:
    """One row for each entrant and case, the smallest case first; the slow drop out with a word of why."""
    table: list[list[object]] = []
    last: dict[str, tuple[int, float]] = {}
    for number, (rows, count) in enumerate(cases):
        size = len(rows)
        told: dict[str, str] = {}
        work: dict[str, Callable[[], object]] = {}
        found: dict[str, Any] = {}

        def keep(entrant: Entrant, rows: Tensor = rows, count: int = count, found: dict[str, Any] = found) -> None:
            found[entrant.name] = entrant.run(rows, count)
            # Packages change it behind our back, and two threads on busy cores take fifty times as long as one.
            torch.set_num_threads(1)

        for entrant in entrants:
            before, took = last.get(entrant.name, (size, 0.0))
            expected = took * (size / before) ** entrant.power
            if entrant.package is not None and importlib.util.find_spec(entrant.package) is None:
                told[entrant.name] = f"{entrant.package} is not installed"
            elif expected > limits.seconds:
                told[entrant.name] = f"not run: about {expected:.0f} s"
            else:
                work[entrant.name] = partial(keep, entrant)
        # Compilers and thread pools are warm after the smallest case.
        seconds = interleaved(work, limits.rounds, warm_up=number == 0)
        ours = next((min(values) for name, values in seconds.items() if name.startswith(OURS)), math.nan)
        for entrant in entrants:
            if entrant.name in told:
                table.append([size, count, entrant.name, told[entrant.name], "", ""])
                continue
            best = min(seconds[entrant.name])
            last[entrant.name] = (size, best)
            objective = f"{value(rows, found[entrant.name]):.4f}" if entrant.judged else ""
            table.append([size, count, entrant.name, f"{best:.4f}", f"{best / ours:.2f}", objective])
    return table


def header(objective: str) -> list[str]:
    """Of the tables of all races."""
    return ["N", "k", "work", "best s", "times ours", objective]


def unit_rows(rows: Tensor) -> Any:
    """As the packages want them: an array of unit rows ``[N, d]``."""
    return nn.functional.normalize(rows).numpy()


def cosines(rows: Tensor) -> Any:
    """Clamped, as apricot wants them, in its float64 ``[N, N]``."""
    unit = nn.functional.normalize(rows)
    return (unit @ unit.T).clamp_(min=0).double().numpy()


def product(rows: Tensor, _: int) -> Tensor:
    """The floor under all that looks at every pair."""
    unit = nn.functional.normalize(rows)
    return unit @ unit.T


def by_submodlib(rows: Tensor, count: int, function: str, optimizer: str) -> list[int]:
    """Dense, cosine, its kernel built by itself."""
    import submodlib

    arguments = {"separate_rep": False} if function == "FacilityLocationFunction" else {"lambdaVal": 1.0}
    known = getattr(submodlib, function)(
        n=len(rows), mode="dense", data=rows.numpy().astype(np.float64), metric="cosine", **arguments
    )
    return [pick for pick, _ in known.maximize(budget=count, optimizer=optimizer, show_progress=False)]


def by_apricot(rows: Tensor, count: int, selection: str, optimizer: str) -> list[int]:
    """On cosines that torch multiplies for it, which is faster than its own metric."""
    os.environ.setdefault("NUMBA_NUM_THREADS", "1")
    import apricot

    known = getattr(apricot, selection)(count, metric="precomputed", optimizer=optimizer)
    return [int(pick) for pick in known.fit(cosines(rows)).ranking]


def by_select(rows: Tensor, count: int, method: str, **arguments: Any) -> list[int]:
    """Ours, weights and manifest included."""
    picks: list[int] = select(rows, method=method, budget=count, **arguments).indices.tolist()
    return picks


def libraries(function: str, theirs: Sequence[str], selection: str, others: Sequence[str]) -> list[Entrant]:
    """A function of submodlib and a selection of apricot, each by some optimizers."""
    return [
        *(
            Entrant(
                f"submodlib, {name.lower()}",
                partial(by_submodlib, function=function, optimizer=f"{name}Greedy"),
                "submodlib",
            )
            for name in theirs
        ),
        *(
            Entrant(f"apricot, {name}", partial(by_apricot, selection=selection, optimizer=name), "apricot")
            for name in others
        ),
    ]


def facility_location(rows: Tensor, sizes: Sequence[int], limits: Limits, append: bool) -> None:
    """Against submodlib and apricot."""
    entrants = [
        Entrant("ours, select", partial(by_select, method="facility_location"), power=2),
        *(
            Entrant(f"ours, mode={mode}", partial(by_select, method="facility_location", mode=mode), power=2)
            for mode in facility_modes()
        ),
        Entrant("floor: similarity product", product, judged=False),
        *libraries(
            "FacilityLocationFunction",
            ("Naive", "Lazy", "Stochastic"),
            "FacilityLocationSelection",
            ("naive", "lazy"),
        ),
    ]
    cases = [(rows[:size], size // 10) for size in sizes]
    table = race(entrants, cases, lambda rows, picks: facility_value(rows, torch.tensor(picks)), limits)
    show("Facility location, side by side", _note(rows, limits), header("objective"), table, append)


def graph_cut_value(rows: Tensor, picks: list[int]) -> float:
    """``sum_V sum_A s - sum_A sum_A s``, in double precision."""
    unit = nn.functional.normalize(rows.double())
    chosen = unit[picks].sum(0)
    return float(unit.sum(0) @ chosen - chosen @ chosen)


def graph_cuts(rows: Tensor, sizes: Sequence[int], limits: Limits, append: bool) -> None:
    """Against submodlib and apricot."""

    def products(rows: Tensor, count: int) -> None:
        unit = nn.functional.normalize(rows)
        for pick in range(count):
            torch.mv(unit, unit[pick])

    entrants = [
        Entrant("ours, select", partial(by_select, method="graph_cut"), power=2),
        Entrant("floor: k matrix-vector products", products, power=2, judged=False),
        *libraries("GraphCutFunction", ("Naive", "Lazy"), "GraphCutSelection", ("naive", "lazy")),
    ]
    cases = [(rows[:size], size // 10) for size in sizes]
    table = race(entrants, cases, graph_cut_value, limits)
    show("Graph cut, side by side", _note(rows, limits), header("objective"), table, append)


def covering_radius(rows: Tensor, picks: list[int]) -> float:
    """Largest distance of a unit row to its nearest chosen one, in double precision."""
    unit = nn.functional.normalize(rows.double())
    nearest = (part @ unit[picks].T for part in unit.split(4_096))
    closest = min(float(part.amax(1).min()) for part in nearest)
    return float(max(0.0, 2 - 2 * closest) ** 0.5)


def k_centers(rows: Tensor, sizes: Sequence[int], limits: Limits, append: bool) -> None:
    """Against the farthest-first walks of scikit-activeml and fpsample, all from the same start."""

    def start_of(rows: Tensor) -> int:
        return int(k_center(rows, 1).indices[0])

    def by_activeml(rows: Tensor, count: int) -> list[int]:
        from skactiveml.pool import CoreSet

        labels = np.full(len(rows), np.nan)
        labels[start_of(rows)] = 0
        picks = CoreSet(random_state=0).query(unit_rows(rows), labels, batch_size=count - 1)
        return [start_of(rows), *(int(pick) for pick in picks)]

    def by_fpsample(rows: Tensor, count: int, walk: str) -> list[int]:
        import fpsample

        picks = getattr(fpsample, walk)(unit_rows(rows), count, start_idx=start_of(rows))
        return [int(pick) for pick in picks]

    def distances(rows: Tensor, count: int) -> None:
        unit = nn.functional.normalize(rows)
        for pick in range(count):
            torch.cdist(unit, unit[pick : pick + 1], compute_mode="donot_use_mm_for_euclid_dist")

    entrants = [
        Entrant("ours, select", partial(by_select, method="k_center"), power=2),
        Entrant("floor: k vectors of distances", distances, power=2, judged=False),
        Entrant("scikit-activeml CoreSet", by_activeml, "skactiveml", power=2),
        Entrant("fpsample, exact", partial(by_fpsample, walk="fps_sampling"), "fpsample", power=2),
        Entrant("fpsample, NPDU (approximate)", partial(by_fpsample, walk="fps_npdu_sampling"), "fpsample", power=2),
    ]
    cases = [(rows[:size], size // 10) for size in sizes]
    table = race(entrants, cases, covering_radius, limits)
    show("Greedy k-center, side by side", _note(rows, limits), header("covering radius"), table, append)


def inertia(rows: Tensor, centers: Tensor) -> float:
    """Sum of squared distances to the nearest centre, in double precision."""
    parts = (torch.cdist(part.double(), centers.double()).amin(1).square().sum() for part in rows.split(4_096))
    return float(sum(parts))


def k_means(rows: Tensor, sizes: Sequence[int], limits: Limits, append: bool) -> None:
    """Against faiss alone and scikit-learn from the same centres."""

    def seeding(rows: Tensor, count: int) -> Tensor:
        return plus_plus_centers(rows, count, seeded_generator(0, "kmeans", 0))

    def by_faiss(rows: Tensor, count: int) -> Tensor:
        import faiss

        trainer = faiss.Kmeans(
            rows.shape[1], count, niter=ITERATIONS, min_points_per_centroid=1, max_points_per_centroid=len(rows)
        )
        trainer.train(rows.numpy(), init_centroids=seeding(rows, count).numpy())
        return torch.from_numpy(trainer.centroids)

    def by_sklearn(rows: Tensor, count: int) -> Tensor:
        from sklearn.cluster import KMeans

        found = KMeans(count, init=seeding(rows, count).numpy(), n_init=1, max_iter=ITERATIONS, tol=0)
        return torch.from_numpy(found.fit(rows.numpy()).cluster_centers_)

    def ours(rows: Tensor, count: int, engine: Any) -> Tensor:
        return kmeans(rows, count, iterations=ITERATIONS, engine=engine).centers

    def products(rows: Tensor, count: int) -> None:
        for _ in range(ITERATIONS):
            torch.mm(rows, rows[:count].T)

    entrants = [
        Entrant("ours, faiss engine", partial(ours, engine="faiss"), "faiss", power=2),
        Entrant("ours, torch engine", partial(ours, engine="torch"), power=2),
        Entrant("our k-means++ seeding alone", seeding, power=2, judged=False),
        Entrant(f"floor: {ITERATIONS} products with the centres", products, power=2, judged=False),
        Entrant("faiss alone", by_faiss, "faiss", power=2),
        Entrant("scikit-learn KMeans", by_sklearn, "sklearn", power=2),
    ]
    cases = [(rows[:size].contiguous(), max(2, size // 500)) for size in sizes]
    note = f"{_note(rows, limits)} At most {ITERATIONS} iterations of Lloyd, all from our seeding, its time included."
    show("K-means, side by side", note, header("inertia"), race(entrants, cases, inertia, limits), append)


def floors(quick: bool, limits: Limits, append: bool) -> None:
    """What this machine does at best on one thread."""
    table: list[list[object]] = []
    network = resolve_extractor(example.choose_embedder(data_folder())).module().eval()
    images = torch.rand(64, 3, 96, 96)

    def forward() -> None:
        with torch.no_grad():
            network(images)

    seconds = interleaved({"forward": forward}, limits.rounds)["forward"]
    table.append(["forward, SqueezeNet, 64 images of 96 px", *_speed(seconds, 64, "images/s")])
    for size, width in ((500, 64),) if quick else ((5_000, 512), (50_000, 128)):
        rows = gaussian(size, width)
        some = rows[:5_000]
        work = {"product": partial(torch.mm, some, rows.T), "vector": partial(torch.mv, rows, rows[0])}
        times = interleaved(work, limits.rounds)
        name = f"product [{len(some)}, {width}] x [{width}, {size}]"
        table.append([name, *_speed(times["product"], 2e-9 * len(some) * size * width, "GFLOP/s")])
        table.append([f"matrix-vector [{size}, {width}]", *_speed(times["vector"], 4e-9 * rows.numel(), "GB/s")])
    note = f"One thread, best of {limits.rounds} rounds after one to warm up."
    show("Floors", note, ["work", "best s", "speed"], table, append)


def _speed(seconds: Sequence[float], amount: float, unit: str) -> list[str]:
    return [f"{min(seconds):.6f}", f"{amount / min(seconds):.1f} {unit}"]


def _note(rows: Tensor, limits: Limits) -> str:
    return (
        f"SqueezeNet (ImageNet) embeddings of CIFAR-10, d={rows.shape[1]}, one thread, best of {limits.rounds} rounds, "
        f"in turn; whole calls, similarities included. Left out where a call would take over {limits.seconds:.0f} s."
    )


def main() -> None:
    """All parts, or those asked for."""
    parser = parser_of(__doc__)
    parts = ("facility_location", "graph_cut", "k_center", "kmeans", "floors")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60, help="of a single call, at most (an estimate)")
    given = parser.parse_args()
    quiet()
    torch.set_num_threads(1)
    limits = Limits(1, 20) if given.quick else Limits(given.rounds, given.seconds)
    races = {
        "facility_location": (facility_location, (500, 1_000, 2_000, 5_000)),
        "graph_cut": (graph_cuts, (500, 1_000, 2_000, 5_000)),
        "k_center": (k_centers, (1_000, 5_000, 20_000)),
        "kmeans": (k_means, (5_000, 50_000)),
    }
    rows = squeezenet_set(given.cache, given.quick).train if set(given.only) & set(races) else clustered(1, 1)
    for name, (run, sizes) in races.items():
        if name in given.only:
            run(rows, (300, 600) if given.quick else sizes, limits, given.append)
    if "floors" in given.only:
        floors(given.quick, limits, given.append)


if __name__ == "__main__":
    main()
