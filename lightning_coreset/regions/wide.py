"""Scenes too large for memory: read as windows, coarse ones from a coarse decoding."""

import mmap
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_coreset.errors import CoresetError
from lightning_coreset.ops.memory import available_bytes
from lightning_coreset.regions.grid import borders
from lightning_coreset.regions.views import resized

Array = npt.NDArray[Any]

# Rows of a window that are read and averaged at a time.
_ROWS = 256
# Windows are averaged to this many times what is asked for, at least, before they are resized.
_FINER = 2


class WindowReader(Protocol):
    """A file from which windows are read.

    Attributes:
        size: Height and width.
    """

    size: tuple[int, int]

    def read(self, x0: int, y0: int, x1: int, y1: int, shape: tuple[int, int]) -> Array:
        """A window ``[h, w, C]``; it may be smaller than it is in the file, but not than ``shape``."""
        ...


class WideScenes:
    """Scenes in files, of one size: what `refine` takes in place of a tensor. Made by `open_scene`.

    A window is read at most ``_ROWS`` rows at a time and averaged down by whole factors, so memory does not grow with
    the scene, where the format allows to read parts.

    Args:
        readers: One for each scene.
        transform: Of windows ``[n, C, h, w]`` in [0, 1] after they are resized, such as a normalisation.
        device: Where windows go.
    """

    def __init__(
        self, readers: Sequence[WindowReader], transform: Callable[[Tensor], Tensor] | None, device: torch.device | str
    ) -> None:
        sizes = {reader.size for reader in readers}
        if len(sizes) != 1:
            msg = f"Scenes have sizes {sorted(sizes)}: give scenes of one size, others in calls of their own."
            raise ValueError(msg)
        self.readers, self.transform, self.device = readers, transform, device
        self.size = readers[0].size
        self.count = len(readers)

    def crops(self, images: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """Windows ``[n, C, *size]`` of scenes ``[n]`` at boxes ``[n, 4]``."""
        windows = [
            resized(self._window(image, box, size), size)
            for image, box in zip(images.tolist(), boxes.tolist(), strict=True)
        ]
        cut = torch.cat(windows).to(self.device)
        return cut if self.transform is None else self.transform(cut)

    def _window(self, image: int, box: list[int], size: tuple[int, int]) -> Tensor:
        x0, y0, x1, y1 = box
        shrink = max(1, min((y1 - y0) // size[0], (x1 - x0) // size[1]) // _FINER)
        rows, columns = (y1 - y0) // shrink, (x1 - x0) // shrink
        edges = (y0 + borders(y1 - y0, rows)).tolist()
        together = max(1, _ROWS // shrink)
        parts = []
        for start in range(0, rows, together):
            stop = min(start + together, rows)
            shape = (stop - start, columns)
            parts.append(_averaged(self.readers[image].read(x0, edges[start], x1, edges[stop], shape), shape))
        return torch.from_numpy(np.concatenate(parts)).movedim(2, 0).unsqueeze(0)


def _averaged(pixels: Array, shape: tuple[int, int]) -> Array:
    """Means of cells that are alike up to a pixel, in [0, 1]."""
    scale = np.float32(1 / np.iinfo(pixels.dtype).max) if np.issubdtype(pixels.dtype, np.integer) else np.float32(1)
    if pixels.shape[:2] == shape:
        return pixels.astype(np.float32) * scale
    down, across = (borders(side, parts).numpy() for side, parts in zip(pixels.shape[:2], shape, strict=True))
    sums = np.add.reduceat(pixels, across[:-1], axis=1, dtype=np.float32)
    sums = np.add.reduceat(sums, down[:-1], axis=0)
    area = (np.diff(down)[:, None] * np.diff(across)).astype(np.float32)
    means: Array = sums * (scale / area)[:, :, None]
    return means


class ArrayReader:
    """An array or a memory map ``[H, W, C]`` or ``[H, W]``."""

    def __init__(self, pixels: Array) -> None:
        if pixels.ndim not in (2, 3):
            msg = f"A scene has shape {list(pixels.shape)}: give [H, W, C] or [H, W]."
            raise ValueError(msg)
        self.pixels = pixels if pixels.ndim == 3 else pixels[:, :, None]
        self.size = (pixels.shape[0], pixels.shape[1])

    def read(self, x0: int, y0: int, x1: int, y1: int, shape: tuple[int, int]) -> Array:
        """The window as it is."""
        mapped = getattr(self.pixels, "_mmap", None)
        if mapped is None:
            return np.asarray(self.pixels[y0:y1, x0:x1])
        window = np.array(self.pixels[y0:y1, x0:x1])
        # Pages of a file that were read once stay with the process unless it says otherwise.
        if hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)
        return window


class TiffReader:
    """Segments (tiles or strips) of a TIFF by ``tifffile``: only those that a window touches are decoded."""

    def __init__(self, path: str) -> None:
        import tifffile

        self._file = tifffile.TiffFile(path)
        self._page: Any = self._file.pages[0]
        self.size = (self._page.imagelength, self._page.imagewidth)

    def read(self, x0: int, y0: int, x1: int, y1: int, shape: tuple[int, int]) -> Array:
        """The window, joined of segments."""
        page = self._page
        height, width = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, self.size[1])
        across = -(-self.size[1] // width)
        window = np.zeros((y1 - y0, x1 - x0, page.samplesperpixel), dtype=page.dtype)
        for row in range(y0 // height, -(-y1 // height)):
            for column in range(x0 // width, -(-x1 // width)):
                place = row * across + column
                handle = self._file.filehandle
                handle.seek(page.dataoffsets[place])
                packed = handle.read(page.databytecounts[place])
                pixels = page.decode(packed, place, jpegtables=page.jpegtables)[0]
                if pixels is None:
                    continue
                pixels = pixels.reshape(pixels.shape[-3:])
                top, left = row * height, column * width
                a, b = max(top, y0), min(top + pixels.shape[0], y1)
                c, d = max(left, x0), min(left + pixels.shape[1], x1)
                window[a - y0 : b - y0, c - x0 : d - x0] = pixels[a - top : b - top, c - left : d - left]
        return window


class RasterReader:
    """Any raster by ``rasterio``, which shrinks windows itself and uses overviews where there are any."""

    def __init__(self, path: str) -> None:
        import rasterio

        self._file = rasterio.open(path)
        self.size = (self._file.height, self._file.width)

    def read(self, x0: int, y0: int, x1: int, y1: int, shape: tuple[int, int]) -> Array:
        """The window, shrunk by averages."""
        from rasterio.enums import Resampling
        from rasterio.windows import Window

        window = Window(x0, y0, x1 - x0, y1 - y0)
        pixels: Array = self._file.read(
            window=window, out_shape=(self._file.count, *shape), resampling=Resampling.average
        )
        return np.moveaxis(pixels, 0, 2)


class PillowReader:
    """Any picture by Pillow. JPEG files are decoded at a half, a quarter or an eighth where that is enough.

    Args:
        path: Of the picture.
        memory_limit: Bytes that a decoding may take; None is half of what is free.
    """

    def __init__(self, path: str, memory_limit: int | None = None) -> None:
        self.path = path
        self._limit = available_bytes() // 2 if memory_limit is None else memory_limit
        with _open(path) as picture:
            self.size = (picture.height, picture.width)
            self._jpeg = picture.format == "JPEG"
        self._shrink, self._pixels = 0, np.empty((0, 0, 3), dtype=np.uint8)

    def read(self, x0: int, y0: int, x1: int, y1: int, shape: tuple[int, int]) -> Array:
        """The window from the coarsest decoding that shows enough."""
        shrink = min((y1 - y0) // shape[0], (x1 - x0) // shape[1])
        factor = next(one for one in (8, 4, 2, 1) if one <= shrink) if self._jpeg else 1
        if not self._shrink or factor < self._shrink:
            self._decode(factor)
        s = self._shrink
        window: Array = self._pixels[y0 // s : -(-y1 // s), x0 // s : -(-x1 // s)]
        return window

    def _decode(self, factor: int) -> None:
        # Pillow takes four bytes a pixel, and the array three more.
        needed = 7 * (self.size[0] // factor) * (self.size[1] // factor)
        if needed > self._limit:
            msg = (
                f"{Path(self.path).name}, {self.size[0]} x {self.size[1]}, takes {needed:,} bytes to decode at "
                f"1/{factor} and memory_limit is {self._limit:,}: save it as a tiled TIFF, which is read in windows, "
                "or allow more."
            )
            raise CoresetError(msg)
        self._pixels = np.empty((0, 0, 3), dtype=np.uint8)
        with _open(self.path) as picture:
            if factor > 1:
                picture.draft("RGB", (max(1, self.size[1] // factor), max(1, self.size[0] // factor)))
            self._pixels = np.asarray(picture.convert("RGB"))
        self._shrink = max(1, round(self.size[0] / self._pixels.shape[0]))


def _open(path: str) -> Any:
    from PIL import Image

    # Wide scenes are what is asked for here; the limit guards those who do not expect them.
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        return Image.open(path)
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def open_scene(
    scenes: Any,
    *,
    transform: Callable[[Tensor], Tensor] | None = None,
    device: torch.device | str = "cpu",
    memory_limit: int | None = None,
) -> WideScenes:
    """Scenes that are read in windows, for `refine` with ``engine="crop"``.

    TIFF files are read by ``tifffile``, or by ``rasterio`` as other rasters are, where these are installed (extra
    ``[wide]``); ``.npy`` files are mapped; other pictures are decoded whole by Pillow, JPEG at a fraction for coarse
    windows.

    Args:
        scenes: A path, an array ``[H, W, C]``, or a list of either, all of one size.
        transform: Of windows ``[n, C, h, w]`` in [0, 1], such as the model's normalisation.
        device: Where windows go.
        memory_limit: Bytes that Pillow may take to decode; None is half of what is free.

    Raises:
        CoresetError: A file that no reader opens, or that does not fit the limit.
        ValueError: Scenes of different sizes.

    Example:
        >>> scene = open_scene(np.zeros((600, 800, 3), dtype=np.uint8))
        >>> scene.size, scene.crops(torch.tensor([0]), torch.tensor([[0, 0, 800, 600]]), (32, 32)).shape
        ((600, 800), torch.Size([1, 3, 32, 32]))
    """
    listed = list(scenes) if isinstance(scenes, list | tuple) else [scenes]
    return WideScenes([_reader(one, memory_limit) for one in listed], transform, device)


def _reader(scene: Any, memory_limit: int | None) -> WindowReader:
    if isinstance(scene, np.ndarray):
        return ArrayReader(scene)
    path = os.fspath(scene)
    suffix = Path(path).suffix.lower()
    if suffix == ".npy":
        return ArrayReader(np.load(path, mmap_mode="r", allow_pickle=False))
    if suffix in (".tif", ".tiff"):
        for reader in (TiffReader, RasterReader):
            with suppress(ImportError):
                return reader(path)
    try:
        return PillowReader(path, memory_limit)
    except OSError as error:
        msg = f"{path} could not be opened ({error}): give a TIFF (with the extra [wide]), .npy, JPEG or PNG file."
        raise CoresetError(msg) from error
