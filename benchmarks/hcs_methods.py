"""What is compared on wide scenes: refinements, and fair opponents that encode as many pixels."""

import torch
from torch import Tensor

from benchmarks.hcs_networks import Memory
from lightning_coreset.ops.random import seeded_generator
from lightning_coreset.regions import HCSConfig, refine
from lightning_coreset.regions.grid import Grid, cell_boxes
from lightning_coreset.regions.lattice import lattice_boxes
from lightning_coreset.regions.losses import entropy
from lightning_coreset.regions.views import TensorScenes

#: Inputs that `scan` encodes on a scene of 8 x 8 of them.
SCAN_PIXELS = 72
CROP_FORWARDS = 41
_POOLING = 0.25
_TOP = 8
HIERARCHICAL = {"engine": "crop", "search": "hierarchical"}

#: Refinements by name: how they are configured, and whether the model shows its map.
REFINEMENTS: dict[str, tuple[HCSConfig, bool]] = {
    "scan": (HCSConfig(engine="scan"), True),
    "dense": (HCSConfig.fast(), True),
    "crop, default": (HCSConfig(engine="crop"), False),
    "crop, hierarchical": (HCSConfig(**HIERARCHICAL), False),
    "crop, lattice": (HCSConfig(engine="crop", search="lattice"), False),
    "paper": (HCSConfig.paper(), False),
}
#: The table of terms, depth and selection, all hierarchical.
VARIANTS: dict[str, HCSConfig] = {
    **{
        f"ut{' + re' * bool(re)}{' + ro' * bool(ro)}{' + sy' * bool(sy)}": HCSConfig(
            **HIERARCHICAL, w_re=re, w_ro=ro, w_sy=sy
        )
        for re in (0.0, 0.7)
        for ro in (0.0, 0.65)
        for sy in (0.0, 0.8)
    },
    "ut one-sided + sy": HCSConfig(**HIERARCHICAL, utility="one_sided"),
    "ut + sy gain": HCSConfig(**HIERARCHICAL, synergy="gain"),
    "depth 1 (4 x 4)": HCSConfig(**HIERARCHICAL, levels=((4, 6),)),
    "depth 3 (16 x 16)": HCSConfig(**HIERARCHICAL, levels=((4, 6), (8, 8), (16, 8))),
    "select greedy": HCSConfig(**HIERARCHICAL, select="greedy"),
    "select k_center": HCSConfig(**HIERARCHICAL, select="k_center"),
    "select facility_location": HCSConfig(**HIERARCHICAL, select="facility_location"),
    "select random": HCSConfig(**HIERARCHICAL, select="random"),
    "exhaustive": HCSConfig(**HIERARCHICAL, exhaustive=True),
    "fuse mean": HCSConfig(**HIERARCHICAL, fuse="mean"),
    "fuse best": HCSConfig(**HIERARCHICAL, fuse="best"),
}
#: `scan` with its parts off and on.
SCAN_VARIANTS: dict[str, tuple[HCSConfig, bool]] = {
    name: (HCSConfig(**{"engine": "scan", **choices}), True)
    for name, choices in {
        "scan, no synergy": {"scan_sy": 0.0},
        "scan, synergy 0.8": {"scan_sy": 0.8},
        "scan, crops alone": {"heard": 0},
        "scan, by loss": {"scan_weight": "loss"},
        "scan, crops alone, by loss": {"heard": 0, "scan_weight": "loss"},
        "scan, 16 kept": {"keep": 16},
        "dense, no synergy": {"engine": "dense", "scan_sy": 0.0},
    }.items()
}


def fused(logits: Tensor, count: int) -> dict[str, Tensor]:
    """Probabilities ``[B, classes]`` by four ways to use the first crops ``[B, n, classes]``."""
    said, loss = logits[:, :count].softmax(2), entropy(logits[:, :count])
    best = loss.argmin(1)
    surest = said[torch.arange(len(said)), best]
    top = loss.topk(_TOP, dim=1, largest=False).indices
    eight = said.gather(1, top.unsqueeze(2).expand(-1, -1, said.shape[2])).mean(1)
    pooled = ((-loss / _POOLING).softmax(1).unsqueeze(2) * said).sum(1)
    return {
        f"random {count}, most certain": surest,
        f"random {count}, top {_TOP}": eight,
        f"random {count}, confidence pooling": pooled,
        f"random {count}, energy": logits[:, :count].logsumexp(1).softmax(1),
    }


def opponents(memory: Memory, images: Tensor, seed: int) -> dict[str, Tensor]:
    """Answers of methods that search nothing ``[B, classes]``."""
    scenes, side = TensorScenes(images), memory.network.tiles.side
    height, width = scenes.size

    def look(boxes: Tensor) -> Tensor:
        count = boxes.shape[1]
        places = torch.repeat_interleave(torch.arange(len(images)), count)
        return memory(scenes.crops(places, boxes.flatten(0, 1), (side, side)))[1].unflatten(0, (len(images), count))

    generator = seeded_generator("random crops", seed)
    corners = torch.rand(len(images), SCAN_PIXELS, 2, generator=generator)
    corners = (corners * torch.tensor([width - side + 1, height - side + 1])).long()
    crops = look(torch.cat([corners, corners + side], dim=2))
    found = {name: value for count in (CROP_FORWARDS, SCAN_PIXELS) for name, value in fused(crops, count).items()}
    quasi = look(lattice_boxes(CROP_FORWARDS, scenes.size, (side, side)).expand(len(images), -1, -1))
    found["quasi-random 41, most certain"] = fused(quasi, CROP_FORWARDS)["random 41, most certain"]
    cells = look(cell_boxes(Grid(8, 8), height, width).expand(len(images), -1, -1))
    order = torch.stack([torch.randperm(64, generator=generator)[:_TOP] for _ in images])
    found["random 8 cells, mean"] = cells.gather(1, order.unsqueeze(2).expand(-1, -1, cells.shape[2])).mean(1)
    found["tiling 8 x 8, mean probability"] = cells.softmax(2).mean(1)
    found["tiling 8 x 8, most certain"] = fused(cells, 64)["random 64, most certain"]
    return found


def refinements(memory: Memory, images: Tensor, methods: dict[str, tuple[HCSConfig, bool]]) -> dict[str, Tensor]:
    """Answers of refinements, and of what they start from."""
    found: dict[str, Tensor] = {}
    for name, (config, maps) in methods.items():
        refined = refine(images, memory.adapter(maps), config)
        found[name] = refined.logits
        found["mean of the map" if maps else "whole view"] = refined.logits_whole
    return found


def ranks(answers: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
    """How many classes stand before the right one ``[B]``, for each method."""
    return {name: (said > said.gather(1, labels.unsqueeze(1))).sum(1).to(torch.int16) for name, said in answers.items()}
