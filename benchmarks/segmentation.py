"""CamVid: frames to draw masks on, chosen by what a segmenter of 20 frames sees, and what one learns from them.

python -m benchmarks.segmentation [--quick] [--append]
"""

import io
import statistics
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from benchmarks.common import data_folder, mean_and_spread, parser_of, progress, quiet, show
from lightning_coreset import Coreset, Pool, select
from lightning_coreset.detection import Objects, semantic_regions
from lightning_coreset.detection.report import class_balance
from lightning_coreset.ops.random import seeded_generator
from tests.helpers.fastestdet import FastestDet

NAMES = ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "cyclist"]
SHARES = (0.05, 0.10, 0.20)
_SIDES, _GRID, _UNLABELLED = (240, 320), (30, 40), 11
_KNOWN, _BATCH = 20, 8


def frames(split: str, cache: Path) -> tuple[Tensor, Tensor]:
    """Maps of a backbone that has not seen segmentation ``[N, 336, 30, 40]`` (half), and masks ``[N, 180, 240]``."""
    path = cache / f"camvid-{split}.pt"
    if path.exists():
        kept = torch.load(path, weights_only=True, mmap=True)
        return kept["maps"], kept["masks"]
    folder = data_folder()
    if folder is None:
        msg = "Give the folder of real data in LIGHTNING_CORESET_DATA."
        raise SystemExit(msg)
    network = FastestDet().eval()
    network.backbone.load_state_dict(torch.load(folder / "weights" / "fastestdet_backbone.pt", weights_only=True))
    maps, masks = [], []
    with torch.no_grad(), zipfile.ZipFile(folder / "camvid" / "camvid.zip") as archive:
        for name in sorted(name for name in archive.namelist() if name.startswith(f"{split}/images/")):
            pixels = np.array(Image.open(io.BytesIO(archive.read(name))).convert("RGB"))
            image = torch.from_numpy(pixels).permute(2, 0, 1).flip(0)[None].float() / 255
            stages = network.backbone(interpolate(image, _SIDES, mode="bilinear"))
            maps.append(torch.cat([interpolate(stage, _GRID, mode="bilinear") for stage in stages], dim=1)[0].half())
            drawn = archive.read(name.replace("/images/", "/masks/").replace(".jpg", ".png"))
            masks.append(torch.from_numpy(np.array(Image.open(io.BytesIO(drawn)))))
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"maps": torch.stack(maps), "masks": torch.stack(masks)}, path)
    return torch.stack(maps), torch.stack(masks)


