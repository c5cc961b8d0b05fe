"""What selections from 100 million and 1 billion images would cost, by formulas: the tables of docs/scale.md.

python -m benchmarks.scale_model                                     # arithmetic only
OMP_NUM_THREADS=1 python -m benchmarks.scale_model --measure [--append]  # what a pick costs over two processes
"""

import json
import tempfile
import time
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing

from benchmarks.common import aligned, gaussian, parser_of, quiet, show
from benchmarks.fresh import spent
from lightning_coreset.distributed import ProcessGroupReducer, index_range
from lightning_coreset.ops import graph_cut
from lightning_coreset.ops.reducer import SerialReducer
from lightning_coreset.ops.sharded import SHARD_ROWS, Shards, Twins

# Assumptions, none of them measured: one GPU of the H100 class, eight of them in a machine.
IMAGES_A_SECOND = 2_000.0
FLOPS = 3e13
BANDWIDTH = 2.5e12
GPU_BYTES = 80e9
NETWORK = 2.5e10
PICK_SECONDS = 3e-4
RANKS_OF_A_MACHINE = 8
WIDTH = 512

# From the code.
FLOAT, LONG, DOUBLE = 4, 8, 8
SHELF, PART, LARGEST_MERGE, LARGEST_EXACT = 65_536, 4_096, 32_768, 50_000
CLUSTERS, CLUSTERED, ROUNDS = 64, 8_192, 10
CACHE_SHARD = 2_048
# Times that the gains of one pick read or write a matrix: product, difference, clamp, sum.
PASSES = 7
# Columns of running values, masks and ties that a pick over ranks reads and writes, bytes for each row.
RUNNING = 64
# Keys of all rows, sorted to find equal ones: six columns of eight bytes on each device.
TIES_ON_DEVICE = 48
# Positions, labels and columns of the answer, on the host of every rank, bytes for each item of the pool.
BOOKKEEPING = 48

# Measured (`--measure`): most of what `Twins` takes for each item of the pool, on every rank.
TWINS = 204

POOLS = (10**8, 10**9)
GPUS = (8, 64)


def pass_seconds(size: int, gpus: int) -> float:
    """Feature pass: ``N / (G r)``."""
    return size / (gpus * IMAGES_A_SECOND)


def cache_bytes(size: int) -> float:
    """Float32 rows and positions on disk: ``N (4 d + 8)``."""
    return size * (FLOAT * WIDTH + LONG)


def classes_at_once(each: float) -> int:
    """Classes in one tensor: two matrices of ``4 n_c^2`` bytes each, in half of a GPU."""
    return max(1, int(GPU_BYTES / 2 / (2 * FLOAT * each**2)))


