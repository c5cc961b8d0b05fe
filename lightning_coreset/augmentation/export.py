"""SDA images as files, for tools that read folders."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lightning_coreset.augmentation.dataset import SDADataset
from lightning_coreset.augmentation.planes import as_kind, to_planes
from lightning_coreset.coreset import Coreset
from lightning_coreset.data import read_labels
from lightning_coreset.errors import CoresetError


def export_images(
    expanded: SDADataset,
    coreset: Coreset,
    folder: Any,
    *,
    class_names: Sequence[str] | None = None,
    originals: bool = False,
) -> list[Path]:
    """Write the chosen SDA images as PNG files, a folder for each class, as torchvision's ``ImageFolder`` reads them.

    Args:
        expanded: The dataset the coreset was selected from, with its SDA images.
        coreset: What was chosen.
        folder: Where to write; class folders begin with the class's number, so that their order is the classes'.
        class_names: Names to append to these numbers; None takes the dataset's ``classes``, where it has any.
        originals: Write the chosen originals too, so that the folder holds the whole coreset.

    Returns:
        The files, in the order chosen: ``<class>/<item>-of-<parent>.png``.

    Raises:
        CoresetError: An item that the dataset does not have.

    Example:
        >>> import tempfile
        >>> from torch.utils.data import TensorDataset
        >>> images = TensorDataset(torch.rand(4, 3, 28, 28), torch.tensor([0, 0, 1, 1]))
        >>> coreset = Coreset(torch.tensor([5, 0]), torch.ones(2))
        >>> folder = tempfile.mkdtemp()
        >>> [path.parent.name for path in export_images(SDADataset(images), coreset, folder)]
        ['0001']
    """
    if len(coreset) and int(coreset.indices.max()) >= len(expanded):
        msg = (
            f"The coreset holds item {int(coreset.indices.max())} and this dataset has {len(expanded)}: give the "
            "SDADataset it was selected from."
        )
        raise CoresetError(msg)
    labels = coreset.labels
    if labels is None:
        targets = read_labels(expanded)
        labels = torch.zeros_like(coreset.indices) if targets is None else targets[coreset.indices]
    classes = class_names if class_names is not None else getattr(expanded.dataset, "classes", None)
    written = []
    for item, label in zip(coreset.indices.tolist(), labels.tolist(), strict=True):
        if item < expanded.settings.size and not originals:
            continue
        parent = expanded.parent_of(item)
        path = Path(folder, _folder_name(label, classes), f"{item:08d}-of-{parent:08d}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        planes = as_kind(to_planes(expanded.image(item), parent), torch.uint8).permute(1, 2, 0).contiguous().numpy()
        Image.fromarray(np.squeeze(planes, axis=2) if planes.shape[2] == 1 else planes).save(path)
        written.append(path)
    return written


def _folder_name(label: int, classes: Sequence[str] | None) -> str:
    """Names come from the data: nothing in them may lead out of the folder."""
    name = "" if classes is None or label >= len(classes) else re.sub(r"[^\w-]+", "_", str(classes[label])).strip("_")
    return f"{label:04d}_{name}" if name else f"{label:04d}"
