"""Selection of images with objects: time and memory of the kernels, and what each method chooses for its boxes.

python -m benchmarks.detection --only kernels voc5 [--quick] [--append]
"""

import functools
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import gaussian, mean_and_spread, parser_of, quiet, show
from benchmarks.detection_pools import DetectionPool, digits_pools, neu_det_pool, thinned, voc5_pool
from lightning_coreset import Coreset, Pool, SelectionContext, select
from lightning_coreset.detection import Objects
from lightning_coreset.detection.report import class_balance
from lightning_coreset.ops.clean_clusters import clean_clusters
from lightning_coreset.ops.rows import normalize_rows
from lightning_coreset.registry import build_selector

HEADER = ["method", "balance", "x random", "rare boxes", "x random", "missing", "images", "spent %", "pairs"]
SHARES = (0.05, 0.10, 0.15, 0.20)


def kernels(arguments: Any) -> None:
    """CSOD on many objects, and the search for clean clusters."""
    quick = arguments.quick
    objects, classes, picks = (2_000, 8, 50) if quick else (100_000, 80, 1_000)
    generator = torch.Generator().manual_seed(0)
    images = objects // 5
    table = Objects(
        torch.randint(images, (objects,), generator=generator),
        torch.tensor([[0.0, 0.0, 40.0, 40.0]]).repeat(objects, 1),
        # A long tail, as COCO has.
        (torch.rand(objects, generator=generator) ** 3 * classes).long(),
        num_images=images,
        features=torch.randn(objects, 256, generator=generator),
    )
    before = _peak()
    found, wall, seconds = _timed(lambda: select(Pool(objects=table), method="csod", budget=picks))
    size = f"{objects:,} x {classes} x 256"
    rows = [[size, picks, f"{wall:.1f}", f"{seconds:.1f}", f"{(_peak() - before) / 1e6:.0f}", len(found)]]
    note = (
        f"Memory: what the peak of the process grew by, beside {objects * 256 * 4 / 1e6:.0f} MB of features. A "
        "matrix of all pairs of the largest class alone would take "
        f"{4 * int(torch.bincount(table.labels).max()) ** 2 / 1e9:.1f} GB."
    )
    show(
        "CSOD: time and memory",
        note,
        ["objects x classes x width", "picks", "s", "s of CPU", "MB", "images"],
        rows,
        arguments.append,
    )

    size, wanted = (2_000, 40) if quick else (20_000, 300)
    searches = []
    for name, features in _clouds(size):
        taken = torch.rand(size, generator=torch.Generator().manual_seed(1)) < 0.06
        clusters, wall, used = _timed(functools.partial(clean_clusters, features, taken, ~taken, wanted))
        searches.append([name, f"{wall:.1f}", f"{used:.1f}", clusters.fits, f"{wanted} -> {clusters.clusters}"])
    show(
        "OFDS: search for clean clusters in one class",
        f"{size:,} x 256, {wanted} clean clusters wanted, 6 % of the objects on images that are taken, "
        f"{torch.get_num_threads()} thread(s). A k-means on every place of the ladder took 137 s in a prototype.",
        ["rows", "s", "s of CPU", "clusterings", "k"],
        searches,
        arguments.append,
    )


def _timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """What a piece of work gives, its seconds by the clock, and those of the processor: neighbours slow the first."""
    started, used = time.perf_counter(), time.process_time()
    found = work()
    return found, time.perf_counter() - started, time.process_time() - used


