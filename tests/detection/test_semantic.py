"""Regions of masks, against scipy's labelling."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from lightning_coreset.detection import semantic_regions


def reference(mask: NDArray[np.int64], classes: int, min_area: float) -> set[tuple[int, ...]]:
    """Class, box and pixels of each region."""
    found = set()
    for label in range(classes):
        places, count = ndimage.label(mask == label, structure=np.ones((3, 3)))
        for region in range(1, count + 1):
            rows, columns = np.nonzero(places == region)
            if len(rows) >= min_area * mask.size:
                found.add((label, columns.min(), rows.min(), columns.max() + 1, rows.max() + 1, len(rows)))
    return found


def check(mask: NDArray[np.int64], classes: int, min_area: float) -> None:
    regions = semantic_regions(mask, min_area=min_area, class_count=classes)
    rows = zip(regions.classes.tolist(), regions.boxes.int().tolist(), regions.areas.tolist(), strict=True)
    found = [(label, *box, area) for label, box, area in rows]
    assert len(set(found)) == len(found)
    assert set(found) == reference(mask, classes, min_area)
    for region in range(len(found)):
        inside = (regions.map == region).numpy()
        assert inside.sum() == regions.areas[region]
        assert set(mask[inside]) == {int(regions.classes[region])}
    # Numbered as rows of pixels meet them.
    firsts = [int(np.flatnonzero(regions.map.numpy() == region)[0]) for region in range(len(found))]
    assert firsts == sorted(firsts)


@pytest.mark.parametrize("seed", range(40))
def test_random_masks(seed: int) -> None:
    generator = np.random.default_rng(seed)
    height, width = generator.integers(1, 25, 2)
    classes = int(generator.integers(1, 4))
    mask = generator.integers(0, classes + 1, (height, width))
    if seed % 2:
        mask = np.kron(mask, np.ones((3, 2), dtype=np.int64))
    check(mask, classes, float(generator.choice([0.0, 0.01, 0.05])))


def test_shapes_that_wind() -> None:
    spiral = np.array([[int(ch) for ch in row] for row in ("1111111", "0000001", "1111101", "1000101", "1011101",
                                                           "1000001", "1111111")])  # fmt: skip
    check(spiral, 2, 0.0)
    check(np.kron(spiral, np.ones((5, 5), dtype=np.int64)), 2, 0.0)
    check(np.eye(9, dtype=np.int64), 2, 0.0)
    check(np.eye(9, dtype=np.int64)[::-1] + np.eye(9, dtype=np.int64), 3, 0.0)


def test_a_region_of_exactly_the_least_size_counts() -> None:
    mask = np.full((100, 40), 255)
    mask[0, :2] = 0
    assert len(semantic_regions(mask).classes) == 1
    mask[0, 1] = 255
    assert len(semantic_regions(mask).classes) == 0


def test_other_values_without_a_class() -> None:
    mask = np.array([[0, 7], [1, 255]])
    assert semantic_regions(mask, ignore=7).classes.tolist() == [0, 1]
    assert semantic_regions(mask, ignore=(0, 7)).classes.tolist() == [1]
    assert semantic_regions(np.array([[-1, 0]])).classes.tolist() == [0]


@pytest.mark.data
def test_street_scenes(data_root: Path) -> None:
    with zipfile.ZipFile(data_root / "camvid" / "camvid.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.startswith("train/masks/") and name.endswith(".png"))
        for name in names[::60]:
            check(np.asarray(Image.open(io.BytesIO(archive.read(name)))).astype(np.int64), 11, 5e-4)
