"""Pools as large as people have them, two ranks against one, and estimates against what was measured.

OMP_NUM_THREADS=1 python -m benchmarks.scale [--only classes million approximate ranks estimate] [--append]
"""

import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing
from torch.nn.functional import one_hot

from benchmarks.common import (
    clustered,
    facility_modes,
    facility_value,
    parser_of,
    progress,
    quiet,
    ratios,
    show,
    squeezenet_set,
)
from benchmarks.fresh import Spent, StoppedError, answers, spent
from lightning_coreset import Pool, SelectionContext, Signals, estimate_cost, list_selectors, select
from lightning_coreset.detection import Objects
from lightning_coreset.distributed import current_reducer
from lightning_coreset.ops.facility_location import plan_mode
from lightning_coreset.registry import build_selector, selector_class

SAMPLED_CLASSES = 40
# Seconds that a rank waits for the other.
RANK_PATIENCE = 1_800


def class_rows(classes: int, each: int, width: int) -> tuple[Tensor, Tensor]:
    """Rows around one centre for each class, and the class of each ``[classes * each, width]``."""
    return clustered(classes * each, width, classes), torch.arange(classes).repeat_interleave(each)


def measure_classes(classes: int, each: int, width: int, device: str) -> Iterator[tuple[Spent, float, float]]:
    """SubZeroCore at 10 %, and seconds (wall, processor) of the products of all classes by a sample of them."""
    quiet()
    rows, labels = class_rows(classes, each, width)
    rows = rows.to(device)
    select(rows[: 2 * each], labels[: 2 * each], ratio=0.1)
    sample = min(SAMPLED_CLASSES, classes)
    products = [_class_products(rows, each, sample)]
    taken = spent(partial(_count, rows, labels, method="subzerocore", ratio=0.1))
    products.append(_class_products(rows, each, sample))
    seconds, cpu = (min(times) * classes / sample for times in zip(*products, strict=True))
    yield taken, seconds, cpu


def _count(*arguments: Any, **named: Any) -> int:
    chosen = len(select(*arguments, **named))
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return chosen


def _class_products(rows: Tensor, each: int, sample: int) -> tuple[float, float]:
    # The first one starts what stays.
    rows[:each] @ rows[:each].T
    started, busy = time.perf_counter(), time.process_time()
    for part in rows[: sample * each].split(each):
        product = part @ part.T
        # Reading a value waits for a GPU.
        float(product[-1, -1])
    return time.perf_counter() - started, time.process_time() - busy


def classes(quick: bool, device: str, patience: float, append: bool) -> None:
    """Classwise SubZeroCore on a pool of the size of ImageNet."""
    count, each, width = (20, 300, 64) if quick else (1_000, 1_280, 512)
    size = f"{count * each:,} x {width} in {count:,} classes, 10 %"
    must_hold = ["4", "1000"] if device == "cpu" else ["5 s", ""]
    try:
        ((taken, products, cpu),) = answers(measure_classes, count, each, width, device, patience=patience)
        row = [f"{taken.seconds:.1f}", f"{products:.1f}", f"{taken.seconds / products:.2f}", f"{taken.cpu / cpu:.2f}"]
        row += [f"{taken.above:.0f}", f"{taken.peak:.0f}"]
    except StoppedError as error:
        row = [f"not measured: {error}", "", "", "", "", ""]
    note = (
        f"{size}, float32 features on {device}, one thread. The products of all classes are timed on "
        f"{min(SAMPLED_CLASSES, count)} of them and scaled, the better of before and after. Memory is the largest "
        "resident size of a fresh process, above what is resident with the features read."
    )
    header = [
        "pool",
        "select s",
        "products s",
        "ratio",
        "ratio, processor",
        "MB above features",
        "MB in all",
        "must hold: ratio",
        "MB above",
    ]
    show("Classwise SubZeroCore at the size of ImageNet", note, header, [[size, *row, *must_hold]], append)


def measure_million(size: int, width: int) -> Iterator[Spent]:
    """Facility location at 1 % of one unlabelled pool."""
    quiet()
    rows = clustered(size, width, 1_000)
    yield spent(partial(_resolved, rows, method="facility_location", ratio=0.01))


def _resolved(rows: Tensor, **arguments: Any) -> str:
    return str(select(rows, **arguments).manifest["resolved"])


