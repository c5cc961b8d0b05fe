"""How far a feature map of a wide scene can be trusted: its windows against the same windows as crops."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from lightning_coreset.ops.random import seeded_generator
from lightning_coreset.regions.windows import pool_windows, window_grids

#: Below this a search on the map does not find what crops would show.
LEAST_FIDELITY = 0.7
# Inputs along a side of the scene that is looked at.
_SIDES = 4


def map_fidelity(
    features: Callable[[Tensor], Tensor], size: tuple[int, int], channels: int = 3, like: Tensor | None = None
) -> float:
    """Mean cosine of what a map says of windows with what the model says of the same windows as crops, -1 to 1.

    In a map a window sees what lies around it; as a crop it sees the padding that the model was trained with. Where
    the input is little larger than the padding reaches, the two differ so much that windows of the map mean nothing
    (in ``benchmarks/hcs`` 0.43 for SqueezeNet at 64 px, 0.92 to 0.95 for residual networks at 32 px). Asked of noise
    whose spectrum falls as that of photographs, so that it needs no data.

    One pass over 16 inputs and one over 16 crops.

    Args:
        features: Images ``[B, C, H, W]`` to maps ``[B, d, h, w]``.
        size: Height and width of the model's input.
        channels: C.
        like: A tensor of the model's device and precision.

    Example:
        >>> round(map_fidelity(lambda images: images, (16, 16)), 3)
        1.0
    """
    height, width = (_SIDES * side for side in size)
    scene = _pink_noise(channels, height, width).to(torch.zeros(1) if like is None else like)
    grid = window_grids((height, width), size)[0]
    # Every fourth row and column and half a window beside them: windows on the borders of inputs and between them.
    rows, columns = len(grid.y), len(grid.x)
    places = torch.tensor([row * columns + column for row in range(1, rows, 4) for column in range(1, columns, 4)])
    pooled = pool_windows(features(scene), grid, (height, width))[0, places]
    crops = torch.cat([scene[..., y0:y1, x0:x1] for x0, y0, x1, y1 in grid.boxes[places].tolist()])
    alone = features(crops).mean((2, 3))
    return float(cosine_similarity(pooled.float(), alone.float(), dim=1).mean())


def _pink_noise(channels: int, height: int, width: int) -> Tensor:
    """Noise whose amplitude falls with frequency, of deviation 1 ``[1, channels, height, width]``."""
    white = torch.randn(1, channels, height, width, generator=seeded_generator("map fidelity"))
    down, across = torch.fft.fftfreq(height).unsqueeze(1), torch.fft.rfftfreq(width)
    frequency = (down**2 + across**2).sqrt().clamp(min=1 / max(height, width))
    pink = torch.fft.irfft2(torch.fft.rfft2(white) / frequency, s=(height, width))
    noise: Tensor = (pink - pink.mean()) / pink.std()
    return noise
