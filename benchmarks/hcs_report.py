"""Tables of what `hcs` kept: top-1 and top-3 by kind, differences with confidence intervals, terms."""

import statistics
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.common import show
from benchmarks.hcs_methods import CROP_FORWARDS, SCAN_PIXELS, SCAN_VARIANTS, VARIANTS
from benchmarks.hcs_scenes import KINDS, SPARSE
from lightning_coreset.ops.random import seeded_generator

_DRAWS = 1_000
#: Ranks of all scenes of a network, placement and kind, by method.
Kept = dict[tuple[str, str, str], dict[str, Tensor]]
_WAYS = ("most certain", "top 8", "confidence pooling")
_SHOWN = (
    *("whole view", "mean of the map", "random 8 cells, mean", "tiling 8 x 8, mean probability"),
    *("tiling 8 x 8, most certain", *(f"random {CROP_FORWARDS}, {way}" for way in _WAYS)),
    *("quasi-random 41, most certain", *(f"random {SCAN_PIXELS}, {way}" for way in (*_WAYS, "energy"))),
    *("paper", "crop, hierarchical", "crop, lattice", "crop, default", "dense", "scan"),
)
_COSTS = {
    "whole view": 1, "mean of the map": 64, "random 8 cells, mean": 8, "paper": 81, "dense": 64, "scan": 72,
    **{name: 64 for name in _SHOWN if name.startswith("tiling")},
    **{name: int(name.split()[1].rstrip(",")) for name in _SHOWN if name.startswith(("random 4", "random 7", "quasi"))},
}  # fmt: skip


def read(cache: Path) -> tuple[Kept, dict[tuple[str, str, str], list[int]]]:
    """All that was measured, and which seeds."""
    parts: dict[tuple[str, str, str], dict[str, list[Tensor]]] = defaultdict(lambda: defaultdict(list))
    seeds: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for path in sorted(cache.glob("*-*-*-*-*.pt")):
        network, placement, kind, seed, _ = path.stem.split("-")
        seeds[network, placement, kind].append(int(seed))
        for name, ranks in torch.load(path, weights_only=True).items():
            parts[network, placement, kind][name].append(ranks)
    return {key: {name: torch.cat(some) for name, some in found.items()} for key, found in parts.items()}, seeds


def top(ranks: Tensor, places: int = 1) -> Tensor:
    """Whether the right class is among the first ``[n]``, in percent."""
    return 100.0 * (ranks < places).double()


def interval(differences: list[Tensor]) -> tuple[float, float, float]:
    """Mean over groups of mean differences, and its 95 % interval by bootstrap over the scenes of each group."""
    generator = seeded_generator("bootstrap")
    means = torch.stack([part.mean() for part in differences])
    draws = torch.stack(
        [part[torch.randint(len(part), (_DRAWS, len(part)), generator=generator)].mean(1) for part in differences]
    ).mean(0)
    low, high = draws.quantile(torch.tensor([0.025, 0.975], dtype=draws.dtype)).tolist()
    return float(means.mean()), low, high


def strongest(found: dict[str, Tensor], count: int) -> tuple[str, Tensor]:
    """The best of three ways to use random crops, chosen afterwards: a favour to the opponent."""
    names = [f"random {count}, {way}" for way in _WAYS]
    best = max(names, key=lambda name: float(top(found[name]).mean()))
    return best, top(found[best])


def difference(
    kept: Kept, networks: list[str], placement: str, kinds: tuple[str, ...], method: str, opponent: str | int
) -> str:
    """A method less an opponent, on the mean over networks and kinds, as text."""
    parts = []
    for network in networks:
        for kind in kinds:
            found = kept.get((network, placement, kind))
            if found is None or method not in found:
                continue
            other = strongest(found, opponent)[1] if isinstance(opponent, int) else top(found[opponent])
            parts.append(top(found[method]) - other)
    if not parts:
        return ""
    mean, low, high = interval(parts)
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def report(cache: Path, append: bool) -> None:
    """All tables."""
    kept, seeds = read(cache)
    if not kept:
        print("Nothing was measured yet.")
        return
    networks = sorted({network for network, _, _ in kept})
    for placement in ("unaligned", "aligned"):
        for network in networks:
            _by_kind(kept, seeds, network, placement, append)
        _differences(kept, networks, placement, append)
        _scan_parts(kept, networks, placement, append)
        _terms(kept, networks, placement, append)