def million(quick: bool, patience: float, append: bool) -> None:
    """One large unlabelled pool."""
    size, width = (2_000, 64) if quick else (1_000_000, 384)
    try:
        (taken,) = answers(measure_million, size, width, patience=patience)
        row = [f"{taken.seconds:.1f}", f"{taken.above:.0f}", f"{taken.peak:.0f}", taken.answer]
    except StoppedError as error:
        row = [f"not measured: {error}", "", "", ""]
    note = (
        f"`select(features, method='facility_location', ratio=0.01)` of {size:,} x {width}, rows around 1,000 centres; "
        "one thread, a fresh process, its largest resident size."
    )
    header = ["pool", "select s", "MB above features", "MB in all", "resolved", "must hold MB in all"]
    show("One unlabelled pool", note, header, [[f"{size:,} x {width}, 1 %", *row, "8000"]], append)


def approximate(rows: Tensor, quick: bool, append: bool) -> None:
    """Objectives of all modes of facility location against the exact ones."""
    rows = rows[: 1_000 if quick else 50_000]
    count = len(rows) // 100
    table: list[list[object]] = []
    exact = 0.0
    # Dense and streamed give the same picks: the one that fits is the exact one.
    exact_mode = plan_mode(len(rows)).mode
    for mode in [exact_mode, *(mode for mode in facility_modes() if mode not in ("dense", "streamed"))]:
        taken = spent(partial(select, rows, method="facility_location", budget=count, mode=mode))
        value = facility_value(rows, taken.answer.indices)
        exact = exact or value
        table.append(
            [mode, f"{taken.seconds:.1f}", f"{taken.above:.0f}", f"{value:.2f}", f"{value / exact:.5f}", "0.98"]
        )
    note = (
        f"Facility location on {len(rows):,} SqueezeNet embeddings of CIFAR-10, {rows.shape[1]} wide, k={count}, one "
        "thread. Objectives in double precision; the first one is exact."
    )
    header = ["mode", "select s", "MB above", "objective", "of the exact", "must hold"]
    show("Approximate modes against the exact one", note, header, table, append)


