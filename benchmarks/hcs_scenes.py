"""Wide scenes with a known answer: tiles of real images on clutter, on the search grid and off it."""

import io
import itertools
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lightning_coreset.ops.random import seeded_generator

CELLS = 8
KINDS = ("texture", "open", "mixed", "dense", "pasted")
SPARSE = ("texture", "open", "mixed", "pasted")
PLACEMENTS = ("aligned", "unaligned")
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
DEVIATION = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
_TARGETS = {"texture": 6, "open": 6, "mixed": 6, "dense": 38, "pasted": 6}
_SCALES = (0.7, 1.4)


@dataclass(frozen=True)
class Tiles:
    """Images of classes that a network knows, and of others.

    Attributes:
        images: ``[N, 3, side, side]`` in [0, 1].
        labels: Class of each, as the network numbers it ``[N]``.
        clutter: Of classes the network does not know ``[M, 3, side, side]``.
        classes: How many the network knows.
    """

    images: Tensor
    labels: Tensor
    clutter: Tensor
    classes: int

    @property
    def side(self) -> int:
        """Of a tile."""
        return self.images.shape[2]


def normalized(images: Tensor) -> Tensor:
    """As the networks take them."""
    return (images - MEAN) / DEVIATION


def cifar10_tiles(folder: Path, lossless: bool = False) -> tuple[Tensor, Tensor]:
    """Test images ``[N, 3, 32, 32]`` and their classes: all 10,000 as JPEG, or 1,017 with their original pixels."""
    name, prefix, packed = ("lossless_part", "test_", "png") if lossless else ("test", "", "jpeg")
    with np.load(folder / "cifar10" / f"cifar10_{name}.npz") as arrays:
        data, cut, labels = (arrays[prefix + part] for part in (packed, "offsets", "labels"))
    pictures = [np.asarray(Image.open(io.BytesIO(data[a:b].tobytes()))) for a, b in itertools.pairwise(cut)]
    return _as_tensor(np.stack(pictures)), torch.tensor(labels.astype(np.int64))


def resisc12_tiles(folder: Path, part: str, side: int) -> tuple[Tensor, Tensor, list[str]]:
    """Scenes of a split at a smaller size, their classes, and the names."""
    with zipfile.ZipFile(folder / "resisc12" / "resisc12.zip") as files:
        names = sorted(name for name in files.namelist() if name.startswith(f"{part}/") and name.endswith(".jpg"))
        classes = sorted({name.split("/")[1] for name in names})
        pictures = [
            np.asarray(Image.open(io.BytesIO(files.read(name))).convert("RGB").resize((side, side), Image.BILINEAR))
            for name in names
        ]
    return _as_tensor(np.stack(pictures)), torch.tensor([classes.index(name.split("/")[1]) for name in names]), classes


def _as_tensor(pictures: np.ndarray) -> Tensor:
    return torch.tensor(pictures).permute(0, 3, 1, 2).float() / 255


def scrambled(image: Tensor, generator: torch.Generator) -> Tensor:
    """An image with its spectrum and random phases: texture without a thing ``[3, h, w]``."""
    spectrum = torch.fft.rfft2(image)
    phases = torch.fft.rfft2(torch.rand(image.shape[1:], generator=generator)).angle()
    return torch.fft.irfft2(torch.polar(spectrum.abs(), spectrum.angle() + phases), s=image.shape[1:]).clamp(0, 1)


