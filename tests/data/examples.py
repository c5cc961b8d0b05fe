"""Small datasets whose items are known, in the forms that users have them."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset


def picture(seed: int, side: int = 8) -> Image.Image:
    """An RGB image of noise, the same for the same seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def write_image_folder(root: Path, classes: tuple[str, ...] = ("ant", "bee", "cat"), each: int = 2) -> list[int]:
    """Images in one folder a class, and their labels in the order of ``ImageFolder``."""
    for place, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for number in range(each):
            picture(place * each + number).save(root / name / f"{number}.png")
    return [place for place in range(len(classes)) for _ in range(each)]


def write_mnist(root: Path, labels: list[int]) -> None:
    """The two files that ``torchvision.datasets.MNIST(root, train=True)`` reads."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for split in ("train", "t10k"):
        images = np.random.default_rng(0).integers(0, 256, (len(labels), 28, 28), dtype=np.uint8)
        header = struct.pack(">iiii", 0x803, len(labels), 28, 28)
        (raw / f"{split}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">ii", 0x801, len(labels)) + bytes(labels))


class Pictures(Dataset[Any]):
    """PIL images with a label, and a transform that is usually an augmentation."""

    def __init__(self, size: int = 6, transform: Callable[[Any], Any] | None = None, side: int = 8) -> None:
        self.size = size
        self.side = side
        self.transform = transform
        self.targets = [index % 3 for index in range(size)]

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Any:
        image: Any = picture(index, self.side)
        return image if self.transform is None else self.transform(image), self.targets[index]


class Unreadable(Dataset[Any]):
    """Reading an item fails; attributes are given by name."""

    def __init__(self, size: int, **attributes: Any) -> None:
        self.size = size
        vars(self).update(attributes)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Any:
        msg = f"item {index} was decoded"
        raise AssertionError(msg)


class SampleDictionaries(Dataset[Any]):
    """torchgeo's form: dicts of tensors and ``transforms(sample)``."""

    def __init__(self, size: int = 5, transforms: Callable[[Any], Any] | None = None) -> None:
        self.size = size
        self.transforms = transforms

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Any:
        sample = {"image": torch.full((3, 4, 4), float(index)), "label": torch.tensor(index % 2)}
        return sample if self.transforms is None else self.transforms(sample)


class RandomItems(Dataset[Any]):
    """Items that augment themselves where no attribute shows it."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Any:
        return torch.rand(3, 4, 4), index % 2


def shifted(image: Any) -> Any:
    """A stand-in for an augmentation, easy to see in the result."""
    return torch.full((3, 4, 4), -1.0)


def as_array(image: Any) -> Any:
    """An evaluation transform, easy to see in the result: the pixels themselves."""
    return torch.from_numpy(np.asarray(image).copy()) if isinstance(image, Image.Image) else image + 100
