"""Names, files and sizes of a dataset's images, for people who are going to look at them."""

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset

from lightning_coreset.active.pool import Id
from lightning_coreset.data.targets import read_labels
from lightning_coreset.data.views import RawImages, random_state_kept
from lightning_coreset.errors import CoresetError

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")
_COLUMNS = ("samples", "_samples", "imgs", "image_files", "image_paths", "paths", "files", "filenames", "images")


@dataclass(frozen=True)
class Item:
    """One image that somebody is asked to label.

    Attributes:
        id: Its global id.
        position: Its position in the dataset.
        name: What people see: the file's name, or the id.
        file: Where the image lies; None where it could not be written.
        width: In pixels; None where nobody knows.
        height: In pixels.
        reserve: Whether it is asked for only in case that others cost less than expected.
    """

    id: Id
    position: int
    name: str
    file: str | None
    width: int | None = None
    height: int | None = None
    reserve: bool = False

    def plain(self) -> dict[str, Any]:
        """In JSON types."""
        return asdict(self)


class ImageFiles(Dataset[Any]):
    """The images below a folder, in the order of their paths; an item is ``(image,)`` as PIL reads it.

    Args:
        folder: Where they lie, in any depth.

    Attributes:
        files: Their paths.
        names: The same, relative to the folder.

    Raises:
        CoresetError: No image lies there.
    """

    def __init__(self, folder: str | Path) -> None:
        found = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in _SUFFIXES)
        if not found:
            msg = f"No image lies below {folder}: give a folder with {', '.join(_SUFFIXES)} files."
            raise CoresetError(msg)
        self.files = [str(path) for path in found]
        self.names = [path.relative_to(folder).as_posix() for path in found]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Image.Image]:
        """One image."""
        with Image.open(self.files[index]) as image:
            return (image.convert("RGB"),)


def describe(dataset: Any, name: Id, position: int, images: Path, *, reserve: bool = False) -> Item:
    """An item with its file; an image that has none is written below ``images``, under its position."""
    file = file_of(dataset, position)
    if file is not None:
        width, height = _size(file)
        return Item(name, position, Path(file).name, file, width, height, reserve)
    with random_state_kept():
        picture = _picture(dataset, position)
    if picture is None:
        return Item(name, position, str(name), None, reserve=reserve)
    images.mkdir(parents=True, exist_ok=True)
    target = images / f"{position:08d}.png"
    content = io.BytesIO()
    picture.save(content, format="PNG")
    target.write_bytes(content.getvalue())
    # A name that the user gave says more than a number.
    shown = target.name if isinstance(name, int) else name
    return Item(name, position, shown, str(target), *picture.size, reserve)


def file_of(dataset: Any, position: int) -> str | None:
    """The file behind an item, through subsets, concatenations and wrappers; None where none is known.

    Example:
        >>> class Folder:
        ...     samples = [("a.png", 0), ("b.png", 1)]
        >>> file_of(Subset(Folder(), [1]), 0)
        'b.png'
    """
    if isinstance(dataset, Subset):
        return file_of(dataset.dataset, int(dataset.indices[position]))
    if isinstance(dataset, ConcatDataset):
        for part in dataset.datasets:
            if position < len(part):  # type: ignore[arg-type]
                return file_of(part, position)
            position -= len(part)  # type: ignore[arg-type]
    coco = getattr(dataset, "coco", None)
    if coco is not None and hasattr(coco, "loadImgs") and hasattr(dataset, "ids"):
        return str(Path(getattr(dataset, "root", ""), coco.loadImgs(dataset.ids[position])[0]["file_name"]))
    for name in _COLUMNS:
        column = getattr(dataset, name, None)
        if isinstance(column, list | tuple) and len(column) > position:
            entry = column[position]
            entry = entry[0] if isinstance(entry, tuple | list) and entry else entry
            if isinstance(entry, str | Path):
                return str(entry)
    inner = getattr(dataset, "dataset", None)
    if inner is not None and hasattr(inner, "__len__") and len(inner) == len(dataset):
        return file_of(inner, position)
    return None


def class_names(given: Any, source: Any, dataset: Any) -> dict[int, str]:
    """Names of classes by the number that targets use.

    Args:
        given: Names in the order of their numbers, or by number; None looks for them.
        source: The datamodule, which may say ``num_classes``.
        dataset: The train items.

    Raises:
        CoresetError: Nothing tells how many classes there are.
    """
    if isinstance(given, Mapping):
        return {int(number): str(name) for number, name in given.items()}
    if given is not None:
        return {number: str(name) for number, name in enumerate(given)}
    coco = getattr(dataset, "coco", None)
    if coco is not None and hasattr(coco, "cats"):
        return {int(number): str(category["name"]) for number, category in coco.cats.items()}
    count = getattr(source, "num_classes", None)
    if not isinstance(count, int):
        labels = read_labels(dataset)
        count = None if labels is None else int(labels.max()) + 1
    if count is None:
        msg = (
            "Nobody said which classes there are, and annotators must choose from them: give class_names= to "
            "ActiveLearningDataModule or to ExportToLabel."
        )
        raise CoresetError(msg)
    return {number: str(number) for number in range(count)}


def _size(file: str) -> tuple[int, int] | tuple[None, None]:
    """Width and height from a file's head; unknown where it lies elsewhere or is no image that PIL knows."""
    try:
        with Image.open(file) as image:
            return image.size
    except OSError:
        return None, None


def _picture(dataset: Any, position: int) -> Image.Image | None:
    """The raw image of an item as a picture, None where it is none."""
    try:
        raw = RawImages(dataset)[position]
    except CoresetError:
        return None
    if isinstance(raw, Image.Image):
        return raw if raw.mode in ("L", "RGB", "RGBA") else raw.convert("RGB")
    array = raw.detach().cpu().numpy().transpose(1, 2, 0) if isinstance(raw, Tensor) and raw.ndim == 3 else raw
    array = np.asarray(array)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        return None
    if array.dtype != np.uint8:
        low, high = float(array.min()), float(array.max())
        # In [0, 1] as torchvision reads them; else stretched, so that somebody can see something.
        scale, shift = (255.0, 0.0) if low >= 0 and high <= 1 else (255.0 / max(high - low, 1e-12), low)
        array = ((array.astype(np.float64) - shift) * scale).round().clip(0, 255).astype(np.uint8)
    return Image.fromarray(array)


def boxes_target(boxes: list[list[float]], labels: list[int]) -> dict[str, Tensor]:
    """The objects of an image: ``boxes [M, 4]`` xyxy in pixels and ``labels [M]``.

    Example:
        >>> boxes_target([], [])["boxes"].shape
        torch.Size([0, 4])
    """
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
    }
