"""Engines that read a feature map of the whole scene: ``scan`` looks again at the best windows, ``dense`` does not."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_coreset.ops.rows import accumulator_dtype
from lightning_coreset.regions.config import HCSConfig
from lightning_coreset.regions.encoding import Encoder, parse
from lightning_coreset.regions.losses import row_loss
from lightning_coreset.regions.search import Answer, Kept, Whole
from lightning_coreset.regions.selection import coarse
from lightning_coreset.regions.views import TensorScenes
from lightning_coreset.regions.windows import neighbour_entropy, pool_windows, suppress, window_grids

# Rows that the head gets at a time.
_HEAD_ROWS = 8_192
#: A native pass covers at most this many chunks of inputs at a time; more do not fit the caches of CPUs.
CHUNKS_A_PASS = 4


def native_maps(scenes: TensorScenes, features: Callable[[Tensor], Any], encode: Encoder) -> tuple[Tensor, int]:
    """Feature maps ``[B, d, h, w]`` of scenes at native resolution, and how many calls they took.

    Raises:
        ValueError: What ``features`` gives is no map, or not finite.
    """
    inputs = scenes.size[0] * scenes.size[1] / (encode.input_size[0] * encode.input_size[1])
    together = max(1, int(CHUNKS_A_PASS * encode.chunk / inputs))
    parts = []
    for images in scenes.images.split(together):
        maps = features(images)
        if not isinstance(maps, Tensor) or maps.ndim != 4 or len(maps) != len(images):
            came = list(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
            msg = f"features gave {came} for {len(images)} scenes: a map [B, d, h, w] is accepted."
            raise ValueError(msg)
        parts.append(maps)
    return torch.cat(parts), len(parts)


def scan(
    encode: Encoder,
    scenes: TensorScenes,
    features: Callable[[Tensor], Any],
    head: Callable[[Tensor], Any],
    config: HCSConfig,
    labels: Tensor | None,
    look_again: bool,
) -> tuple[Answer, Whole]:
    """Find windows on which the model is sure, alone and with a neighbour, and fuse what it says of the best.

    Windows are ranked by L(r) + scan_sy min over the windows r' one side away of the entropy of (p_r + p_r') / 2; of
    those the best are kept whose centres are half an input side apart. With ``look_again`` they are encoded as crops.

    O(windows (d + classes)) beside the passes; memory the map and ``windows x (d + classes)`` numbers.

    Args:
        encode: The model, for the second look.
        scenes: The scenes.
        features: Scenes to maps.
        head: Pooled rows ``[n, d]`` to logits.
        config: The choices.
        labels: The truth ``[B]``, in analysis only.
        look_again: Whether to encode the kept windows.

    Returns:
        The answer, and the head's answer to the mean of the map in place of a whole view.
    """
    maps, calls = native_maps(scenes, features, encode)
    encode.calls += calls
    whole_logits = head_rows(head, maps.flatten(2).mean(dim=2))
    wide = accumulator_dtype(maps.device)
    whole = Whole(whole_logits, whole_logits.to(wide))
    grids = window_grids(scenes.size, encode.input_size)
    logits, beside = [], []
    for grid in grids:
        pooled = pool_windows(maps, grid, scenes.size)
        said = head_rows(head, pooled.flatten(0, 1)).unflatten(0, pooled.shape[:2])
        logits.append(said)
        if config.scan_sy:
            beside.append(neighbour_entropy(said.float().softmax(dim=2), grid).to(wide))
    everything = torch.cat(logits, dim=1)
    boxes = torch.cat([grid.boxes for grid in grids])
    loss = row_loss(config.loss, whole.values, everything.to(wide), labels)
    single = loss(everything.to(wide))
    rank = single + config.scan_sy * torch.cat(beside, dim=1) if config.scan_sy else single
    if config.saliency is not None:
        rank = rank / _saliency(config.saliency, boxes, scenes.count).to(rank)
    centers = ((boxes[:, :2] + boxes[:, 2:]) / 2).to(rank.device)
    picks = suppress(coarse(rank), centers, (encode.input_size[0] / 2, encode.input_size[1] / 2), config.keep)

    counts = (picks >= 0).sum(dim=1).cpu()
    places = [row[row >= 0].cpu() for row in picks]
    if look_again:
        images = torch.repeat_interleave(torch.arange(scenes.count), counts)
        encoded = encode(images, boxes[torch.cat(places)])
        seen, rows = encoded.logits, encoded.rows
    else:
        seen = torch.cat([everything[image, row.to(rank.device)] for image, row in enumerate(places)])
        rows = None
    final = loss_of_each(seen.to(wide), counts, loss)
    parts = zip(
        places,
        final.split(counts.tolist()),
        seen.split(counts.tolist()),
        [None] * scenes.count if rows is None else rows.split(counts.tolist()),
        strict=True,
    )
    # Fusion weighs by softmax(score / tau), so the score is what is low when the model is sure, turned around.
    kept = [Kept(boxes[place], -lost, said, row) for place, lost, said, row in parts]
    chosen = torch.zeros_like(rank, dtype=torch.bool).scatter_reduce_(1, picks.clamp(min=0), picks >= 0, "amax")
    everywhere = boxes.expand(scenes.count, *boxes.shape)
    terms = {"loss": single, "score": -rank, "boxes": everywhere, "kept": chosen}
    forwards = 1 + (counts if look_again else torch.zeros_like(counts))
    return Answer(kept, forwards, [terms], depth=1, most=config.keep), whole


def loss_of_each(logits: Tensor, counts: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """Loss of regions ``[n]`` whose scenes have different numbers of them."""
    most = int(counts.max())
    mask = torch.arange(most) < counts.unsqueeze(1)
    padded = torch.zeros(len(counts), most, logits.shape[1], dtype=logits.dtype, device=logits.device)
    padded[mask.to(logits.device)] = logits
    return loss(padded)[mask.to(logits.device)]


def head_rows(head: Callable[[Tensor], Any], rows: Tensor) -> Tensor:
    """Logits of pooled rows, some at a time ``[n, classes]``."""
    return torch.cat([parse(head(part), len(part))[1] for part in rows.split(_HEAD_ROWS)])


def _saliency(saliency: Tensor, boxes: Tensor, scenes: int) -> Tensor:
    maps = saliency.double() if saliency.ndim == 3 else saliency.double().expand(scenes, *saliency.shape)
    sums = torch.nn.functional.pad(maps.cumsum(1).cumsum(2), (1, 0, 1, 0))
    x0, y0, x1, y1 = boxes.unbind(1)
    inside = sums[:, y1, x1] - sums[:, y0, x1] - sums[:, y1, x0] + sums[:, y0, x0]
    return (inside / ((x1 - x0) * (y1 - y0))).clamp(min=torch.finfo(torch.float64).eps)
