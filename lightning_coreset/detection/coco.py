"""COCO JSON without pycocotools: images, categories and annotations by image."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from lightning_coreset.detection.rows import ImageTarget
from lightning_coreset.storage import read_bytes


class CocoFile:
    """The content of a COCO file, indexed by image.

    Args:
        content: The parsed JSON: ``images``, ``annotations`` and, as a rule, ``categories``.

    Attributes:
        images: Entries of the images by id.
        ids: Ids of the images, ascending, as in torchvision's `CocoDetection`.
        categories: Names by category id.
        annotations: Entries of the annotations by image id.

    Raises:
        ValueError: No images, an id that stands twice, an annotation of an image that is not listed.

    Example:
        >>> file = CocoFile({"images": [{"id": 3, "height": 5, "width": 8}], "annotations": [
        ...     {"image_id": 3, "category_id": 2, "bbox": [1, 1, 4, 2]}], "categories": [{"id": 2, "name": "cat"}]})
        >>> file.target(3).boxes.tolist(), file.categories
        ([[1.0, 1.0, 5.0, 3.0]], {2: 'cat'})
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        try:
            self.images = {image["id"]: image for image in content["images"]}
            self.categories = {entry["id"]: str(entry["name"]) for entry in content.get("categories", [])}
            self.annotations: dict[int, list[Mapping[str, Any]]] = {image: [] for image in self.images}
            entries = list(content["annotations"])
        except (KeyError, TypeError) as error:
            msg = f"A COCO file needs images with ids and annotations ({error!r} is missing): give such a file."
            raise ValueError(msg) from error
        if len(self.images) < len(content["images"]):
            msg = f"A COCO file lists {len(content['images'])} images under {len(self.images)} ids: make ids unique."
            raise ValueError(msg)
        for entry in entries:
            if entry["image_id"] not in self.annotations:
                msg = (
                    f"A COCO annotation belongs to image {entry['image_id']}, which is not among the "
                    f"{len(self.images)} images: add the image or remove the annotation."
                )
                raise ValueError(msg)
            self.annotations[entry["image_id"]].append(entry)
        self.ids = sorted(self.images)

    @classmethod
    def read(cls, path: Any) -> "CocoFile":
        """A file on disk or behind an fsspec URL.

        Raises:
            ValueError: No such file, or not one in COCO's form.
        """
        content = read_json(path)
        if not isinstance(content, Mapping):
            msg = f"{path} is a list, not a COCO file with images and annotations: results belong in a proposer."
            raise ValueError(msg)
        return cls(content)

    def target(self, image: int) -> ImageTarget:
        """What one image shows."""
        entry = self.images[image]
        sized = "height" in entry and "width" in entry
        return self.parse(self.annotations[image], (int(entry["height"]), int(entry["width"])) if sized else None)

    def names(self, ids: Iterable[int]) -> list[str] | None:
        """File names of images; None where one has none."""
        names = [self.images[image].get("file_name") for image in ids]
        return None if any(name is None for name in names) else [str(name) for name in names]

    @staticmethod
    def parse(entries: Sequence[Mapping[str, Any]], size: tuple[int, int] | None = None) -> ImageTarget:
        """The annotations of one image, as `CocoDetection` gives them; boxes are x, y, width, height there."""
        boxes = torch.tensor([entry["bbox"] for entry in entries], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        crowd = [bool(entry.get("iscrowd", 0)) or bool(entry.get("ignore", 0)) for entry in entries]
        return ImageTarget(
            boxes=boxes,
            labels=torch.tensor([entry["category_id"] for entry in entries], dtype=torch.int64),
            crowd=torch.tensor(crowd, dtype=torch.bool),
            size=size,
        )


def read_json(path: Any) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: No such file, or not JSON.
    """
    try:
        return json.loads(read_bytes(path))
    except FileNotFoundError as error:
        msg = f"{path} does not exist: give the path of a COCO JSON file."
        raise ValueError(msg) from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        msg = f"{path} is not JSON ({error}): write it again."
        raise ValueError(msg) from error
