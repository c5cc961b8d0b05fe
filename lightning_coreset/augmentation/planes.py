"""Images of any kind as planes of numbers, and back."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors

from lightning_coreset.data.views import as_tensor
from lightning_coreset.errors import CoresetError

SMALLEST_SIDE = 2
_CHANNELS = (1, 3, 4)
# ITU-R 601, as PIL turns colour into grey.
_GREY = (0.299, 0.587, 0.114)


def to_planes(image: Any, item: int) -> Tensor:
    """An image as planes ``[C, H, W]`` of its own type, with 1, 3 or 4 channels.

    Args:
        image: A PIL image, an array ``[H, W]`` or ``[H, W, C]``, or a tensor ``[H, W]`` or ``[C, H, W]``.
        item: Its position, for the message.

    Raises:
        CoresetError: Not an image, or one of less than 2 pixels a side: a cell takes at least 2 x 2.
    """
    if not isinstance(image, Tensor | np.ndarray | Image.Image):
        msg = f"Item {item} is a {type(image).__name__}; {_ACCEPTED}."
        raise CoresetError(msg)
    planes = as_tensor(image).as_subclass(Tensor)
    planes = planes.unsqueeze(0) if planes.ndim == 2 else planes
    # torch cannot write into 16-bit integers without a sign.
    planes = planes.to(torch.int32) if planes.dtype == torch.uint16 else planes
    numbers = planes.dtype != torch.bool and not planes.is_complex()
    if planes.ndim != 3 or planes.shape[0] not in _CHANNELS or not numbers:
        msg = f"Item {item} holds {planes.dtype} values of shape {list(as_tensor(image).shape)}; {_ACCEPTED}."
        raise CoresetError(msg)
    if min(planes.shape[1:]) < SMALLEST_SIDE:
        msg = (
            f"The image of item {item} is {planes.shape[1]} x {planes.shape[2]} pixels; at least {SMALLEST_SIDE} x "
            f"{SMALLEST_SIDE} are accepted, one cell: remove it, or resize images in the dataset."
        )
        raise CoresetError(msg)
    return planes


_ACCEPTED = (
    "images are accepted, PIL or uint8 or float, [H, W] or with 1, 3 or 4 channels: give a dataset of images, or "
    "choose with augment=0"
)


def like(image: Any, planes: Tensor) -> Any:
    """Planes ``[C, H, W]`` as an image of the kind they were made from."""
    if isinstance(image, Image.Image):
        array = planes.permute(1, 2, 0).contiguous().numpy()
        array = array.astype(np.uint16) if image.mode == "I;16" else array
        return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    planes = planes.reshape(planes.shape[1:]) if image.ndim == 2 else planes
    if isinstance(image, np.ndarray):
        return (planes.permute(1, 2, 0) if planes.ndim == 3 else planes).contiguous().numpy()
    return tv_tensors.wrap(planes, like=image) if isinstance(image, tv_tensors.TVTensor) else planes


def with_channels(planes: Tensor, channels: int) -> Tensor:
    """Planes with another number of channels: grey repeated, colour made grey, alpha added (opaque) or dropped."""
    have = planes.shape[0]
    if have == channels:
        return planes
    if have == 4:
        return with_channels(planes[:3], channels)
    if channels == 1:
        weights = torch.tensor(_GREY).view(3, 1, 1)
        return as_kind((planes.to(torch.float32) * weights).sum(dim=0, keepdim=True), planes.dtype, scale=1.0)
    colour = planes.expand(3, -1, -1)
    opaque = torch.full_like(colour[:1], 1 if planes.is_floating_point() else torch.iinfo(planes.dtype).max)
    return colour if channels == 3 else torch.cat([colour, opaque])


def as_kind(planes: Tensor, dtype: torch.dtype, scale: float | None = None) -> Tensor:
    """Planes of another number type: integers fill their range, floats [0, 1].

    Args:
        planes: ``[C, H, W]``.
        dtype: The type wanted.
        scale: What values are multiplied by; None is what the two types ask for.
    """
    if scale is None:
        scale = _largest(dtype) / _largest(planes.dtype)
    if planes.dtype == dtype and scale == 1:
        return planes
    values = planes.to(torch.float64) * scale
    if dtype.is_floating_point:
        return values.to(dtype)
    return values.round_().clamp_(0, _largest(dtype)).to(dtype)


def unit_planes(planes: Tensor) -> Tensor:
    """Planes as float32, integers scaled to [0, 1]; floats as they are."""
    return planes.to(torch.float32) if planes.is_floating_point() else planes.to(torch.float32) / _largest(planes.dtype)


def _largest(dtype: torch.dtype) -> float:
    return 1.0 if dtype.is_floating_point else float(torch.iinfo(dtype).max)