def _clouds(size: int) -> list[tuple[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(200, 256, generator=generator)
    clustered = centers[torch.randint(200, (size,), generator=generator)] + gaussian(size, 256)
    low = torch.randn(size, 16, generator=generator) @ torch.randn(16, 256, generator=generator)
    return [
        ("no structure", gaussian(size, 256)),
        ("200 clusters", clustered),
        ("16 directions and noise", low + 0.3 * gaussian(size, 256)),
    ]


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def strongest(objects: Objects) -> Tensor:
    """Highest score of each class in each image ``[N, C]``: what stands in for a model of images and text."""
    best = torch.zeros(objects.num_images * objects.num_classes)
    assert objects.scores is not None
    best.scatter_reduce_(0, objects.image * objects.num_classes + objects.labels, objects.scores, "amax")
    return best.reshape(objects.num_images, -1) + 1e-6


Select = Callable[[DetectionPool, int, int, "Tensor | None"], Coreset]


def methods(threshold: float) -> dict[str, Select]:
    """Every method by what its table says, called with a pool, a budget in boxes, a seed and groups."""

    def run(method: str, source: str, **given: Any) -> Select:
        def chosen(pool: DetectionPool, budget: int, seed: int, groups: Tensor | None) -> Coreset:
            objects = pool.proposals if source == "all proposals" else pool.kept()
            tables = {"patterns": pool.patterns, "scores": strongest(pool.proposals)}
            arguments = dict(given)
            if method == "text_retrieval":
                arguments["texts"] = torch.eye(objects.num_classes).tolist()
            if arguments.get("objects") == "near":
                arguments["objects"] = (budget // 4, budget)
            selector = build_selector(method, arguments)
            return selector.select(
                Pool(tables.get(source, pool.features), objects=objects, ids=pool.ids),
                budget,
                seed=seed,
                budget_unit="boxes",
                context=SelectionContext(duplicates=groups),
            )

        return chosen

    given: dict[str, Any] = {"threshold": threshold, "charge": "oracle"}
    return {
        "random": run("random", "kept"),
        "random, all classes": run("random", "kept", all_classes=True),
        "uniform, classes in turn": run("uniform", "kept"),
        "uniform, quota by ratio": run("uniform", "kept", quota="ratio"),
        "uniform, fullest first": run("uniform", "kept", most_objects=True),
        "uniform, number of objects": run("uniform", "kept", objects="near"),
        "k_center": run("k_center", "kept"),
        "prototypes": run("prototypes", "kept"),
        "hacon": run("hacon", "kept"),
        "freesel": run("freesel", "patterns", patterns=5),
        "text_retrieval (scores)": run("text_retrieval", "scores"),
        "csod on proposals": run("csod", "kept"),
        "class_balance": run("class_balance", "all proposals", **given),
        "ofds": run("ofds", "all proposals", **given),
        "ofds, random": run("ofds", "all proposals", pick="random", **given),
        "ofds, cheapest": run("ofds", "all proposals", pick="cheapest", **given),
    }


def judged(pool: DetectionPool, coreset: Coreset, budget: int) -> dict[str, float]:
    """What chosen images show, by the annotations."""
    counts = pool.truth.counts()[coreset.indices].sum(dim=0)
    proposed = pool.kept().counts().sum(dim=0) >= 5
    sizes = torch.bincount(pool.groups[coreset.indices])
    return {
        "balance": class_balance(counts),
        "rare": float(counts[pool.rare].sum()),
        "missing": float(((counts == 0) & proposed).sum()),
        "images": float(len(coreset)),
        "spent": coreset.manifest["units"]["true"] / budget,
        "pairs": float((sizes * (sizes - 1) // 2).sum()),
    }


def compared(
    title: str, note: str, pools: Sequence[DetectionPool], arguments: Any, shares: Sequence[float] = SHARES
) -> None:
    """All methods at the same boxes: one table for each share, and one with near duplicates grouped."""
    table = methods(pools[0].calibration.threshold)
    for share in shares:
        results: dict[str, list[dict[str, float]]] = {}
        for seed, pool in enumerate(pools):
            budget = int(share * len(pool.truth) + 0.5)
            for name, run in table.items():
                results.setdefault(name, []).append(judged(pool, run(pool, budget, seed, None), budget))
            for name in ("random", "class_balance", "ofds"):
                found = table[name](pool, budget, seed, pool.groups)
                results.setdefault(f"{name}, duplicates grouped", []).append(judged(pool, found, budget))
        rows = [_row(name, found, results["random"]) for name, found in results.items()]
        show(f"{title}: {share:.0%} of the boxes", note, HEADER, rows, arguments.append)


def _row(name: str, found: list[dict[str, float]], random: list[dict[str, float]]) -> list[str]:
    def mean(key: str, of: list[dict[str, float]] = found) -> float:
        return statistics.mean(result[key] for result in of)

    def told(key: str, digits: int) -> str:
        return mean_and_spread([result[key] for result in found], digits)

    ratios = [f"{mean(key) / mean(key, random):.2f}" if mean(key, random) else "-" for key in ("balance", "rare")]
    return [
        *(name, told("balance", 3), ratios[0], told("rare", 1), ratios[1]),
        *(f"{mean('missing'):.1f}", told("images", 0), f"{100 * mean('spent'):.1f}", told("pairs", 1)),
    ]


def voc5(arguments: Any) -> None:
    """Thinned VOC5: what every method chooses for the same boxes, and what estimates are worth."""
    whole = voc5_pool(arguments.cache, arguments.quick)
    seeds = range(2 if arguments.quick else 5)
    pools = [thinned(whole, [(4, 0.08), (3, 0.15), (2, 0.40)], 0.2, seed) for seed in seeds]
    told = whole.calibration
    note = (
        f"{len(seeds)} seeds of thinning and selection; {pools[0].truth.num_images} images and {len(pools[0].truth)} "
        f"boxes in the first pool. Proposer FastestDet, threshold {told.threshold:.2f} from tiny COCO (precision "
        f"{told.precision:.2f}, recall {told.recall:.2f} there). True units charged. Rare: train, bus. Missing: "
        "classes with 5 proposals or more that no chosen image shows. Pairs: exact duplicates both chosen. "
        "text_retrieval takes the detector's best score of each class, for want of a model of images and text."
    )
    compared("Thinned VOC5", note, pools, arguments)
    _estimates("Thinned VOC5", pools, whole, arguments)


def _estimates(
    title: str,
    pools: Sequence[DetectionPool],
    whole: DetectionPool,
    arguments: Any,
    shares: Sequence[float] = SHARES,
) -> None:
    """True spending where units are estimated, and the request stopped when the budget is spent."""
    rows = []
    for share in shares:
        errors, stopped, missing, dearest = [], [], [], []
        for seed, pool in enumerate(pools):
            budget = int(share * len(pool.truth) + 0.5)
            units = whole.calibration.units
            assert units is not None
            found = select(
                Pool(objects=pool.proposals, ids=pool.ids),
                method="ofds",
                budget=budget,
                budget_unit="boxes",
                seed=seed,
                threshold=whole.calibration.threshold,
                estimate=(units.per_image, units.per_score),
            )
            errors.append(100 * (found.manifest["units"]["true"] / budget - 1))
            spent, asked = stopped_request(found, pool, budget)
            stopped.append(100 * spent / budget)
            proposed = set(pool.kept().labels.tolist())
            missing.append(float(len(proposed - asked)))
            assert pool.proposals.units is not None
            dearest.append(budget - float(pool.proposals.units.max()) - spent)
        rows.append([
            f"{share:.0%}", mean_and_spread(errors, 1), mean_and_spread(stopped, 1), f"{max(dearest):.0f}",
            f"{max(missing):.0f}",
        ])  # fmt: skip
    show(
        f"{title}: estimated units",
        "OFDS, units estimated from the scores of the calibration set. Error: true boxes of the picks over the "
        "budget. Stopped: true boxes when the request, reserve and all, stops before the first line that would exceed "
        "it. Short: boxes by which that misses the budget less its dearest image, at worst (0 or less: held). Missing: "
        "classes with proposals that were not asked for, at worst.",
        ["budget", "error %", "stopped %", "short", "missing"],
        rows,
        arguments.append,
    )


def stopped_request(found: Coreset, pool: DetectionPool, budget: int) -> tuple[float, set[int]]:
    """True units of the lines before the first that would exceed the budget, and the classes asked for."""
    assert pool.proposals.units is not None
    spent, asked = 0.0, set()
    for line in found.request():
        price = float(pool.proposals.units[line["index"]])
        if spent + price > budget:
            break
        spent += price
        asked.add(line["class"])
    return spent, asked


def neu_det(arguments: Any) -> None:
    """Thinned NEU-DET: the same, in a domain that no detector knows beforehand."""
    whole = neu_det_pool(arguments.cache, arguments.quick)
    names = list(whole.truth.class_names or ())
    shares = (("pitted_surface", 0.08), ("scratches", 0.15), ("rolled-in_scale", 0.40))
    seeds = range(2 if arguments.quick else 3)
    pools = [thinned(whole, [(names.index(name), share) for name, share in shares], 0.2, seed) for seed in seeds]
    told = whole.calibration
    note = (
        f"{len(seeds)} seeds of thinning and selection; {pools[0].truth.num_images} images and {len(pools[0].truth)} "
        f"boxes in the first pool. Proposer: a small detector trained on 60 val images, threshold {told.threshold:.2f} "
        f"from the other 300 (precision {told.precision:.2f}, recall {told.recall:.2f} there). True units charged. "
        "Rare: pitted_surface, scratches. Missing and pairs as above."
    )
    compared("Thinned NEU-DET", note, pools, arguments)
    _estimates("Thinned NEU-DET", pools, whole, arguments)


def digits(arguments: Any) -> None:
    """Scenes of digits: whether the clustering pays, and whether estimates hold a budget."""
    seeds = range(2 if arguments.quick else 3)
    pools, recall = digits_pools(seeds, arguments.quick)
    calibration = pools[0].calibration
    names = ("random", "class_balance", "csod on proposals", "ofds", "ofds, random", "ofds, cheapest")
    table = {name: run for name, run in methods(calibration.threshold).items() if name in names}
    note = (
        f"{len(seeds)} pools of {pools[0].truth.num_images} scenes, {len(pools[0].truth)} boxes at first. Proposer: "
        f"a small detector trained on other writers; recall on the pools {recall:.2f} above the threshold "
        f"{calibration.threshold:.2f}. True units charged. Rare: the four rarest digits. Pairs: near duplicates both "
        "chosen. Distance: mean cosine distance from every proposal above the threshold to the nearest one on a chosen "
        "image."
    )
    for share in (0.05, 0.15, 0.30):
        rows = []
        random: list[dict[str, float]] = []
        for name, run in table.items():
            found, away = [], []
            for seed, pool in enumerate(pools):
                budget = int(share * len(pool.truth) + 0.5)
                coreset = run(pool, budget, seed, None)
                found.append(judged(pool, coreset, budget))
                away.append(_distance(pool, coreset.indices))
            random = random or found
            rows.append([*_row(name, found, random), mean_and_spread(away, 4)])
        header = [*HEADER, "distance"]
        show(f"Scenes of digits: {share:.0%} of the boxes", note, header, rows, arguments.append)
    _estimates("Scenes of digits", pools, pools[0], arguments, (0.1, 0.2, 0.3, 0.4))


def _distance(pool: DetectionPool, chosen: Tensor) -> float:
    objects = pool.kept()
    assert objects.features is not None
    rows = normalize_rows(objects.features)
    mine = rows[torch.isin(objects.image, chosen)]
    return float((1 - (rows @ mine.T).amax(dim=1)).mean())


PARTS: dict[str, Callable[[Any], None]] = {
    "kernels": kernels,
    "voc5": voc5,
    "digits": digits,
    "neu_det": neu_det,
}


def main() -> None:
    """Run the parts that are asked for."""
    parser = parser_of(__doc__)
    parser.set_defaults(cache=Path("coresets/detection"))
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    arguments = parser.parse_args()
    quiet()
    for name in arguments.only:
        PARTS[name](arguments)


if __name__ == "__main__":
    main()
