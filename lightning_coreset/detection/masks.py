"""Masks of single objects: run lengths as COCO counts them, polygons, and pixels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def counts_of(mask: Tensor) -> list[int]:
    """Run lengths of a mask ``[H, W]``, column by column; the first counts what lies outside.

    Example:
        >>> counts_of(torch.tensor([[False, True], [True, True]]))
        [1, 3]
    """
    values = mask.to(torch.bool).T.reshape(-1).cpu().numpy()
    changes = np.nonzero(values[1:] != values[:-1])[0] + 1
    bounds = np.concatenate([[0], changes, [len(values)]])
    counts: list[int] = np.diff(bounds).tolist()
    return [0, *counts] if len(values) and values[0] else counts


def mask_of(counts: Sequence[int], size: tuple[int, int]) -> Tensor:
    """The pixels ``[H, W]`` of run lengths.

    Raises:
        ValueError: Runs of another number of pixels than the image has.

    Example:
        >>> mask_of([1, 3], (2, 2)).tolist()
        [[False, True], [True, True]]
    """
    height, width = size
    if sum(counts) != height * width:
        msg = f"A mask of {sum(counts)} pixels does not fit an image of {height} x {width}: write the masks again."
        raise ValueError(msg)
    inside = np.arange(len(counts)) % 2 == 1
    return torch.from_numpy(np.repeat(inside, counts).reshape(width, height).T.copy())


def as_counts(segmentation: Any, size: tuple[int, int]) -> list[int]:
    """COCO's segmentation of an object, polygons or run lengths, as run lengths.

    Args:
        segmentation: A list of polygons, or a dict whose ``counts`` are a list or COCO's text.
        size: Height and width of the image.
    """
    if isinstance(segmentation, Mapping):
        counts = segmentation["counts"]
        return decoded(counts) if isinstance(counts, str | bytes) else [int(count) for count in counts]
    canvas = np.zeros(size, dtype=bool)
    for polygon in segmentation:
        canvas |= _filled(np.asarray(polygon, dtype=np.float64).reshape(-1, 2), size)
    return counts_of(torch.from_numpy(canvas))


def _filled(corners: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels whose middle lies inside a polygon."""
    height, width = size
    crossings = np.zeros((height, width + 1), dtype=np.int64)
    middles = np.arange(height) + 0.5
    for (x1, y1), (x2, y2) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        rows = np.nonzero((np.minimum(y1, y2) <= middles) & (middles < np.maximum(y1, y2)))[0]
        if len(rows):
            x = x1 + (middles[rows] - y1) * (x2 - x1) / (y2 - y1)
            # The first pixel whose middle is not left of the edge.
            np.add.at(crossings, (rows, np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)), 1)
    inside: NDArray[np.bool_] = np.cumsum(crossings[:, :-1], axis=1) % 2 == 1
    return inside


def decoded(text: str | bytes) -> list[int]:
    """Run lengths from COCO's text: six bits a letter, each count from the third on as a difference to two before."""
    letters = text if isinstance(text, bytes) else text.encode()
    counts: list[int] = []
    value = shift = 0
    for letter in letters:
        bits = letter - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            if bits & 0x10:
                value |= -1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return counts


def encoded(counts: Sequence[int]) -> str:
    """COCO's text of run lengths; see `decoded`.

    Example:
        >>> decoded(encoded([5, 300, 7, 2])) == [5, 300, 7, 2]
        True
    """
    letters = []
    for place, count in enumerate(counts):
        value = count - counts[place - 2] if place > 2 else count
        more = True
        while more:
            bits = value & 0x1F
            value >>= 5
            more = value != -1 if bits & 0x10 else value != 0
            letters.append(chr(48 + bits + 0x20 * more))
    return "".join(letters)


def polygons_of(mask: Tensor) -> list[list[float]]:
    """The outlines of a mask ``[H, W]`` along the edges of its pixels, holes left out.

    Returns:
        One polygon x1, y1, x2, y2, ... for each 4-connected part, in the order in which rows meet them.

    Example:
        >>> polygons_of(torch.tensor([[False, True], [False, True]]))
        [[1.0, 0.0, 2.0, 0.0, 2.0, 2.0, 1.0, 2.0]]
    """
    padded = np.pad(mask.to(torch.bool).cpu().numpy(), 1)
    follows = _edges(padded)
    polygons = []
    while follows:
        start = min(follows, key=lambda corner: (corner[1], corner[0]))
        corners, turned = _walk(follows, start)
        # Outer borders are walked clockwise; those of holes the other way.
        if turned > 0:
            polygons.append([float(value) for corner in corners for value in corner])
    return polygons


_Corner = tuple[int, int]


def _edges(padded: NDArray[np.bool_]) -> dict[_Corner, list[_Corner]]:
    """Directed edges between inside and outside, inside on the right."""
    follows: dict[_Corner, list[_Corner]] = {}
    inside = padded[1:-1, 1:-1]
    neighbours = (
        (padded[:-2, 1:-1], (0, 0), (1, 0)),
        (padded[1:-1, 2:], (1, 0), (1, 1)),
        (padded[2:, 1:-1], (1, 1), (0, 1)),
        (padded[1:-1, :-2], (0, 1), (0, 0)),
    )
    for neighbour, first, last in neighbours:
        for row, column in np.argwhere(inside & ~neighbour).tolist():
            start, end = (column + first[0], row + first[1]), (column + last[0], row + last[1])
            follows.setdefault(start, []).append(end)
    return follows


def _walk(follows: dict[_Corner, list[_Corner]], start: _Corner) -> tuple[list[_Corner], int]:
    """One closed border, corners only, and twice its area (negative for a hole)."""
    path = [start]
    direction = (0, 0)
    while True:
        here = path[-1]
        choices = follows[here]
        # Where two parts touch at a corner, turning right stays with the same one.
        right = (-direction[1], direction[0])
        ahead = next((end for end in choices if (end[0] - here[0], end[1] - here[1]) == right), choices[0])
        choices.remove(ahead)
        if not choices:
            del follows[here]
        step = (ahead[0] - here[0], ahead[1] - here[1])
        if step == direction:
            path[-1] = ahead
        else:
            path.append(ahead)
        direction = step
        if ahead == start:
            break
    corners = path[:-1]
    area = sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(corners, [*corners[1:], corners[0]], strict=True))
    return corners, area
