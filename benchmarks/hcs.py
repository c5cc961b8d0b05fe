"""HCS: what regions are worth on wide scenes, against opponents that encode as many pixels; terms, masks, harm.

python -m benchmarks.hcs [--parts measure report segmentation harm cost transformer] [--scenes 150] [--seeds 3]
    [--networks resnet20 resnet32 timm squeezenet] [--placements unaligned aligned] [--kinds ...] [--quick] [--append]

``measure`` keeps what each method said of each scene in the cache, so that runs add up; ``report`` makes the tables.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import data_folder, parser_of, progress, quiet
from benchmarks.hcs_methods import REFINEMENTS, SCAN_VARIANTS, VARIANTS, opponents, ranks, refinements
from benchmarks.hcs_more import cost, harm, segmentation, transformer
from benchmarks.hcs_networks import Memory, Network, load
from benchmarks.hcs_report import report
from benchmarks.hcs_scenes import KINDS, PLACEMENTS, greyed, scenes
from lightning_coreset.regions import HCSConfig, refine

_MORE = {"segmentation": segmentation, "harm": harm, "cost": cost, "transformer": transformer}
# Scenes of one memory: crops of more would be kept for nothing.
_TOGETHER = 10
_MASKED = {
    "default": HCSConfig(engine="crop"),
    "default, w_ro 0.65": HCSConfig(engine="crop", w_ro=0.65),
    "hierarchical": HCSConfig(engine="crop", search="hierarchical"),
    "hierarchical, w_ro 0.65": HCSConfig(engine="crop", search="hierarchical", w_ro=0.65),
    "paper": HCSConfig.paper(),
}


def measure_kind(network: Network, kind: str, placement: str, seed: int, given: Any) -> dict[str, Tensor]:
    """Rank of the right class by each method on each scene."""
    images, labels = scenes(network.tiles, kind, placement, seed, given.scenes)
    parts: list[dict[str, Tensor]] = []
    for start in range(0, len(images), _TOGETHER):
        part, truth = images[start : start + _TOGETHER], labels[start : start + _TOGETHER]
        memory = Memory(network)
        with torch.no_grad():
            answers = opponents(memory, part, seed * given.scenes + start)
            answers |= refinements(memory, part, REFINEMENTS)
            answers |= refinements(memory, part, SCAN_VARIANTS)
            if given.variants:
                answers |= refinements(memory, part, {name: (config, False) for name, config in VARIANTS.items()})
            if given.masked:
                covered = greyed(part, seed * given.scenes + start)
                for name, config in _MASKED.items():
                    answers[f"masked, {name}"] = refine(covered, memory.adapter(False), config).logits
        parts.append(ranks(answers, truth))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def measure(given: Any, folder: Path) -> None:
    """Run what is not in the cache yet."""
    cache = given.cache / "hcs"
    cache.mkdir(parents=True, exist_ok=True)
    for name in given.networks:
        network = load(name, folder, cache)
        progress(f"{network.name}: {100 * network.accuracy():.1f} % of single tiles")
        for placement in given.placements:
            for seed in range(given.first_seed, given.first_seed + given.seeds):
                for kind in given.kinds:
                    path = cache / f"{name}-{placement}-{kind}-{seed}-{given.scenes}.pt"
                    if path.exists():
                        continue
                    started = time.perf_counter()
                    found = measure_kind(network, kind, placement, seed, given)
                    torch.save(found, path)
                    seconds = time.perf_counter() - started
                    progress(f"{path.stem}: {seconds:.0f} s, {given.scenes / seconds:.1f} scenes/s")


def main() -> None:
    """The parts that were asked for."""
    parser = parser_of(__doc__)
    parts = ("measure", "report", *_MORE)
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--networks", nargs="+", default=["resnet20", "resnet32", "timm"])
    parser.add_argument("--placements", nargs="+", choices=PLACEMENTS, default=PLACEMENTS[::-1])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--scenes", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=20, help="seeds below 20 chose the defaults")
    parser.add_argument(
        "--variants", action=argparse.BooleanOptionalAction, default=True, help="terms, depth, selection"
    )
    parser.add_argument("--masked", action=argparse.BooleanOptionalAction, default=True, help="30 %% of the area grey")
    given = parser.parse_args()
    quiet()
    if given.quick:
        given.networks, given.scenes, given.seeds, given.kinds = ["resnet20"], 4, 1, ["open"]
    folder = data_folder()
    if folder is None:
        print("LIGHTNING_CORESET_DATA is not set: scenes are made of the images there, so nothing is measured.")
        return
    if "measure" in given.parts:
        measure(given, folder)
    if "report" in given.parts:
        report(given.cache / "hcs", given.append)
    for part, run in _MORE.items():
        if part in given.parts:
            run(folder, given)


if __name__ == "__main__":
    main()
