"""Small sets of real pictures in the forms that datasets give them."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

_PHOTOGRAPHS = [torch.from_numpy(picture.copy()).permute(2, 0, 1) for picture in load_sample_images().images]


def crop(item: int, height: int = 28, width: int = 28, channels: int = 3) -> Tensor:
    """A piece of one of two photographs, uint8 ``[channels, height, width]``; another for each item."""
    photograph = _PHOTOGRAPHS[item % 2]
    top, left = 37 * item % (photograph.shape[1] - 80), 53 * item % (photograph.shape[2] - 80)
    piece = v2.functional.resize(photograph[:, top : top + 80, left : left + 80], [height, width], antialias=True)
    if channels == 1:
        return piece[:1]
    return piece if channels == 3 else torch.cat([piece, 255 - piece[:1] // 2])


class Pictures(Dataset):
    """Somebody's dataset with a transform of their own; images are PIL, arrays or tensors."""

    def __init__(
        self,
        count: int = 8,
        *,
        form: str = "tensor",
        channels: int = 3,
        sizes: Any = ((28, 28),),
        transform: Any = None,
    ) -> None:
        self.targets = [item % 2 for item in range(count)]
        self.form, self.channels, self.sizes = form, channels, sizes
        self.transform = transform

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, item: int) -> tuple[Any, int]:
        image = self.raw(item)
        return image if self.transform is None else self.transform(image), self.targets[item]

    def raw(self, item: int) -> Any:
        piece = crop(item, *self.sizes[item % len(self.sizes)], self.channels)
        if self.form == "float":
            return piece.float() / 255
        if self.form == "tensor":
            return piece
        array = piece.permute(1, 2, 0).contiguous().numpy()
        array = np.squeeze(array, axis=2) if self.channels == 1 else array
        return Image.fromarray(array) if self.form == "pil" else array
