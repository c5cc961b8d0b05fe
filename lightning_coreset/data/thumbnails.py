"""Tiny grey pictures of images, by which near duplicates are known."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lightning_coreset.data.views import RawImages, as_tensor, random_state_kept

_SIDE = 12
_GREY = (0.299, 0.587, 0.114)


def thumbnails(dataset: Any, positions: Tensor | Sequence[int] | None = None) -> Tensor:
    """Grey thumbnails of 12 x 12 as rows ``[n, 144]``, float32; images are read one by one, without transforms.

    Args:
        dataset: Map-style dataset of images, as they are or with targets beside them.
        positions: Which; None takes all.

    Example:
        >>> thumbnails([torch.zeros(3, 20, 30, dtype=torch.uint8)]).shape
        torch.Size([1, 144])
    """
    images = RawImages(dataset)
    wanted = range(len(dataset)) if positions is None else torch.as_tensor(positions).tolist()
    rows = torch.empty(len(wanted), _SIDE * _SIDE)
    with random_state_kept():
        for row, place in zip(rows, wanted, strict=True):
            row.copy_(_thumbnail(as_tensor(images[place])).flatten())
    return rows


def _thumbnail(image: Tensor) -> Tensor:
    planes = image.as_subclass(Tensor).to(torch.float32)
    planes = planes.unsqueeze(0) if planes.ndim == 2 else planes
    grey = torch.einsum("chw,c->hw", planes[:3], torch.tensor(_GREY)) if len(planes) >= 3 else planes[0]
    small: Tensor = interpolate(grey[None, None], (_SIDE, _SIDE), mode="bilinear", antialias=True)
    return small[0, 0]