def classwise_seconds(size: int, classes: int, share: float, gpus: int) -> tuple[float, float]:
    """Exact SubZeroCore in equal classes: seconds of the products ``n_c^2 d``, and of all picks.

    A device looks at all gains for each pick; the time of a launch is shared by the classes that it serves.
    """
    each = size / classes
    own = -(-classes // gpus)
    traffic = PASSES * FLOAT * each**2 / BANDWIDTH
    return own * each**2 * WIDTH / FLOPS, own * share * each * (traffic + PICK_SECONDS / classes_at_once(each))


def partition_choices(size: int, count: int) -> int:
    """What the parts of `partitioned_greedy` choose in all, at most."""
    shelves = -(-size // SHELF)
    of_a_shelf = max(-(-2 * count * SHELF // max(size, SHELF)), min(2 * count, LARGEST_MERGE // shelves))
    return max(1, size // PART) * -(-of_a_shelf * PART // SHELF)


def partitioned_seconds(size: int, count: int, gpus: int) -> tuple[float, float, float]:
    """Facility location in two rounds: seconds of the parts, of the second round, of who represents whom.

    Parts and the represented are dealt to ranks; the second round is every rank's own. A greedy of ``k`` picks reads
    its similarity ``2 + log2 k`` times, as `estimate_cost` counts.
    """
    parts = max(1, size // PART)
    choices = partition_choices(size, count)
    products = size * PART * WIDTH + 2.0 * size * CLUSTERS * WIDTH * (1 + ROUNDS * CLUSTERED / SHELF)
    first = (products / FLOPS + parts * _reads(PART, choices // parts) + choices * PICK_SECONDS) / gpus
    second = 0.0
    if count < choices <= LARGEST_MERGE:
        second = choices**2 * WIDTH / FLOPS + _reads(choices, count) + count * PICK_SECONDS
    return first, second, 2.0 * size / gpus * count * WIDTH / FLOPS


def partitioned_bytes(size: int, count: int, gpus: int) -> float:
    """Memory of a GPU: its rows twice, all chosen rows twice, and 64 rows of similarities to all of its items."""
    return 2.0 * FLOAT * WIDTH * (size / gpus + count) + 64 * FLOAT * size / gpus


def _reads(size: int, count: int) -> float:
    return (2 + count.bit_length()) * FLOAT * size**2 / BANDWIDTH


def pick_seconds(size: int, gpus: int) -> float:
    """One pick of k_center, graph_cut or herding over ranks: a read of the rank's rows, and one gather."""
    return size / gpus * (FLOAT * WIDTH + RUNNING) / BANDWIDTH + pick_bytes(gpus) / NETWORK + PICK_SECONDS


def pick_bytes(gpus: int) -> int:
    """What a rank receives for a pick: a value, a position and a row in float64 of each rank, and a count."""
    return gpus * (DOUBLE * (WIDTH + 2) + LONG)


def rank_bytes(size: int, gpus: int) -> tuple[float, float]:
    """Memory of a rank on its GPU (rows as they came and of unit length) and on its host, rows over ranks."""
    return (
        2.0 * size / gpus * FLOAT * WIDTH + size / gpus * RUNNING + size * TIES_ON_DEVICE,
        size / gpus * FLOAT * WIDTH + size * (BOOKKEEPING + TWINS),
    )


def duration(seconds: float) -> str:
    """Seconds as people say it, in two digits."""
    for limit, unit, name in ((120.0, 1.0, "s"), (7_200.0, 60.0, "min"), (172_800.0, 3_600.0, "h")):
        if seconds < limit:
            return f"{_two_digits(seconds / unit)} {name}"
    return f"{_two_digits(seconds / 86_400)} days"


def amount(size: float) -> str:
    """Bytes in a unit that fits."""
    for limit, unit, name in ((1e6, 1e3, "kB"), (1e9, 1e6, "MB"), (1e12, 1e9, "GB")):
        if size < limit:
            return f"{_two_digits(size / unit)} {name}"
    return f"{_two_digits(size / 1e12)} TB"


def _two_digits(value: float) -> str:
    if value == 0:
        return "0"
    return f"{value:.2g}" if value < 99.5 else f"{value:,.0f}"


def _fitting(size: float) -> str:
    return amount(size) if size <= GPU_BYTES else f"{amount(size)}, does not fit"


def tables() -> dict[str, str]:
    """The tables of the page by name."""
    grid = [(size, gpus) for size in POOLS for gpus in GPUS]
    feature_pass = [
        [
            f"{size:,}",
            gpus,
            duration(pass_seconds(size, gpus)),
            amount(cache_bytes(size)),
            f"{size // CACHE_SHARD:,}",
            amount(gpus * cache_bytes(size)),
        ]
        for size, gpus in grid
    ]
    classwise = []
    for size, classes in ((10**8, 21_841), (10**8, 2_500), (10**9, 250_000), (10**9, 25_000)):
        for gpus in GPUS:
            products, picks = classwise_seconds(size, classes, 0.1, gpus)
            each = size // classes
            row = [f"{size:,}", f"{classes:,}", f"{each:,}", gpus, duration(products), duration(picks)]
            classwise.append([*row, classes_at_once(each), amount(LONG * size)])
    partitioned = []
    for size, gpus in grid:
        for count in (10_000, size // 100):
            first, second, owners = partitioned_seconds(size, count, gpus)
            choices = partition_choices(size, count)
            told = duration(second) if second else "none: ranked by gain"
            row = [f"{size:,}", f"{count:,}", gpus, f"{choices:,}", duration(first), told, duration(owners)]
            partitioned.append([*row, _fitting(partitioned_bytes(size, count, gpus))])
    sharded = []
    for size, gpus in grid:
        for count in (10_000, size // 100):
            one = pick_seconds(size, gpus)
            row = [f"{size:,}", f"{count:,}", gpus, _two_digits(1e3 * one), duration(count * one)]
            sharded.append([*row, amount(pick_bytes(gpus)), amount(count * pick_bytes(gpus))])
    memory = []
    for size, gpus in grid:
        on_device, on_host = rank_bytes(size, gpus)
        machine = RANKS_OF_A_MACHINE * on_host
        memory.append([f"{size:,}", gpus, _fitting(on_device), amount(on_host), amount(machine)])
    columns = ["images", "GPUs"]
    return {
        "feature pass": aligned([*columns, "pass", "cache on disk", "shards", "read by all ranks again"], feature_pass),
        "classwise SubZeroCore, 10 %": aligned(
            ["images", "classes", "n_c", "GPUs", "products", "picks", "classes at once", "answers that each rank gets"],
            classwise,
        ),
        "partitioned facility location": aligned(
            ["images", "picks", "GPUs", "choices", "parts", "second round", "who represents whom", "of a GPU"],
            partitioned,
        ),
        "k_center, graph_cut, herding over ranks": aligned(
            ["images", "picks", "GPUs", "ms a pick", "all picks", "received a pick", "received in all"], sharded
        ),
        "memory over ranks": aligned([*columns, "of a GPU", "of a rank's host", "of a host with 8 ranks"], memory),
    }


class Watched:
    """A reducer that counts what it is given and the time until all ranks have given theirs."""

    def __init__(self) -> None:
        self._inner = ProcessGroupReducer()
        self.rank, self.world_size = self._inner.rank, self._inner.world_size
        self.seconds, self.bytes, self.gathers = 0.0, 0, 0

    def gather(self, rows: Tensor) -> list[Tensor]:
        """See `Reducer.gather`."""
        started = time.perf_counter()
        gathered = self._inner.gather(rows)
        self.seconds += time.perf_counter() - started
        self.bytes += rows.nbytes
        self.gathers += 1
        return gathered

    def now(self) -> list[float]:
        """Wall clock, time and bytes of gathers, their number, and bytes that all network interfaces have sent."""
        return [time.perf_counter(), self.seconds, self.bytes, self.gathers, _sent_bytes()]


def _sent_bytes() -> int:
    lines = Path("/proc/net/dev").read_text().splitlines()[2:]
    return sum(int(line.split(":")[1].split()[8]) for line in lines)


def measure_rank(rank: int, folder: str, size: int, widths: tuple[int, ...], picks: int, rounds: int) -> None:
    """Picks over one of two ranks, from the first to the last of each run, and the bare exchange of as many rows."""
    quiet()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2, timeout=timedelta(seconds=600))
    own = index_range(size, rank, 2, SHARD_ROWS)
    found: dict[str, list[list[float]]] = {}
    for width in widths:
        rows = gaussian(size, width)[own.start : own.stop].clone()
        row = torch.zeros(1, width + 2, dtype=torch.float64)
        for _ in range(rounds):
            reducer, seen = Watched(), []
            # One gather a pick is the same in k_center and herding.
            graph_cut(rows, picks + 1, reducer=reducer, advance=lambda _, seen=seen, at=reducer: seen.append(at.now()))
            found.setdefault(f"graph_cut {width}", []).append(_a_pick(seen[0], seen[-1], picks))
            dist.barrier()
            before = reducer.now()
            for _ in range(picks):
                reducer.gather(row)
            found.setdefault(f"bare_exchange {width}", []).append(_a_pick(before, reducer.now(), picks))
    if rank == 0:
        Path(folder, "found.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def _a_pick(before: list[float], after: list[float], picks: int) -> list[float]:
    return [(late - early) / picks for early, late in zip(before, after, strict=True)]


def _twins(rows: Tensor) -> None:
    Twins(Shards(rows, SerialReducer()), torch.ones(len(rows), dtype=torch.bool))


def measure(quick: bool, rounds: int, append: bool) -> None:
    """Communication for each pick, and what tells equal rows, for real."""
    size, picks = (2_000, 20) if quick else (100_000, 100)
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(measure_rank, (folder, size, (512, 2_048), picks, rounds), nprocs=2)
        found = json.loads(Path(folder, "found.json").read_text())
    table: list[list[Any]] = []
    for work, values in found.items():
        wall, gathering, given, gathers, _ = min(values)
        row = [*work.split(), f"{1e3 * wall:.2f}", f"{1e3 * gathering:.2f}", f"{gathers:g}", f"{given:,.0f}"]
        table.append([*row, f"{min(value[-1] for value in values):,.0f}"])
    note = (
        f"N={size:,}, {picks} picks after the first, two processes over gloo on one machine, one thread each; the best "
        f"of {rounds} rounds, as the first rank sees it. Time in gathers holds the wait for the slower rank. Sent: by "
        "all network interfaces of the machine, both ranks and all protocols together, the least of the rounds. Bare "
        "exchange: the same rows with no work between."
    )
    header = ["work", "d", "ms a pick", "ms of it in gathers", "gathers", "bytes given by a rank", "bytes sent"]
    show("A pick over two ranks", note, header, table, append)
    size = 20_000 if quick else 2_000_000
    rows = gaussian(size, 8)
    _twins(rows[:1_000])
    taken = spent(partial(_twins, rows))
    note = (
        f"What each rank takes for all N={size:,} items to tell equal rows, above what is resident with the rows read."
    )
    row = [f"{size:,}", f"{taken.above:.0f}", f"{1e6 * taken.above / size:.0f}", f"{taken.seconds:.1f}"]
    show("Ties over ranks", note, ["items", "MB above", "bytes an item", "s"], [row], append)


def main() -> None:
    """The tables, or what is measured."""
    parser = parser_of(__doc__)
    parser.add_argument("--measure", action="store_true", help="a pick over two processes")
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    if given.measure:
        quiet()
        torch.set_num_threads(1)
        measure(given.quick, given.rounds, given.append)
        return
    for name, table in tables().items():
        print(f"\n{name}\n\n{table}")


if __name__ == "__main__":
    main()