def measure_rank(rank: int, folder: str, size: Sequence[int], rounds: int) -> None:
    """SubZeroCore by class on one of two ranks; alone, the first works and the other waits."""
    quiet()
    torch.set_num_threads(1)
    patience = timedelta(seconds=RANK_PATIENCE)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2, timeout=patience)
    rows, labels = class_rows(*size)
    selector = build_selector("subzerocore", {})
    seconds: dict[str, list[list[float]]] = {"1 rank": [], "2 ranks": []}
    for number in range(rounds + 1):
        for name, values in seconds.items():
            dist.barrier()
            started, busy = time.perf_counter(), time.process_time()
            if name == "2 ranks":
                context = SelectionContext(reducer=current_reducer())
                selector.select(Pool(rows, labels), len(rows) // 10, context=context)
            elif rank == 0:
                selector.select(Pool(rows, labels), len(rows) // 10)
            took = torch.tensor([time.perf_counter() - started, time.process_time() - busy])
            dist.all_reduce(took, dist.ReduceOp.MAX)
            if number:
                values.append(took.tolist())
    if rank == 0:
        Path(folder, "seconds.json").write_text(json.dumps(seconds))
    dist.destroy_process_group()


def ranks(quick: bool, rounds: int, append: bool) -> None:
    """Two processes over gloo against one."""
    size = (20, 200, 32) if quick else (24, 3_000, 512)
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(measure_rank, (folder, size, rounds), nprocs=2)
        seconds = json.loads(Path(folder, "seconds.json").read_text())
    table = []
    for place, clock in enumerate(("wall", "processor")):
        alone, together = ([took[place] for took in values] for values in seconds.values())
        best, median = ratios(alone, together)
        limit = "1.7" if clock == "wall" else ""
        table.append([clock, f"{min(alone):.3f}", f"{min(together):.3f}", f"{best:.2f}", f"{median:.2f}", limit])
    note = (
        f"SubZeroCore by class, {size[0]} classes of {size[1]:,} x {size[2]}, 10 %; real processes over gloo, one "
        f"thread each, the slower one counts, {rounds} rounds after one to warm up. A busy neighbour takes "
        "the second core away from two ranks, but hardly changes processor time."
    )
    header = ["clock", "1 rank s", "2 ranks s", "times faster, best", "median", "must hold"]
    show("Two ranks against one", note, header, table, append)


def objects_of(size: int, width: int) -> Objects:
    """Objects as in COCO: 7 in each of ``size`` images, three tenths of one class, the others of up to 4 of 80."""
    generator = torch.Generator().manual_seed(0)
    image = torch.arange(size).repeat_interleave(7)
    own = torch.randint(80, (size,), generator=generator)
    labels = (own[image] + torch.randint(0, 4, (len(image),), generator=generator)) % 80
    labels.masked_fill_(torch.rand(len(image), generator=generator) < 0.3, 0)
    corners = 400 * torch.rand(len(image), 2, generator=generator)
    boxes = torch.cat([corners, corners + 40], dim=1)
    scores = torch.rand(len(image), generator=generator)
    return Objects(image, boxes, labels, size, scores=scores, features=clustered(len(image), width))


def measured_pool(method: str, size: int, width: int) -> Pool:
    """What a method looks at."""
    needs = selector_class(method).needs
    if "objects" in needs:
        return Pool(objects=objects_of(size, width))
    rows = clustered(size, width)
    labels = torch.arange(size) % 10
    recorded = None
    if "signals" in needs:
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(10, size, 10, generator=generator) + 2 * one_hot(labels, 10)
        recorded = Signals.from_logits(logits, labels, rows)
    return Pool(rows, labels if recorded is not None or "labels" in needs else None, signals=recorded)


def arguments_of(method: str, width: int) -> dict[str, Any]:
    """Where the defaults ask for more than embeddings: one text for each of 80 classes, no new images."""
    texts = {"texts": clustered(80, width, 80).tolist()}
    return {"text_retrieval": texts, "dq_v2": {"augment": 0}}.get(method, {})


def measure_method(method: str, size: int, width: int, count: int) -> Iterator[Spent]:
    """What one method takes."""
    quiet()
    given = arguments_of(method, width)
    # The first selection brings in what stays.
    select(measured_pool(method, 500, width), method=method, budget=20, **given)
    pool = measured_pool(method, size, width)
    yield spent(partial(_count, pool, method=method, budget=count, **given))


def estimates(methods: Sequence[str], quick: bool, patience: float, append: bool) -> None:
    """What `estimate_cost` says beforehand against what a fresh process takes."""
    size, width, count = (1_000, 32, 50) if quick else (20_000, 512, 500)
    table: list[list[object]] = []
    for method in methods:
        try:
            (found,) = answers(measure_method, method, size, width, count, patience=patience)
        except StoppedError as error:
            table.append([method, f"not measured: {error}", "", "", "", "", ""])
            continue
        kind = selector_class(method)
        by_class = kind.per_class_default and bool(kind.needs & {"labels", "signals"})
        given = arguments_of(method, width)
        said = estimate_cost(method, size, width, count, num_classes=10 if by_class else None, **given)
        compared = 7 * size * getattr(kind, "embeds_objects", False) if "objects" in kind.needs else size
        features = 4 * compared * width / 1e6
        above = said.extra_bytes / 1e6
        ratio = (features + above) / (features + found.above)
        row = [method, f"{features:.0f}", f"{found.above:.1f}", f"{above:.1f}", f"{ratio:.2f}", "0.67 to 1.5"]
        table.append([*row, f"{found.seconds:.3f}", f"{said.seconds:.3f}"])
        progress(*table[-1])
    note = (
        f"N={size:,}, d={width}, k={count}, one group (craig and grad_match: 10 classes), one thread, a fresh process "
        "for each method. Detection methods: 7 objects in each image, three tenths of one class, the others of up to "
        "4 of 80; text_retrieval: 80 texts; dq_v2: without new images. Measured: largest resident size during "
        "`select`, above what is resident with the embeddings read. The ratio is of both with the embeddings."
    )
    header = ["method", "MB embeddings", "MB above", "estimate MB", "estimate / measured", "must hold"]
    show("Estimates against what was measured", note, [*header, "select s", "estimate s"], table, append)


def main() -> None:
    """All parts, or those asked for."""
    parser = parser_of(__doc__)
    parts = ("classes", "million", "approximate", "ranks", "estimate")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1_800, help="after which a measurement is stopped")
    parser.add_argument("--device", default="cpu", help="of the classes")
    parser.add_argument("--methods", nargs="+", choices=list_selectors(), default=list_selectors(), help="to estimate")
    given = parser.parse_args()
    quiet()
    torch.set_num_threads(1)
    if "classes" in given.only:
        classes(given.quick, given.device, given.seconds, given.append)
    if "million" in given.only:
        million(given.quick, given.seconds, given.append)
    if "approximate" in given.only:
        approximate(squeezenet_set(given.cache, given.quick).train, given.quick, given.append)
    if "ranks" in given.only:
        ranks(given.quick, 1 if given.quick else given.rounds, given.append)
    if "estimate" in given.only:
        estimates(given.methods, given.quick, given.seconds, given.append)


if __name__ == "__main__":
    main()
