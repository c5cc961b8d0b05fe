"""Scenes in files: the same windows as from memory, and memory that does not grow with the scene."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_coreset import CoresetError
from lightning_coreset.regions import HCSConfig, open_scene, refine
from lightning_coreset.regions.views import TensorScenes
from tests.regions.models import Counting

HEIGHT, WIDTH = 403, 611


def picture(seed: int = 0) -> np.ndarray:
    """A smooth scene, so that ways to shrink it differ little ``[H, W, 3]``."""
    coarse = torch.rand(1, 3, 9, 13, generator=torch.Generator().manual_seed(seed))
    wide = torch.nn.functional.interpolate(coarse, (HEIGHT, WIDTH), mode="bicubic").clamp(0, 1)
    return (wide[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()


def in_memory(pixels: np.ndarray) -> TensorScenes:
    return TensorScenes(torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0) / 255)


def write(form: str, folder: Path) -> Any:
    pixels, path = picture(), folder / f"scene.{form.split()[0]}"
    if form == "array":
        return pixels
    if form == "npy":
        np.save(path, pixels)
    elif form == "tif tiled":
        tifffile = pytest.importorskip("tifffile", reason="tifffile not installed: the extra [wide]")
        tifffile.imwrite(path, pixels, tile=(64, 96), compression="zlib")
    elif form == "tif striped":
        tifffile = pytest.importorskip("tifffile", reason="tifffile not installed: the extra [wide]")
        tifffile.imwrite(path, pixels, rowsperstrip=50)
    else:
        Image.fromarray(pixels).save(path, **({"quality": 98, "subsampling": 0} if form == "jpg" else {}))
    return path


@pytest.mark.parametrize("form", ["array", "npy", "png", "jpg", "tif", "tif tiled", "tif striped"])
@pytest.mark.parametrize(
    ("box", "size"),
    [
        ((0, 0, WIDTH, HEIGHT), (32, 32)),
        ((17, 30, 417, 331), (50, 40)),
        ((100, 7, 164, 71), (64, 64)),
        ((5, 5, 25, 25), (40, 40)),
    ],
    ids=["whole", "coarse", "native", "magnified"],
)
def test_windows_are_those_of_the_scene_in_memory(form: str, box: Any, size: Any, tmp_path: Path) -> None:
    given = (torch.tensor([0]), torch.tensor([box]), size)
    found, expected = open_scene(write(form, tmp_path)).crops(*given), in_memory(picture()).crops(*given)
    assert found.shape == expected.shape
    # JPEG loses a little, and windows that are averaged down before they are resized differ a little.
    torch.testing.assert_close(found, expected, rtol=0, atol=0.07 if form == "jpg" else 0.035)
    # An eighth of a JPEG reaches up to seven pixels past the border, which is much of so small a scene.
    assert (found - expected).abs().mean() < (0.012 if form == "jpg" else 0.006)


@pytest.mark.parametrize("reader", ["TiffReader", "RasterReader"])
def test_readers_of_the_extra(reader: str, tmp_path: Path) -> None:
    from lightning_coreset.regions import wide

    module = {"TiffReader": "tifffile", "RasterReader": "rasterio"}[reader]
    pytest.importorskip(module, reason=f"{module} not installed: the extra [wide]")
    path = write("tif tiled", tmp_path)
    scene = wide.WideScenes([getattr(wide, reader)(str(path))], None, "cpu")
    given = (torch.tensor([0]), torch.tensor([[17, 30, 417, 331]]), (50, 40))
    torch.testing.assert_close(scene.crops(*given), in_memory(picture()).crops(*given), rtol=0, atol=0.035)


def test_a_scene_from_a_file_is_refined_as_from_memory(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", picture(0))
    np.save(tmp_path / "b.npy", picture(1))
    scale = lambda windows: (windows - 0.5) / 0.2  # noqa: E731
    scene = open_scene([tmp_path / "a.npy", tmp_path / "b.npy"], transform=scale)
    config = HCSConfig(search="hierarchical")
    found = refine(scene, Counting(), config, input_size=48)
    images = torch.cat([in_memory(picture(seed)).images for seed in (0, 1)])
    expected = refine(scale(images), Counting(), config, input_size=48)
    assert found.n_forwards == expected.n_forwards == 41
    torch.testing.assert_close(found.logits_whole, expected.logits_whole, rtol=0.05, atol=0.1)
    assert found.mask.shape == expected.mask.shape


def test_the_automatic_engine_does_not_read_a_map_of_what_is_not_in_memory() -> None:
    model = Counting()
    maps = {"features": model.features, "head": model.linear, "input_size": 48}
    assert refine(open_scene(picture()), model, **maps).engine == "crop"
    with pytest.raises(ValueError, match="engine='scan' needs scenes in memory"):
        refine(open_scene(picture()), model, HCSConfig(engine="scan"), **maps)


def test_jpeg_is_decoded_no_finer_than_needed(tmp_path: Path) -> None:
    reader = open_scene(write("jpg", tmp_path)).readers[0]
    shapes = []
    for shrink in (9, 5, 8, 1):
        reader.read(0, 0, WIDTH, HEIGHT, (HEIGHT // shrink, WIDTH // shrink))
        shapes.append(reader._pixels.shape[0])
    assert shapes == [51, 101, 101, 403]


@pytest.mark.parametrize(
    ("scenes", "error", "message"),
    [
        (lambda folder: folder / "none.jpg", CoresetError, "none.jpg could not be opened"),
        (lambda folder: [picture(), picture()[:-1]], ValueError, "Scenes have sizes"),
        (lambda folder: np.zeros(5), ValueError, r"A scene has shape \[5\]"),
    ],
)
def test_refused(scenes: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        open_scene(scenes(tmp_path))


def test_a_picture_that_does_not_fit_is_told_before_it_is_decoded(tmp_path: Path) -> None:
    scene = open_scene(write("png", tmp_path), memory_limit=10**6)
    with pytest.raises(CoresetError, match="memory_limit is 1,000,000: save it as a tiled TIFF"):
        scene.crops(torch.tensor([0]), torch.tensor([[0, 0, 8, 8]]), (8, 8))


_PEAK = """
import resource, sys, warnings
import numpy as np
import torch
from lightning_coreset.regions import HCSConfig, open_scene, refine
torch.set_num_threads(1)
path, side = sys.argv[1], int(sys.argv[2])
scene = open_scene(np.memmap(path, dtype=np.uint8, mode="r", shape=(side, side, 3)))
linear = torch.nn.Linear(3, 4)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = refine(scene, lambda crops: linear(crops.mean((2, 3))), HCSConfig(), input_size=64)
print(found.n_forwards, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_the_scene(tmp_path: Path) -> None:
    path, used = tmp_path / "zeros.raw", {}
    for side in (1_000, 8_000):
        # A file of holes: nothing is written to the disk.
        with path.open("wb") as file:
            file.truncate(side * side * 3)
        command = [sys.executable, "-c", _PEAK, str(path), str(side)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
        forwards, kilobytes = map(int, done.stdout.split())
        used[side] = kilobytes / 1e3
        assert forwards > 40
    # The larger one holds 192 MB, which are mapped: only pages that a window touches count, and may be given back.
    assert used[8_000] < used[1_000] + 250, used