def _by_kind(
    kept: Kept, seeds: dict[tuple[str, str, str], list[int]], network: str, placement: str, append: bool
) -> None:
    kinds = [kind for kind in KINDS if (network, placement, kind) in kept]
    if not kinds:
        return
    scenes = {kind: len(next(iter(kept[network, placement, kind].values()))) for kind in kinds}
    rows = []
    for name in _SHOWN:
        ranks = [kept[network, placement, kind].get(name) for kind in kinds]
        if any(one is None for one in ranks):
            continue
        first, third = ([float(top(one, places).mean()) for one in ranks if one is not None] for places in (1, 3))
        cells = [f"{a:.1f} / {b:.1f}" for a, b in zip(first, third, strict=True)]
        rows.append([name, _COSTS.get(name, CROP_FORWARDS), *cells, f"{statistics.mean(first):.1f}"])
    used = sorted({seed for kind in kinds for seed in seeds[network, placement, kind]})
    note = (
        f"Top-1 / top-3 in percent, {', '.join(f'{kind} {count}' for kind, count in scenes.items())} scenes, "
        f"seeds {used}; standard error at most {50 / min(scenes.values()) ** 0.5:.1f} points a cell. Inputs: pixels "
        "encoded, in model inputs."
    )
    show(f"HCS, {network}, {placement} scenes", note, ["method", "inputs", *kinds, "mean"], rows, append)


def _differences(kept: Kept, networks: list[str], placement: str, append: bool) -> None:
    rows = []
    asked = (
        ("scan", SCAN_PIXELS, SPARSE, "best of 72 random crops"),
        ("scan", SCAN_PIXELS, KINDS, "best of 72 random crops"),
        ("dense", "mean of the map", KINDS, "mean of the map"),
        ("crop, default", "quasi-random 41, most certain", KINDS, "most certain of 41 quasi-random crops"),
        ("crop, default", "random 8 cells, mean", SPARSE, "8 random cells"),
        ("crop, hierarchical", CROP_FORWARDS, KINDS, "best of 41 random crops"),
        ("crop, hierarchical", "crop, lattice", KINDS, "lattice"),
        ("crop, hierarchical", "paper", KINDS, "paper"),
        ("masked, default, w_ro 0.65", "masked, default", KINDS, "the same without w_ro, 30 % grey"),
        ("masked, default, w_ro 0.65", "masked, paper", KINDS, "paper, 30 % grey"),
        ("masked, hierarchical, w_ro 0.65", "masked, hierarchical", KINDS, "the same without w_ro, 30 % grey"),
    )
    for method, opponent, kinds, words in asked:
        cells = [difference(kept, [network], placement, kinds, method, opponent) for network in networks]
        if not any(cells):
            continue
        everywhere = difference(kept, networks, placement, kinds, method, opponent)
        rows.append([method, words, "sparse" if kinds == SPARSE else "all", *cells, everywhere])
    note = (
        "Points of top-1, mean over kinds (and networks), with 95 % intervals by paired bootstrap over scenes. Of "
        "three ways to use random crops (most certain, top 8, confidence pooling) the one that does best on each kind "
        "counts."
    )
    show(f"HCS, differences on {placement} scenes", note, ["method", "less", "kinds", *networks, "mean"], rows, append)
    lowest = []
    for network in networks:
        for kind in KINDS:
            cell = difference(kept, [network], placement, (kind,), "scan", SCAN_PIXELS)
            if cell:
                lowest.append([network, kind, strongest(kept[network, placement, kind], SCAN_PIXELS)[0], cell])
    note = "Points of top-1 of scan less the best of three ways to use 72 random crops."
    show(
        f"HCS, scan by network and kind, {placement} scenes",
        note,
        ["network", "kind", "best opponent", "scan less it"],
        lowest,
        append,
    )


def _scan_parts(kept: Kept, networks: list[str], placement: str, append: bool) -> None:
    names = [name for name in SCAN_VARIANTS if name != "dense, no synergy"]
    rows = [[name, *_means(kept, networks, placement, name, "scan")] for name in ("scan", *names)]
    rows += [[name, *_means(kept, networks, placement, name, "dense")] for name in ("dense", "dense, no synergy")]
    rows = [row for row in rows if any(row[1:])]
    note = "Top-1, mean over kinds and networks, and points against the default of the engine. 16 kept cost 80 inputs."
    show(
        f"HCS, parts of scan, {placement} scenes",
        note,
        ["choice", "all kinds", "sparse kinds", "less default"],
        rows,
        append,
    )


def _terms(kept: Kept, networks: list[str], placement: str, append: bool) -> None:
    rows = [[name, *_means(kept, networks, placement, name, "ut + sy")] for name in VARIANTS]
    rows = [row for row in rows if any(row[1:])]
    note = "Hierarchical crops; top-1, mean over kinds and networks, and points against the default terms (ut + sy)."
    show(
        f"HCS, terms, depth and selection, {placement} scenes",
        note,
        ["choice", "all kinds", "sparse kinds", "less default"],
        rows,
        append,
    )


def _means(kept: Kept, networks: list[str], placement: str, name: str, base: str) -> list[str]:
    def mean(kinds: tuple[str, ...]) -> str:
        cells = [
            float(top(found[name]).mean())
            for (network, where, kind), found in kept.items()
            if network in networks and where == placement and kind in kinds and name in found
        ]
        return f"{statistics.mean(cells):.1f}" if cells else ""

    return [mean(KINDS), mean(SPARSE), difference(kept, networks, placement, KINDS, name, base) if name != base else ""]
