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

TILE = 32
SIDE = 8 * TILE
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
        images: ``[N, 3, 32, 32]`` in [0, 1].
        labels: Class of each, as the network numbers it ``[N]``.
        clutter: Of classes the network does not know ``[M, 3, 32, 32]``.
        classes: How many the network knows.
    """

    images: Tensor
    labels: Tensor
    clutter: Tensor
    classes: int


def normalized(images: Tensor) -> Tensor:
    """As the networks take them."""
    return (images - MEAN) / DEVIATION


def cifar10_tiles(folder: Path) -> tuple[Tensor, Tensor]:
    """All test images ``[10000, 3, 32, 32]`` and their classes."""
    with np.load(folder / "cifar10" / "cifar10_test.npz") as arrays:
        data, cut, labels = arrays["jpeg"], arrays["offsets"], arrays["labels"]
    pictures = [np.asarray(Image.open(io.BytesIO(data[a:b].tobytes()))) for a, b in itertools.pairwise(cut)]
    return _as_tensor(np.stack(pictures)), torch.tensor(labels.astype(np.int64))


def resisc12_tiles(folder: Path, part: str, side: int = TILE) -> tuple[Tensor, Tensor, list[str]]:
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
    """A scene ``[3, 256, 256]`` in [0, 1] and its class: the one that most of its known tiles belong to.

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
    canvas = torch.zeros(3, SIDE + TILE, SIDE + TILE)
    cells = SIDE // TILE + 1
    for row in range(cells):
        for column in range(cells):
            _put(canvas, _clutter(tiles, kind, generator), row * TILE, column * TILE)
    # Shifted by half a tile, eight tiles of a row are seven whole ones and two halves.
    shift, side = (TILE // 2, 7) if placement == "unaligned" else (0, 8)
    places = _blob(_TARGETS[kind], side, generator)
    things = [(place, _drawn(own, generator)) for place in places]
    if kind == "mixed":
        free = [place for place in range(side * side) if place not in places]
        order = torch.randperm(len(free), generator=generator).tolist()
        others = [other for other in range(tiles.classes) if other != label for _ in range(2)]
        for position, other in zip(order, others, strict=False):
            things.append((free[position], _drawn(torch.nonzero(tiles.labels == other).flatten(), generator)))
    for place, item in things:
        y, x = (place // side) * TILE, (place % side) * TILE
        image = tiles.images[item]
        if shift:
            image, off = _scaled(image, generator)
            y, x = y + TILE + off, x + TILE + off
        _put(canvas, image, y, x)
    return canvas[:, shift : shift + SIDE, shift : shift + SIDE].contiguous(), label


def _clutter(tiles: Tiles, kind: str, generator: torch.Generator) -> Tensor:
    unknown = kind != "texture" and bool(torch.rand(1, generator=generator) < 0.5)
    image = tiles.clutter[int(torch.randint(len(tiles.clutter), (1,), generator=generator))]
    return image if unknown else scrambled(image, generator)


def _pasted(tiles: Tiles, own: Tensor, placement: str, generator: torch.Generator) -> Tensor:
    source = tiles.clutter[int(torch.randint(len(tiles.clutter), (1,), generator=generator))]
    wide = torch.nn.functional.interpolate(source.unsqueeze(0), (SIDE, SIDE), mode="bilinear").squeeze(0)
    fine = scrambled(tiles.clutter[int(torch.randint(len(tiles.clutter), (1,), generator=generator))], generator)
    canvas = (0.5 * scrambled(wide, generator) + 0.5 * fine.repeat(1, 8, 8)).clamp(0, 1)
    for place in torch.randperm(64, generator=generator)[: _TARGETS["pasted"]].tolist():
        image = tiles.images[_drawn(own, generator)]
        y, x = (place // 8) * TILE, (place % 8) * TILE
        if placement == "unaligned":
            image, _ = _scaled(image, generator)
            y, x = (int(torch.randint(SIDE - image.shape[1] + 1, (1,), generator=generator)) for _ in range(2))
        _put(canvas, image, y, x)
    return canvas


def _scaled(image: Tensor, generator: torch.Generator) -> tuple[Tensor, int]:
    """At a random size, and how far its corner moves so that its centre stays."""
    low, high = _SCALES
    side = round(TILE * (low + (high - low) * float(torch.rand(1, generator=generator))))
    resized = torch.nn.functional.interpolate(image.unsqueeze(0), (side, side), mode="bilinear", antialias=True)
    return resized.squeeze(0), (TILE - side) // 2


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
        row, column = divmod(places[int(torch.randint(len(places), (1,), generator=generator))], 8)
        down, across = ((-1, 0), (1, 0), (0, -1), (0, 1))[int(torch.randint(4, (1,), generator=generator))]
        row, column = row + down, column + across
        if 0 <= row < side and 0 <= column < side and row * side + column not in places:
            places.append(row * side + column)
    return places


def scenes(
    tiles: Tiles, kind: str, placement: str, seed: int, count: int, change: Callable[[Tensor], Tensor] = normalized
) -> tuple[Tensor, Tensor]:
    """Scenes ``[count, 3, 256, 256]`` as the network takes them, and their classes."""
    made = [scene(tiles, kind, placement, seed, number) for number in range(count)]
    return change(torch.stack([image for image, _ in made])), torch.tensor([label for _, label in made])


def greyed(images: Tensor, seed: int, share: float = 0.3) -> Tensor:
    """Scenes with a share of their area covered by grey squares."""
    covered = images.clone()
    for number, image in enumerate(covered):
        generator = seeded_generator("grey", seed, number)
        cells = 2 * SIDE // TILE
        order = torch.randperm(cells * cells, generator=generator)[: round(share * cells * cells)]
        for place in order.tolist():
            y, x = (place // cells) * TILE // 2, (place % cells) * TILE // 2
            image[:, y : y + TILE // 2, x : x + TILE // 2] = 0
    return covered
