"""Whether regions are those that matter: insertion and deletion, confidence on little area, pointing, disturbances."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_coreset.ops.random import seeded_generator
from lightning_coreset.ops.rows import first_argmax
from lightning_coreset.regions.encoding import parse
from lightning_coreset.regions.refinement import Refinement
from lightning_coreset.regions.views import resized

Fill = Literal["mean", "blur"]
_BLURRED = 16


def filled(images: Tensor, fill: Fill) -> Tensor:
    """What stands where nothing is shown ``[B, C, H, W]``: the scene's mean colour, or the scene without detail.

    The fill decides who wins a comparison of heat maps, so report both.
    """
    if fill == "mean":
        return images.mean(dim=(2, 3), keepdim=True).expand_as(images)
    if fill == "blur":
        small = resized(images, (max(1, images.shape[2] // _BLURRED), max(1, images.shape[3] // _BLURRED)))
        return torch.nn.functional.interpolate(small.float(), images.shape[2:], mode="bilinear").to(images.dtype)
    msg = f"fill={fill!r} is not accepted: give 'mean' or 'blur'."
    raise ValueError(msg)


def _confidence(
    images: Tensor, forward: Callable[[Tensor], Any], shown: Tensor, classes: Tensor, fill: Fill, size: Any
) -> Tensor:
    seen = torch.where(shown.unsqueeze(1), images, filled(images, fill))
    logits = parse(forward(resized(seen, size) if size is not None else seen), len(images))[1]
    return logits.float().softmax(dim=1).gather(1, classes.unsqueeze(1)).squeeze(1)


def _shares(heat: Tensor) -> Tensor:
    """Place of each pixel from the hottest down, as a share of the area ``[B, H, W]``; ties in reading order."""
    order = heat.flatten(1).argsort(dim=1, descending=True, stable=True)
    place = torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1]).expand_as(order).contiguous())
    return (place.double() / order.shape[1]).view_as(heat)


@torch.no_grad()
def insertion_deletion(
    images: Tensor,
    forward: Callable[[Tensor], Any],
    heat: Tensor,
    classes: Tensor,
    *,
    fill: Fill = "mean",
    steps: int = 16,
    size: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Areas under the confidence in a class while pixels are shown, and hidden, from the hottest down ``[B]`` each.

    Args:
        images: ``[B, C, H, W]``.
        forward: Images to logits.
        heat: Importance of each pixel ``[B, H, W]``.
        classes: Whose probability is watched ``[B]``.
        fill: What stands in for hidden pixels.
        steps: Forwards of each curve, less one.
        size: Images are resized to it before they are shown; None leaves them.

    Returns:
        Insertion (higher is better) and deletion (lower is better).
    """
    shares = _shares(heat)
    curves = []
    for hidden in (False, True):
        values = []
        for step in range(steps + 1):
            hot = shares < step / steps
            values.append(_confidence(images, forward, ~hot if hidden else hot, classes, fill, size))
        curves.append(torch.trapezoid(torch.stack(values), dx=1 / steps, dim=0))
    return curves[0], curves[1]


@torch.no_grad()
def highest_confidence(
    images: Tensor,
    forward: Callable[[Tensor], Any],
    heat: Tensor,
    classes: Tensor,
    *,
    area: float = 0.125,
    fill: Fill = "mean",
    steps: int = 4,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """Highest confidence in a class while a share of the area is shown ``[B]``; arguments of `insertion_deletion`."""
    shares = _shares(heat)
    values = [
        _confidence(images, forward, shares < area * step / steps, classes, fill, size) for step in range(1, steps + 1)
    ]
    return torch.stack(values).amax(dim=0)


def pointing_game(heat: Tensor, boxes: Sequence[Tensor]) -> float:
    """Share of scenes whose hottest pixel lies in one of its boxes.

    Args:
        heat: ``[B, H, W]``.
        boxes: For each scene ``[n, 4]``, x0, y0, x1, y1.

    Example:
        >>> heat = torch.zeros(1, 4, 4)
        >>> heat[0, 1, 2] = 1
        >>> pointing_game(heat, [torch.tensor([[2, 0, 4, 2]])])
        1.0
    """
    hottest = first_argmax(heat.flatten(1)).tolist()
    hits = 0
    for place, own in zip(hottest, boxes, strict=True):
        y, x = divmod(place, heat.shape[2])
        hits += any(x0 <= x < x1 and y0 <= y < y1 for x0, y0, x1, y1 in own.tolist())
    return hits / len(hottest)


def weights_cut(found: Refinement, to: float = 0.7) -> Refinement:
    """The same regions with weights above each scene's median cut to a share, and scaled to sum 1 again.

    Fuse ``logits`` of regions anew with them to see how much hangs on a few.
    """
    middle = found.weights.median(dim=1, keepdim=True).values
    cut = torch.where(found.weights > middle, found.weights * to, found.weights)
    return replace(found, weights=cut / cut.sum(dim=1, keepdim=True))


def regions_blanked(images: Tensor, found: Refinement, share: float = 0.1, seed: int = 0) -> Tensor:
    """Scenes in which a share of the kept regions, at least one, is filled with the scene's mean colour."""
    blanked = images.clone()
    for number, (image, boxes) in enumerate(zip(blanked, found.boxes, strict=True)):
        kept = boxes[(boxes[:, 2:] > boxes[:, :2]).all(dim=1)]
        count = max(1, round(share * len(kept)))
        drawn = torch.randperm(len(kept), generator=seeded_generator(seed, "blank", number))[:count]
        for x0, y0, x1, y1 in kept[drawn].tolist():
            image[:, y0:y1, x0:x1] = image.mean(dim=(1, 2), keepdim=True)
    return blanked
