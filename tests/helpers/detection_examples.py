"""Small pools of objects whose answers are known."""

import torch

from lightning_coreset.detection import Objects
from tests.helpers.examples import tied_rows


def crowded_pool(
    images: int,
    classes: int,
    *,
    width: int = 12,
    seed: int = 0,
    single: bool = False,
    most: int = 5,
    scores: bool = False,
) -> Objects:
    """Images with up to ``most`` objects, some with none; classes from frequent to rare, features around their class.

    Args:
        single: Each image shows one class only.
        scores: Proposals in place of labels.
    """
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, most + 1, (images,), generator=generator)
    counts[0] = max(1, int(counts[0]))
    image = torch.repeat_interleave(torch.arange(images), counts)
    shares = 0.6 ** torch.arange(classes, dtype=torch.float64)
    labels = torch.multinomial(shares, len(image), replacement=True, generator=generator)
    if single:
        labels = torch.multinomial(shares, images, replacement=True, generator=generator)[image]
    centers = torch.rand(classes, width, generator=generator)
    features = (centers[labels] + 0.3 * torch.randn(len(image), width, generator=generator)).abs()
    corners = torch.rand(len(image), 2, generator=generator) * 40
    sides = torch.rand(len(image), 2, generator=generator) * 50 + 5
    return Objects(
        image,
        torch.cat([corners, corners + sides], dim=1),
        labels,
        num_images=images,
        features=features,
        scores=torch.rand(len(image), generator=generator) * 0.8 + 0.2 if scores else None,
        image_sizes=torch.full((images, 2), 100),
        class_names=[f"class {label}" for label in range(classes)],
    )


def tied_pool(images: int, classes: int, *, seed: int = 0) -> Objects:
    """As `crowded_pool`, with one object an image and class whose cosines are exact: full of real ties."""
    plain = crowded_pool(images, classes, seed=seed)
    first = torch.ones(len(plain), dtype=torch.bool)
    cells = plain.image * classes + plain.labels
    for row in range(1, len(plain)):
        first[row] = bool((cells[:row] != cells[row]).all())
    kept = plain.where(first)
    return Objects(
        kept.image,
        kept.boxes,
        kept.labels,
        num_images=images,
        features=tied_rows(max(1, len(kept)), seed=seed)[: len(kept)],
        image_sizes=kept.image_sizes,
        class_names=kept.class_names,
    )
