"""Scenes to detect digits in: real handwriting pasted on photographs, with rare classes and near duplicates.

Everything comes with scikit-learn: its 8 x 8 digits, and crops of its two photographs as background. Classes have a
long tail (1,200 images show about 1,200 zeros and 8 nines), a fifth of the images are near duplicates of others
(another exposure, other noise), and a few show nothing. The same arguments give the same scenes.
"""

import functools
from typing import NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_digits, load_sample_images
from torch import Tensor
from torch.nn.functional import interpolate

from lightning_coreset.ops.random import seeded_generator

# Digits are in order of writing, so that parts of them are the work of different people.
POOL_WRITERS, PROPOSER_WRITERS, TEST_WRITERS = (0, 900), (900, 1350), (1350, 1797)
# Shares of the classes fall from 29 % to 0.2 %.
_TAIL, _BEND = 0.153, 1.6
_MOST_OBJECTS = 6
_TRIES = 30


class DigitScenes(NamedTuple):
    """Images and what they show.

    Attributes:
        images: ``[N, 3, size, size]``, uint8.
        targets: A dict for each image, as torchvision's detectors take it: ``boxes`` ``[K, 4]`` and ``labels`` ``[K]``
            (0 to 9; torchvision itself counts from 1).
        class_names: "0" to "9".
        groups: Scene of each image ``[N]``: near duplicates share it.
    """

    images: Tensor
    targets: list[dict[str, Tensor]]
    class_names: list[str]
    groups: Tensor

    def duplicate_pairs(self, chosen: Tensor) -> int:
        """Pairs of near duplicates among some images."""
        sizes = torch.bincount(self.groups[chosen])
        return int((sizes * (sizes - 1) // 2).sum())


def digit_scenes(
    num_images: int = 1_200,
    *,
    seed: int = 0,
    size: int = 96,
    balanced: bool = False,
    duplicates: float = 0.2,
    empty: float = 0.06,
    writers: tuple[int, int] = POOL_WRITERS,
) -> DigitScenes:
    """Draw scenes.

    Args:
        num_images: ``N``.
        seed: All the randomness there is.
        size: Side of the square images in pixels.
        balanced: All classes alike instead of a long tail.
        duplicates: Share of the images that are near duplicates of another one.
        empty: Share of the scenes that show no digit.
        writers: Range of scikit-learn's digits to paste, so that a test set has other writers.

    Example:
        >>> scenes = digit_scenes(10, size=48)
        >>> scenes.images.shape, len(scenes.targets), scenes.groups.unique().numel()
        (torch.Size([10, 3, 48, 48]), 10, 8)
    """
    random = np.random.default_rng(seeded_generator(seed, "digit scenes").initial_seed())
    copies = round(duplicates * num_images)
    shares = np.ones(10) if balanced else np.exp(-_TAIL * np.arange(10) ** _BEND)
    shares /= shares.sum()
    scenes = [_scene(random, size, shares, empty, writers) for _ in range(num_images - copies)]
    copied = random.integers(0, num_images - copies, copies).tolist()
    origins = [*range(num_images - copies), *copied]
    images = [scene for scene, _ in scenes] + [_seen_again(random, scenes[origin][0]) for origin in copied]
    order = random.permutation(num_images).tolist()
    return DigitScenes(
        images=torch.from_numpy(np.stack([images[place] for place in order])),
        targets=[{name: value.clone() for name, value in scenes[origins[place]][1].items()} for place in order],
        class_names=[str(digit) for digit in range(10)],
        groups=torch.tensor([origins[place] for place in order]),
    )


def _scene(
    random: np.random.Generator, size: int, shares: np.ndarray, empty: float, writers: tuple[int, int]
) -> tuple[np.ndarray, dict[str, Tensor]]:
    """One image ``[3, size, size]`` and its target."""
    canvas = _background(random, size)
    wanted = 0 if random.random() < empty else int(random.integers(1, _MOST_OBJECTS + 1))
    boxes: list[list[float]] = []
    labels: list[int] = []
    for _ in range(wanted):
        label = int(random.choice(10, p=shares))
        ink = _digit(random, size, label, writers)
        rows, columns = np.nonzero(ink > 0.35)
        side = len(ink)
        for _ in range(_TRIES):
            left, top = (int(place) for place in random.integers(0, size - side + 1, 2))
            box = [left + columns.min(), top + rows.min(), left + columns.max() + 1, top + rows.max() + 1]
            if not any(_touch(box, other) for other in boxes):
                part = canvas[:, top : top + side, left : left + side]
                # As far from the background as it can be, with a colour of its own.
                light = 235.0 if part.mean() < 128 else 20.0
                color = np.clip(light + random.uniform(-20, 20, 3), 0, 255)[:, None, None]
                part += ink * (color - part)
                boxes.append([float(edge) for edge in box])
                labels.append(label)
                break
    target = {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.tensor(labels, dtype=torch.int64)}
    return canvas.round().astype(np.uint8), target


def _background(random: np.random.Generator, size: int) -> np.ndarray:
    """A crop of a photograph, in a size of its own, with soft contrast."""
    photograph = _photographs()[int(random.integers(2))]
    side = int(random.integers(96, min(photograph.shape[1:]) + 1))
    top, left = (int(random.integers(0, length - side + 1)) for length in photograph.shape[1:])
    crop = torch.from_numpy(photograph[:, top : top + side, left : left + side])
    small = interpolate(crop.unsqueeze(0), (size, size), mode="bilinear", antialias=True)[0].numpy()
    if random.random() < 0.5:
        small = small[:, :, ::-1]
    return np.array(40 + 0.6 * small, dtype=np.float32)


def _digit(random: np.random.Generator, size: int, label: int, writers: tuple[int, int]) -> np.ndarray:
    """How much ink each pixel of a square holds, 0 to 1."""
    drawings, labels = _drawings()
    written = np.nonzero(labels[slice(*writers)] == label)[0] + writers[0]
    drawing = torch.from_numpy(drawings[int(random.choice(written))])
    side = int(random.integers(round(0.2 * size), round(0.34 * size)))
    large = interpolate(drawing[None, None], (side, side), mode="bicubic", align_corners=False)[0, 0]
    return large.clamp(0, 1).numpy()


def _seen_again(random: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """The same scene in another exposure, with noise."""
    noisy = image * random.uniform(0.8, 1.2) + random.normal(0, 4, image.shape)
    return np.clip(noisy.round(), 0, 255).astype(np.uint8)


def _touch(first: list[float], second: list[float]) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]


@functools.cache
def _photographs() -> list[np.ndarray]:
    return [image.transpose(2, 0, 1).astype(np.float32) for image in load_sample_images().images]


@functools.cache
def _drawings() -> tuple[np.ndarray, np.ndarray]:
    digits = load_digits()
    return (digits.images / 16).astype(np.float32), digits.target
