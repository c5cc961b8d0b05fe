"""YOLO text folders: a label file for each image, boxes relative to the image."""

from pathlib import Path

import torch
import yaml
from PIL import Image

from lightning_coreset.detection.rows import ImageTarget

_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
_NAME_FILES = ("classes.txt", "obj.names", "labels.txt")


def read_yolo(folder: Path) -> tuple[list[ImageTarget], list[str] | None]:
    """Targets of the images of a folder in alphabetical order, and the names of classes where a file tells them.

    Only the headers of images are read, for their size. An image without a label file shows nothing.

    Args:
        folder: It holds ``images`` and ``labels`` (alike inside), or images with their label files beside them; names
            stand in ``data.yaml`` or, one a line, in ``classes.txt``.

    Raises:
        ValueError: No images, or a line that is no label; file and line are named.
    """
    targets = [_target(folder, image) for image in yolo_images(folder)]
    return targets, _class_names(folder)


def yolo_images(folder: Path) -> list[Path]:
    """The images of a YOLO folder in alphabetical order.

    Raises:
        ValueError: There are none.
    """
    root = folder / "images" if (folder / "images").is_dir() else folder
    images = sorted(path for path in root.rglob("*") if path.suffix.lower() in _SUFFIXES)
    if not images:
        msg = f"{folder} holds no images: give the folder above images/ and labels/."
        raise ValueError(msg)
    return images


def _target(folder: Path, image: Path) -> ImageTarget:
    labels = image.with_suffix(".txt")
    if (folder / "images").is_dir():
        labels = folder / "labels" / image.relative_to(folder / "images").with_suffix(".txt")
    with Image.open(image) as opened:
        width, height = opened.size
    boxes: list[list[float]] = []
    classes: list[int] = []
    lines = labels.read_text(encoding="utf-8").splitlines() if labels.exists() else []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            kind, *values = (float(word) for word in line.split())
            corners = _corners(values)
        except ValueError as error:
            msg = (
                f"{labels}, line {number}, is {line[:60]!r}; 'class x y width height' or 'class x1 y1 x2 y2 x3 y3 ...' "
                "in shares of the image is accepted: mend the line."
            )
            raise ValueError(msg) from error
        boxes.append([corner * side for corner, side in zip(corners, (width, height) * 2, strict=True)])
        classes.append(int(kind))
    return ImageTarget(
        boxes=torch.tensor(boxes).reshape(-1, 4),
        labels=torch.tensor(classes, dtype=torch.int64),
        crowd=torch.zeros(len(boxes), dtype=torch.bool),
        size=(height, width),
    )


def _corners(values: list[float]) -> list[float]:
    if len(values) in (4, 5):
        # A fifth number is the confidence of a detector.
        x, y, width, height = values[:4]
        return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    if len(values) < 6 or len(values) % 2:
        msg = f"{len(values)} numbers"
        raise ValueError(msg)
    return [min(values[0::2]), min(values[1::2]), max(values[0::2]), max(values[1::2])]


def _class_names(folder: Path) -> list[str] | None:
    for name in ("data.yaml", "data.yml", "dataset.yaml"):
        if (folder / name).exists():
            names = (yaml.safe_load((folder / name).read_text(encoding="utf-8")) or {}).get("names")
            if names:
                return [str(names[key]) for key in sorted(names)] if isinstance(names, dict) else list(map(str, names))
    for name in _NAME_FILES:
        if (folder / name).exists():
            return [line.strip() for line in (folder / name).read_text(encoding="utf-8").splitlines() if line.strip()]
    return None
