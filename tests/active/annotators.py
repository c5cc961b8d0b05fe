"""People who label: what they make of the files of a request, each tool in its own way."""

import csv
import io
import json
import random
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

NAMES = ["cat", 'dog "big"', "Füchse, rot", "line\nbreak", "<b>&amp;", "7"]
PIECES = [
    "a",
    "ü",
    "猫",
    ",",
    '"',
    "'",
    "\n",
    "\r",
    "\t",
    ";",
    " ",
    "&",
    "<",
    "%",
    "#",
    "=1+1",
    ".",
    "é",
    "🙂",
    "\u2028",
]


class Files(Dataset):
    """Images in files, some of whose names are in several folders."""

    def __init__(self, paths: list[Path]) -> None:
        self.samples = [(str(path), 0) for path in paths]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        return torch.zeros(1, 4, 4), 0


def image_files(folder: Path, draw: random.Random, count: int) -> list[Path]:
    """Tiny images under awkward names; one in four shares its name with another one in another folder."""
    paths: list[Path] = []
    content = io.BytesIO()
    Image.new("L", (40, 25)).save(content, format="PNG")
    for place in range(count):
        name = "".join(draw.choices(PIECES, k=draw.randint(1, 6))) + ".png"
        if paths and draw.random() < 0.25:
            name = draw.choice(paths).name
        path = folder / f"part {place}" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(content.getvalue())
        paths.append(path)
    return paths


def drawn_boxes(draw: random.Random, count: int) -> dict[str, Tensor]:
    rows = []
    for _ in range(count):
        left, top = draw.uniform(0, 30), draw.uniform(0, 15)
        rows.append([left, top, left + draw.uniform(1, 10), top + draw.uniform(1, 10)])
    labels = [draw.randrange(len(NAMES)) for _ in range(count)]
    return {"boxes": torch.tensor(rows).reshape(-1, 4), "labels": torch.tensor(labels, dtype=torch.int64)}


class Annotator:
    """Fills in the files of a request as its tool would; says what should have become of each item."""

    def __init__(self, folder: Path, draw: random.Random, boxes: bool, names: list[str] = NAMES) -> None:
        self.folder, self.draw, self.boxes, self.names = folder, draw, boxes, names
        self.items = json.loads((folder / "request.json").read_text())["items"]
        self.said: dict[Any, Any] = {}
        for item in self.items:
            word = draw.choice(["done", "done", "done", "empty", "skip", "open"])
            if word == "done":
                self.said[item["id"]] = self._drawn() if boxes else draw.randrange(len(names))
            elif word == "empty" and boxes:
                self.said[item["id"]] = drawn_boxes(draw, 0)
            else:
                self.said[item["id"]] = "skip" if word == "skip" else "open"

    def _drawn(self) -> dict[str, Tensor]:
        found = drawn_boxes(self.draw, self.draw.randint(1, 4))
        return found | {"labels": found["labels"] % len(self.names)}

    def csv(self) -> bytes:
        text = io.StringIO(newline="")
        with (self.folder / "request.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        table = csv.DictWriter(text, rows[0])
        table.writeheader()
        by_text = {str(name): said for name, said in self.said.items()}
        for row in rows:
            said = by_text[row["id"]]
            if isinstance(said, str):
                table.writerow(row | ({"status": "skip"} if said == "skip" else {}))
            elif not self.boxes:
                table.writerow(row | {"label": self.names[said]})
            elif not len(said["labels"]):
                table.writerow(row | {"status": "done"})
            else:
                for box, label in zip(said["boxes"].tolist(), said["labels"].tolist(), strict=True):
                    corners = dict(zip(("x_min", "y_min", "x_max", "y_max"), map(repr, box), strict=True))
                    table.writerow(row | corners | {"label": self.names[label]})
        return text.getvalue().encode()

    def coco(self) -> bytes:
        found = json.loads((self.folder / "request.coco.json").read_text())
        self.draw.shuffle(found["categories"])
        for image in found["images"]:
            said = self.said[image["global_id"]]
            image["reviewed"] = not isinstance(said, str)
            image["skipped"] = said == "skip"
            if isinstance(said, str):
                continue
            objects = (
                zip(said["boxes"].tolist(), said["labels"].tolist(), strict=True) if self.boxes else [([0.0] * 4, said)]
            )
            for box, label in objects:
                found["annotations"].append(
                    {
                        "id": len(found["annotations"]) + 1,
                        "image_id": image["id"],
                        "category_id": label,
                        "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                    }
                )
        return json.dumps(found).encode()

    def label_studio(self) -> bytes:
        found = json.loads((self.folder / "label_studio_tasks.json").read_text())
        for number, task in enumerate(found):
            said = self.said[task["data"]["id"]]
            task |= {"id": 1000 + number, "annotations": []}
            if said == "open":
                continue
            result = [] if said == "skip" else self.result_of(said)
            if said != "skip" and self.draw.random() < 0.3:
                # Somebody else's first try, and one that was cancelled: the newest finished one counts.
                task["annotations"] += [
                    {"result": [], "was_cancelled": False, "updated_at": "2026-01-01T00:00:00Z"},
                    {"result": [], "was_cancelled": True, "updated_at": "2026-03-01T00:00:00Z"},
                ]
            task["annotations"].append(
                {"result": result, "was_cancelled": said == "skip", "updated_at": "2026-02-01T00:00:00Z"}
            )
        return json.dumps(found, ensure_ascii=False).encode()

    def result_of(self, said: Any) -> list[dict[str, Any]]:
        common = {"from_name": "label", "to_name": "image", "original_width": 40, "original_height": 25}
        if not self.boxes:
            return [{"type": "choices", **common, "value": {"choices": [self.names[said]]}}]
        return [
            {
                "type": "rectanglelabels",
                **common,
                "value": {
                    "x": 100 * box[0] / 40,
                    "y": 100 * box[1] / 25,
                    "width": 100 * (box[2] - box[0]) / 40,
                    "height": 100 * (box[3] - box[1]) / 25,
                    "rotation": 0,
                    "rectanglelabels": [self.names[label]],
                },
            }
            for box, label in zip(said["boxes"].tolist(), said["labels"].tolist(), strict=True)
        ]
