"""From a pool of images to annotators and back, twice: files out, labels in, and a loop that waits meanwhile.

Real digits, written as image files. Round 0 goes out as a CSV that somebody fills in, round 1 as Label Studio tasks of
which its JSON export comes back; here a few lines of Python stand in for the people. Each time the loop ends in good
order because labels are awaited, and goes on when it is started again. The same from a shell:

    lightning-coreset label status to_label
    lightning-coreset label ingest to_label export.json

    python examples/12_labels_there_and_back.py [--budget 30] [--epochs 20] [--folder to_label]
"""

import argparse
import csv
import json
import logging
import random
import tempfile
import warnings
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_coreset import ActiveLearningDataModule
from lightning_coreset.active import ActiveLearningLoop, ExportToLabel

POOL_ITEMS, TEST_ITEMS = 300, 300
NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


class DigitFiles(Dataset):
    """Images in files whose digits nobody has written down: the target is -1."""

    def __init__(self, paths: list[Path]) -> None:
        self.files = [str(path) for path in paths]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with Image.open(self.files[index]) as image:
            return torch.tensor(np.asarray(image), dtype=torch.float32)[None] / 255, -1


class Digits(pl.LightningDataModule):
    """The pool, and a small set with labels to validate on."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def setup(self, stage: str) -> None:
        """Write the images once; read the held-out ones from scikit-learn."""
        images, labels = load_digits(return_X_y=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        paths = [self.folder / f"digit {place:03}.png" for place in range(POOL_ITEMS)]
        for path, image in zip(paths, images, strict=False):
            if not path.exists():
                Image.fromarray((image.reshape(8, 8) * 255 / 16).astype(np.uint8)).save(path)
        self.train = DigitFiles(paths)
        rows = torch.tensor(images[-TEST_ITEMS:], dtype=torch.float32).view(-1, 1, 8, 8) / 16
        self.held_out = torch.utils.data.TensorDataset(rows, torch.tensor(labels[-TEST_ITEMS:]))

    def train_dataloader(self) -> DataLoader:
        """The pool."""
        return DataLoader(self.train, batch_size=16, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        """Items that are never asked for."""
        return DataLoader(self.held_out, batch_size=TEST_ITEMS)


class Network(pl.LightningModule):
    """Two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        return self.layers(images)

    def training_step(self, batch: list[Tensor]) -> Tensor:
        """Cross-entropy of a batch."""
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor]) -> None:
        """Share of digits read rightly."""
        self.log("accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain Adam."""
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def fill_in(request: Path, filled: Path, truth: list[int]) -> None:
    """Somebody with a spreadsheet: writes a label in each row, and gives one image up."""
    with request.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with filled.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        for place, row in enumerate(rows):
            said = {"status": "skip"} if place == 0 else {"label": NAMES[truth[int(row["id"])]]}
            table.writerow(row | said)


def annotate(tasks: Path, export: Path, truth: list[int]) -> None:
    """Label Studio: what it exports as JSON when somebody chose a class for each image, and skipped one."""
    found = json.loads(tasks.read_text())
    random.Random(0).shuffle(found)
    for number, task in enumerate(found):
        chosen = {"choices": [NAMES[truth[task["data"]["id"]]]]}
        region = {"type": "choices", "from_name": "label", "to_name": "image", "value": chosen}
        skipped = number == 0
        task |= {"id": number, "annotations": [{"result": [] if skipped else [region], "was_cancelled": skipped}]}
    export.write_text(json.dumps(found))


def main() -> None:
    """Three starts of one loop, with people in between."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)

    folder = given.folder or Path(tempfile.mkdtemp())
    truth = load_digits(return_X_y=True)[1].tolist()
    oracle = ExportToLabel(folder / "to_label", formats=("csv", "label_studio"), class_names=NAMES)

    def start() -> list[dict]:
        datamodule = ActiveLearningDataModule(
            Digits(folder / "images"), initial="typiclust", budget=given.budget, oracle=oracle, features="pixels"
        )
        trainer = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        return ActiveLearningLoop(
            lambda: pl.Trainer(
                max_epochs=given.epochs,
                accelerator="cpu",
                default_root_dir=folder,
                enable_model_summary=False,
                **trainer,
            ),
            Network,
            datamodule,
            query="margin",
            rounds=2,
            budget=given.budget,
            monitor="accuracy",
        ).run()

    print(f"Rounds trained at the first start: {len(start())}; asked for: {oracle.status()['pending']} images")
    requests = folder / "to_label" / "round_0"
    print("Files:", ", ".join(sorted(path.name for path in requests.iterdir())))
    fill_in(requests / "request.csv", folder / "filled.csv", truth)
    print("A filled CSV:", oracle.ingest(folder / "filled.csv").summary)

    (line,) = start()
    print(f"Round 0, trained at the second start: {line['images']} images, accuracy {line['metric']:.3f}")
    annotate(folder / "to_label" / "round_1" / "label_studio_tasks.json", folder / "export.json", truth)
    print("An export of Label Studio:", oracle.ingest(folder / "export.json").summary)
    print("The same file again:", oracle.ingest(folder / "export.json").summary)

    line = start()[-1]
    print(f"Round 1, trained at the third start: {line['images']} images, accuracy {line['metric']:.3f}")
    print("Status:", json.dumps(oracle.status()))


if __name__ == "__main__":
    main()
