"""What bfloat16 leaves open: items whose gain may be as large as that of a pick of facility location.

OMP_NUM_THREADS=1 python -m benchmarks.screening [--quick] [--append]
"""

import torch
from torch import Tensor

from benchmarks.common import clustered, parser_of, progress, quiet, show, squeezenet_set
from lightning_coreset import select
from lightning_coreset.ops.rows import normalize_rows
from lightning_coreset.ops.screening import RoundedRows

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
        shares = [exact >= gain, first >= gain, upper >= lower.max()]
        doubt = float((upper - lower)[chosen.indices[place]]) / 2
        line = [name, place + 1, f"{gain:.2f}", f"{doubt:.2f}"]
        table.append([*line, *(f"{100 * float(share.double().mean()):.2f}" for share in shares)])
        progress(*table[-1])
    return table


def main() -> None:
    """Photographs and clusters."""
    given = parser_of(__doc__).parse_args()
    quiet()
    torch.set_num_threads(1)
    size = 1_000 if given.quick else 20_000
    pools = {
        "CIFAR-10, SqueezeNet": squeezenet_set(given.cache, given.quick).train[:size],
        "100 clusters": clustered(size, 512),
    }
    table = [line for name, rows in pools.items() for line in counted(name, rows)]
    note = (
        f"Facility location, {size:,} items of each pool, 1 % chosen. Items whose upper bound reaches the gain of the "
        "pick, in percent: their gains are still to be computed in float32. The first two columns take bounds of the "
        "first pass, which hold for all picks because gains only shrink; the third makes all bounds anew for the pick, "
        "and compares with the largest lower one. Doubt: half the distance of the pick's own bounds."
    )
    header = ["pool", "pick", "gain", "doubt", "float32, first pass", "bfloat16, first pass", "bfloat16, this pick"]
    show("What bfloat16 leaves open", note, header, table, given.append)


if __name__ == "__main__":
    main()
