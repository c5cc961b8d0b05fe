"""What bfloat16 leaves open: items whose gain may be as large as that of a pick of facility location.

OMP_NUM_THREADS=1 python -m benchmarks.screening [--quick] [--append]
python -m benchmarks.screening --device cuda times screening there against float32 alone instead.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.common import clustered, interleaved, parser_of, progress, quiet, show, squeezenet_set
from lightning_coreset import select
from lightning_coreset.ops.exact_greedy import exact_greedy, greedy_on_device
from lightning_coreset.ops.objective import FacilityLocationObjective
from lightning_coreset.ops.rows import Ranking, normalize_rows
from lightning_coreset.ops.screening import RoundedRows, screened_greedy, screened_picks, worth_screening
from lightning_coreset.ops.similarity import SimilarityRows

_BLOCK_ROWS = 512


def bounds(rows: Tensor, covered: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds of all gains from a product of rounded rows ``[N]`` each, float64.

    An item that cannot improve within its doubt adds nothing to either bound.

    Args:
        rows: Unit rows ``[N, d]``.
        covered: Best similarity of each item so far ``[N]``.
        kind: What rows are rounded to.
    """
    rounded = RoundedRows(rows, kind)
    lower, upper = torch.empty(2, len(rows), dtype=torch.float64)
    for start in range(0, len(rows), _BLOCK_ROWS):
        part = slice(start, start + _BLOCK_ROWS)
        away = rounded.row_doubt[part, None] + rounded.column_doubt
        above = rounded.products(part).sub_(covered)
        upper[part] = (above + away).clamp_(min=0).sum(dim=1, dtype=torch.float64)
        lower[part] = above.sub_(away).clamp_(min=0).sum(dim=1, dtype=torch.float64)
    return lower, upper


def counted(name: str, rows: Tensor) -> list[list[object]]:
    """A line for each of some picks."""
    rows = normalize_rows(rows)
    count = len(rows) // 100
    chosen = select(rows, method="facility_location", budget=count)
    assert chosen.gains is not None
    nothing = torch.zeros(len(rows))
    _, exact = bounds(rows, nothing, torch.float32)
    _, first = bounds(rows, nothing, torch.bfloat16)
    table: list[list[object]] = []
    for place in sorted({0, 1, count // 50, count // 10, count // 2, count - 1}):
        gain = float(chosen.gains[place])
        before = rows[chosen.indices[:place]]
        covered = (
            torch.cat([(part @ before.T).amax(dim=1) for part in rows.split(8_192)]).clamp(min=0) if place else nothing
        )
        lower, upper = bounds(rows, covered, torch.bfloat16)
        shares = [exact >= gain, first >= gain, upper >= lower.max(), upper >= gain]
        doubt = float((upper - lower)[chosen.indices[place]]) / 2
        line = [name, place + 1, f"{gain:.2f}", f"{doubt:.2f}"]
        table.append([*line, *(f"{100 * float(share.double().mean()):.2f}" for share in shares)])
        progress(*table[-1])
    return table


def timed(size: int, width: int, count: int, device: str) -> list[object]:
    """A line of seconds, each the best of two after one to warm up; the picks must be the same."""
    similarity = SimilarityRows(clustered(size, width).to(device), mode="streamed")
    everything = torch.ones(size, dtype=torch.bool, device=device)

    def fresh() -> FacilityLocationObjective:
        return FacilityLocationObjective(similarity)

    def by_force() -> Ranking:
        objective = fresh()
        return greedy_on_device(objective, objective.all_gains(), count, None)

    found: dict[str, list[int]] = {}

    def keeping(name: str, made: Callable[[], Ranking]) -> Callable[[], None]:
        # A list waits for the device.
        return lambda: found.update({name: made().indices.tolist()})

    ways = {
        "float32": by_force,
        "running": lambda: exact_greedy(fresh(), everything, count, None),
        "screened": lambda: screened_greedy(fresh(), everything, count, None),
    }
    seconds = interleaved({name: keeping(name, made) for name, made in ways.items()}, 2)
    same = all(picks == found["float32"] for picks in found.values())
    proven = int(screened_picks(fresh(), everything, count, None).proven)
    best = {name: min(taken) for name, taken in seconds.items()}
    line = [width, count, *(f"{best[name]:.3f}" for name in ways), f"{best['float32'] / best['screened']:.2f}"]
    progress(*line)
    chosen = "screened" if worth_screening(similarity, count) else "running"
    return [*line, f"{proven} of {count}", "yes" if same else "no", chosen]


def time_on(device: str, quick: bool, append: bool) -> None:
    """The table of one device."""
    size, counts = (1_000, (1, 3)) if quick else (50_000, (1, 3, 8, 100))
    table = [timed(size, width, count, device) for width in (512, 2_048) for count in counts]
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    note = (
        f"Facility location from embeddings, {size:,} items in 100 clusters, no matrix held; {name}; seconds, the best "
        "of two. Float32: all gains anew for each pick. Running: running gains, which wait for the host. Screened: all "
        "bounds anew in bfloat16, one item of 32 in float32. Ratio: float32 over screened."
    )
    header = ["columns", "picks", "float32", "running", "screened", "ratio", "proven", "same picks", "by itself"]
    show(f"Screening on {device}", note, header, table, append)


def main() -> None:
    """Photographs and clusters."""
    parser = parser_of(__doc__)
    parser.add_argument("--device", help="time screening there instead")
    given = parser.parse_args()
    quiet()
    torch.set_num_threads(1)
    if given.device is not None:
        time_on(given.device, given.quick, given.append)
        return
    size = 1_000 if given.quick else 20_000
    pools = {
        "CIFAR-10, SqueezeNet": squeezenet_set(given.cache, given.quick).train[:size],
        "100 clusters": clustered(size, 512),
    }
    table = [line for name, rows in pools.items() for line in counted(name, rows)]
    note = (
        f"Facility location, {size:,} items of each pool, 1 % chosen. Items whose upper bound reaches the gain of the "
        "pick, in percent: their gains are still to be computed in float32. The first two shares take bounds of the "
        "first pass, which hold for all picks because gains only shrink; the last two make all bounds anew for the "
        "pick, and compare with the largest lower one, and with the pick's float32 gain, as screening does. Doubt: "
        "half the distance of the pick's own bounds."
    )
    shares = ["float32, first pass %", "bfloat16, first pass %", "bfloat16, this pick %", "against float32 %"]
    header = ["pool", "pick", "gain", "doubt", *shares]
    show("What bfloat16 leaves open", note, header, table, given.append)


if __name__ == "__main__":
    main()
