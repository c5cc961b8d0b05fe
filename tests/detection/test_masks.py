"""Masks of objects: every form there and back."""

import numpy as np
import pytest
import torch

from lightning_coreset.detection.masks import as_counts, counts_of, decoded, encoded, mask_of, polygons_of

MASKS = [
    torch.from_numpy(np.random.default_rng(seed).random((1 + seed % 5, 1 + seed % 7)) < 0.5) for seed in range(40)
] + [torch.zeros(3, 4, dtype=torch.bool), torch.ones(3, 4, dtype=torch.bool)]


@pytest.mark.parametrize("mask", MASKS, ids=range(len(MASKS)))
def test_there_and_back(mask: torch.Tensor) -> None:
    size = (mask.shape[0], mask.shape[1])
    counts = counts_of(mask)
    assert torch.equal(mask_of(counts, size), mask)
    assert decoded(encoded(counts)) == counts
    assert as_counts({"size": list(size), "counts": counts}, size) == counts
    assert as_counts({"size": list(size), "counts": encoded(counts)}, size) == counts


@pytest.mark.parametrize("seed", range(20))
def test_outlines_hold_the_pixels_of_shapes_without_holes(seed: int) -> None:
    generator = np.random.default_rng(seed)
    # Heights of columns that stand on the ground have no holes.
    heights = generator.integers(0, 9, 12)
    mask = torch.from_numpy(np.arange(9)[::-1, None] < heights)
    assert as_counts(polygons_of(mask), (9, 12)) == counts_of(mask)


def test_parts_that_touch_at_a_corner_are_two_outlines() -> None:
    mask = torch.eye(2, dtype=torch.bool)
    assert polygons_of(mask) == [[0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0], [1.0, 1.0, 2.0, 1.0, 2.0, 2.0, 1.0, 2.0]]
    assert polygons_of(mask.flip(0)) == [
        [1.0, 0.0, 2.0, 0.0, 2.0, 1.0, 1.0, 1.0],
        [0.0, 1.0, 1.0, 1.0, 1.0, 2.0, 0.0, 2.0],
    ]


def test_holes_are_left_out() -> None:
    ring = torch.ones(3, 3, dtype=torch.bool)
    ring[1, 1] = False
    assert polygons_of(ring) == [[0.0, 0.0, 3.0, 0.0, 3.0, 3.0, 0.0, 3.0]]
    assert polygons_of(torch.zeros(3, 3, dtype=torch.bool)) == []


def test_runs_of_another_image() -> None:
    with pytest.raises(ValueError, match="A mask of 4 pixels does not fit an image of 3 x 3"):
        mask_of([1, 3], (3, 3))


@pytest.mark.oracle("pycocotools")
@pytest.mark.parametrize("mask", MASKS, ids=range(len(MASKS)))
def test_pycocotools_reads_and_writes_the_same(mask: torch.Tensor) -> None:
    from pycocotools import mask as oracle

    written = oracle.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
    assert encoded(counts_of(mask)) == written["counts"].decode()
    assert decoded(written["counts"]) == counts_of(mask)
