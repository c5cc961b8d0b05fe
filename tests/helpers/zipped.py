"""The real detection sets, read from their zip files in place."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

from PIL import Image
from torch.utils.data import Dataset

_PLACES = {
    "voc5": ("images/{name}", "annotations/{split}.json"),
    "neu_det": ("images/{name}", "annotations/{split}.json"),
    "tiny_coco": ("images/{split}/{name}", "annotations/instances_{split}.json"),
}


class _Index:
    """What is used of pycocotools' index."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.dataset = content


class ZippedCoco(Dataset[Any]):
    """A set in the form of torchvision's `CocoDetection`: an image and the list of its annotations."""

    def __init__(self, folder: Path, name: str, split: str) -> None:
        self.path = folder / name / f"{name}.zip"
        images, annotations = _PLACES[name]
        self._place = images.replace("{split}", split)
        with zipfile.ZipFile(self.path) as archive:
            content = json.loads(archive.read(annotations.format(split=split)))
        self.coco = _Index(content)
        self.ids = sorted(image["id"] for image in content["images"])
        self._files = {image["id"]: image["file_name"] for image in content["images"]}
        self._annotations: dict[int, list[Any]] = {image: [] for image in self.ids}
        for entry in content["annotations"]:
            self._annotations[entry["image_id"]].append(entry)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[Image.Image, list[Any]]:
        image = self.ids[index]
        # Opened anew, so that workers do not share a file position.
        with zipfile.ZipFile(self.path) as archive:
            data = archive.read(self._place.format(name=self._files[image]))
        return Image.open(io.BytesIO(data)).convert("RGB"), self._annotations[image]