def scene(tiles: Tiles, kind: str, placement: str, seed: int, number: int) -> tuple[Tensor, int]:
    """A scene of 8 x 8 tiles in [0, 1] and its class: the one that most of its known tiles belong to.

    ``texture``: six tiles of the class in a blob among phase-scrambled ones. ``open``: half of the clutter are images
    of unknown classes. ``mixed``: as open, with two tiles of every other known class. ``dense``: 38 tiles of the class.
    ``pasted``: six objects at random places and scales on continuous texture.

    ``unaligned``: all is shifted by half a tile, and each tile of a known class is drawn at 0.7 to 1.4 times its size.
    """
    generator = seeded_generator("scene", kind, placement, seed, number)
    label = int(torch.randint(tiles.classes, (1,), generator=generator))
    own = torch.nonzero(tiles.labels == label).flatten()
    if kind == "pasted":
        return _pasted(tiles, own, placement, generator), label
    tile = tiles.side
    canvas = torch.zeros(3, (CELLS + 1) * tile, (CELLS + 1) * tile)
    for place in range((CELLS + 1) ** 2):
        row, column = divmod(place, CELLS + 1)
        _put(canvas, _clutter(tiles, kind, generator), row * tile, column * tile)
    # Shifted by half a tile, eight tiles of a row are seven whole ones and two halves.
    shift, side = (tile // 2, CELLS - 1) if placement == "unaligned" else (0, CELLS)
    places = _blob(_TARGETS[kind], side, generator)
    things = [(place, _drawn(own, generator)) for place in places]
    if kind == "mixed":
        free = [place for place in range(side * side) if place not in places]
        order = torch.randperm(len(free), generator=generator).tolist()
        others = [other for other in range(tiles.classes) if other != label for _ in range(2)]
        for position, other in zip(order, others, strict=False):
            things.append((free[position], _drawn(torch.nonzero(tiles.labels == other).flatten(), generator)))
    for place, item in things:
        y, x = (place // side) * tile, (place % side) * tile
        image = tiles.images[item]
        if shift:
            image, off = _scaled(image, generator)
            y, x = y + tile + off, x + tile + off
        _put(canvas, image, y, x)
    wide = CELLS * tile
    return canvas[:, shift : shift + wide, shift : shift + wide].contiguous(), label


def _clutter(tiles: Tiles, kind: str, generator: torch.Generator) -> Tensor:
    unknown = kind != "texture" and bool(torch.rand(1, generator=generator) < 0.5)
    image = tiles.clutter[int(torch.randint(len(tiles.clutter), (1,), generator=generator))]
    return image if unknown else scrambled(image, generator)


def _pasted(tiles: Tiles, own: Tensor, placement: str, generator: torch.Generator) -> Tensor:
    wide = CELLS * tiles.side
    source = tiles.clutter[int(torch.randint(len(tiles.clutter), (1,), generator=generator))]
    slow = torch.nn.functional.interpolate(source.unsqueeze(0), (wide, wide), mode="bilinear").squeeze(0)
    fine = scrambled(tiles.clutter[int(torch.randint(len(tiles.clutter), (1,), generator=generator))], generator)
    canvas = (0.5 * scrambled(slow, generator) + 0.5 * fine.repeat(1, CELLS, CELLS)).clamp(0, 1)
    for place in torch.randperm(CELLS**2, generator=generator)[: _TARGETS["pasted"]].tolist():
        image = tiles.images[_drawn(own, generator)]
        y, x = (place // CELLS) * tiles.side, (place % CELLS) * tiles.side
        if placement == "unaligned":
            image, _ = _scaled(image, generator)
            y, x = (int(torch.randint(wide - image.shape[1] + 1, (1,), generator=generator)) for _ in range(2))
        _put(canvas, image, y, x)
    return canvas


def _scaled(image: Tensor, generator: torch.Generator) -> tuple[Tensor, int]:
    """At a random size, and how far its corner moves so that its centre stays."""
    low, high = _SCALES
    side = round(image.shape[1] * (low + (high - low) * float(torch.rand(1, generator=generator))))
    resized = torch.nn.functional.interpolate(image.unsqueeze(0), (side, side), mode="bilinear", antialias=True)
    return resized.squeeze(0), (image.shape[1] - side) // 2


def _put(canvas: Tensor, image: Tensor, y: int, x: int) -> None:
    """Draw an image, cut at the border."""
    y0, x0 = max(y, 0), max(x, 0)
    y1, x1 = min(y + image.shape[1], canvas.shape[1]), min(x + image.shape[2], canvas.shape[2])
    canvas[:, y0:y1, x0:x1] = image[:, y0 - y : y1 - y, x0 - x : x1 - x]


def _drawn(items: Tensor, generator: torch.Generator) -> int:
    return int(items[int(torch.randint(len(items), (1,), generator=generator))])


def _blob(count: int, side: int, generator: torch.Generator) -> list[int]:
    """Places of a square grid that hang together."""
    places = [int(torch.randint(side * side, (1,), generator=generator))]
    while len(places) < count:
        row, column = divmod(places[int(torch.randint(len(places), (1,), generator=generator))], side)
        down, across = ((-1, 0), (1, 0), (0, -1), (0, 1))[int(torch.randint(4, (1,), generator=generator))]
        row, column = row + down, column + across
        if 0 <= row < side and 0 <= column < side and row * side + column not in places:
            places.append(row * side + column)
    return places


def scenes(
    tiles: Tiles, kind: str, placement: str, seed: int, count: int, change: Callable[[Tensor], Tensor] = normalized
) -> tuple[Tensor, Tensor]:
    """Scenes ``[count, 3, H, W]`` as the network takes them, and their classes."""
    made = [scene(tiles, kind, placement, seed, number) for number in range(count)]
    return change(torch.stack([image for image, _ in made])), torch.tensor([label for _, label in made])


def greyed(images: Tensor, seed: int, share: float = 0.3) -> Tensor:
    """Scenes with a share of their area covered by grey squares of half a tile."""
    covered, cells = images.clone(), 2 * CELLS
    side = images.shape[2] // cells
    for number, image in enumerate(covered):
        order = torch.randperm(cells * cells, generator=seeded_generator("grey", seed, number))
        for place in order[: round(share * cells * cells)].tolist():
            y, x = (place // cells) * side, (place % cells) * side
            image[:, y : y + side, x : x + side] = 0
    return covered
