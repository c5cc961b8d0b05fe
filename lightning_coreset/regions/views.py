"""Scenes as the model sees them: windows of any size, resized to the model's input."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Scenes(Protocol):
    """Scenes of one size from which windows are cut: a tensor, or a reader of files too large for memory.

    Attributes:
        size: Height and width of every scene.
        count: How many.
    """

    size: tuple[int, int]
    count: int

    def crops(self, images: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """Windows ``[n, C, *size]`` of scenes ``[n]`` at boxes ``[n, 4]``."""
        ...


class TensorScenes:
    """Scenes in memory.

    Args:
        images: ``[B, C, H, W]``, floats as the model takes them, at native resolution.

    Raises:
        ValueError: Another shape, or whole numbers.
    """

    def __init__(self, images: Tensor) -> None:
        if images.ndim != 4:
            msg = f"images have shape {list(images.shape)}: give [B, C, H, W] at native resolution."
            raise ValueError(msg)
        if not images.is_floating_point():
            msg = f"images are {images.dtype}: give floats, scaled and normalised as the model takes them."
            raise ValueError(msg)
        self.images = images
        self.size = (images.shape[2], images.shape[3])
        self.count = len(images)

    def crops(self, images: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """Windows cut and resized, antialiased; those that have the size already keep their bits."""
        cut = torch.empty(len(images), self.images.shape[1], *size, dtype=self.images.dtype, device=self.images.device)
        sides = boxes[:, 2:] - boxes[:, :2]
        for side in sides.unique(dim=0):
            places = torch.nonzero((sides == side).all(dim=1)).flatten()
            windows = [
                self.images[image, :, y0:y1, x0:x1]
                for image, (x0, y0, x1, y1) in zip(images[places].tolist(), boxes[places].tolist(), strict=True)
            ]
            cut[places.to(cut.device)] = resized(torch.stack(windows), size)
        return cut


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images ``[n, C, h, w]`` at another size, bilinear with antialiasing; in float32 where they are halves."""
    if tuple(images.shape[2:]) == tuple(size):
        return images
    full = images.float() if images.dtype in (torch.float16, torch.bfloat16) else images
    shrunk = torch.nn.functional.interpolate(full, size, mode="bilinear", antialias=True)
    return shrunk.to(images.dtype)


def as_scenes(images: Any) -> Scenes:
    """Tensors, arrays and readers as scenes.

    Raises:
        ValueError: Something else.
    """
    if isinstance(images, Tensor):
        return TensorScenes(images)
    if isinstance(images, Scenes):
        return images
    msg = f"images are a {type(images).__name__}: give a tensor [B, C, H, W], or what open_scene() returns."
    raise ValueError(msg)


def as_size(given: int | Sequence[int]) -> tuple[int, int]:
    """Height and width from a side or a pair.

    Raises:
        ValueError: No size.

    Example:
        >>> as_size(32)
        (32, 32)
    """
    sides = (given, given) if isinstance(given, int) else tuple(given)[-2:]
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        msg = f"input_size={given!r} is not accepted: give the side of the model's input, or (height, width)."
        raise ValueError(msg)
    return sides[0], sides[1]


def whole_boxes(scenes: Scenes) -> Tensor:
    """A box around each scene ``[B, 4]``."""
    return torch.tensor([[0, 0, scenes.size[1], scenes.size[0]]]).repeat(scenes.count, 1)