def trained(maps: Tensor, masks: Tensor, chosen: Tensor, steps: int, seed: int) -> nn.Module:
    """A small head on frozen maps, trained on some frames."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Sequential(nn.BatchNorm2d(336), nn.Conv2d(336, 64, 1), nn.ReLU(), nn.Conv2d(64, len(NAMES), 1))
    small = interpolate(masks[chosen].unsqueeze(1).float(), _GRID, mode="nearest").squeeze(1).long()
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3, weight_decay=1e-3)
    generator = seeded_generator(seed, "batches")
    for _ in range(steps):
        places = torch.randint(len(chosen), (_BATCH,), generator=generator)
        logits = head(maps[chosen[places]].float())
        optimizer.zero_grad()
        cross_entropy(logits, small[places], ignore_index=_UNLABELLED).backward()
        optimizer.step()
    return head.eval()


def looked_at(head: nn.Module, maps: Tensor) -> Tensor:
    """Probabilities of the classes at each pixel ``[11, 180, 240]`` of one frame."""
    with torch.no_grad():
        return interpolate(head(maps[None].float()), (180, 240), mode="bilinear").softmax(dim=1)[0]


def overlaps(head: nn.Module, maps: Tensor, masks: Tensor) -> Tensor:
    """Intersection over union of each class over all frames ``[11]``."""
    table = torch.zeros(len(NAMES), len(NAMES) + 1, dtype=torch.int64)
    for frame, mask in zip(maps, masks, strict=True):
        cells = looked_at(head, frame).argmax(dim=0) * (len(NAMES) + 1) + mask.long()
        table += torch.bincount(cells.flatten(), minlength=table.numel()).reshape(table.shape)
    counted = table[:, : len(NAMES)]
    hits = counted.diagonal()
    return hits / (counted.sum(dim=0) + counted.sum(dim=1) - hits).clamp(min=1)


def proposed(head: nn.Module, maps: Tensor) -> Objects:
    """Regions that a segmenter sees; the score is its mean probability there, the embedding the mean map."""
    columns: dict[str, list[Tensor]] = {name: [] for name in ("image", "boxes", "labels", "scores", "features")}
    rows, across = (torch.arange(count) * side // count for count, side in ((180, _GRID[0]), (240, _GRID[1])))
    cell = (rows.unsqueeze(1) * _GRID[1] + across).flatten()
    for place, frame in enumerate(maps):
        best, labels = looked_at(head, frame).max(dim=0)
        regions = semantic_regions(labels)
        at = regions.map.flatten()
        inside, count = at >= 0, len(regions.classes)
        shares = torch.zeros(count, _GRID[0] * _GRID[1])
        shares.index_put_((at[inside], cell[inside]), torch.ones(int(inside.sum())), accumulate=True)
        sums = torch.zeros(count).index_add_(0, at[inside], best.flatten()[inside])
        columns["image"].append(torch.full((count,), place))
        columns["boxes"].append(regions.boxes)
        columns["labels"].append(regions.classes)
        columns["scores"].append((sums / regions.areas).clamp(0, 1))
        columns["features"].append((shares @ frame.float().flatten(1).T) / regions.areas.unsqueeze(1))
    joined = {name: torch.cat(parts) for name, parts in columns.items()}
    sizes = torch.tensor([[180, 240]]).repeat(len(maps), 1)
    return Objects(**joined, num_images=len(maps), image_sizes=sizes, class_names=NAMES)


def main() -> None:
    """Four methods at the same masks, judged by the segmenter that learns from them."""
    parser = parser_of(__doc__)
    parser.set_defaults(cache=Path("coresets/detection"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    given = parser.parse_args()
    quiet()
    steps, seeds = (20, [0]) if given.quick else (100, given.seeds)
    (maps, masks), (test_maps, test_masks) = frames("train", given.cache), frames("test", given.cache)
    if given.quick:
        test_maps, test_masks = test_maps[:20], test_masks[:20]
    pixels = torch.bincount(masks.flatten().long(), minlength=len(NAMES) + 1)[: len(NAMES)]
    rare = pixels.argsort()[:3]
    results: dict[tuple[float, str], list[list[float]]] = {}
    for seed in seeds:
        order = torch.randperm(len(maps), generator=seeded_generator(seed, "camvid"))
        known, pool = order[:_KNOWN], order[_KNOWN:].sort().values
        proposals = proposed(trained(maps, masks, known, steps, seed), maps[pool])
        truth = [semantic_regions(mask, class_count=len(NAMES)).classes for mask in masks[pool]]
        counts = torch.stack([torch.bincount(classes, minlength=len(NAMES)) for classes in truth])
        proposals = replace(proposals, units=counts.sum(dim=1))
        features = maps[pool].float().mean(dim=(2, 3))
        for share in SHARES:
            for method in ("random", "k_center", "class_balance", "ofds"):
                arguments: dict[str, Any] = {}
                if method in ("class_balance", "ofds"):
                    arguments = {"charge": "oracle", "threshold": 0.5}
                found: Coreset = select(
                    Pool(features, objects=proposals),
                    method=method,
                    ratio=share,
                    budget_unit="masks",
                    seed=seed,
                    **arguments,
                )
                head = trained(maps, masks, pool[found.indices], steps, seed)
                overlap = overlaps(head, test_maps, test_masks)
                shown = counts[found.indices].sum(dim=0)
                line = [100 * float(overlap.mean()), 100 * float(overlap[rare].mean()), float(shown.sum())]
                line += [float(len(found)), class_balance(shown)]
                results.setdefault((share, method), []).append(line)
                progress(seed, share, method, [round(value, 2) for value in line])
    rows = []
    for (share, method), lines in results.items():
        columns = list(zip(*lines, strict=True))
        means = [f"{statistics.mean(column):.{digits}f}" for column, digits in zip(columns[2:], (0, 0, 3), strict=True)]
        rows.append([f"{share:.0%}", method, *(mean_and_spread(column, 1) for column in columns[:2]), *means])
    note = (
        f"347 train frames as pool, budget a share of their masks (8-connected regions of at least 0.05 % of a frame), "
        f"true units charged; proposals: regions of a segmenter trained on {_KNOWN} other frames, score at least 0.5, "
        "embedding the mean backbone map inside. The same segmenter (two 1 x 1 convolutions on the frozen maps of a "
        f"backbone that has not seen segmentation, {steps} steps) learns from what was chosen; all 233 test frames. "
        f"Seeds: {', '.join(map(str, seeds))}. Rarest by pixels: {', '.join(NAMES[label] for label in rare.tolist())}."
    )
    header = ["masks", "method", "mIoU %", "mIoU of the rarest %", "masks drawn", "frames", "balance"]
    show("CamVid: segmentation at the same masks", note, header, rows, given.append)


if __name__ == "__main__":
    main()
