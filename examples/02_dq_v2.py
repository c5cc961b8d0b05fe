"""Choose a fifth of some photographs and of their SDA images, and look at what SDA makes.

Dataset quantization (DQ_v2) gives half of the images a second one: the half of its cells in which a randomly
initialised network finds most stays, all other cells come from backgrounds of other images. Then it splits the larger
pool into bins by graph cut and draws from each. Prints what was chosen and draws original, mask and SDA image at
several grids; ``--folder`` also writes the chosen SDA images as files.

    python examples/02_dq_v2.py             # minutes: a proxy network trains on the pool first
    python examples/02_dq_v2.py --quick     # fewer images, an untrained network, seconds

Photographs come from the folder named by LIGHTNING_CORESET_DATA (``voc5/voc5.zip``); without it, and with ``--quick``,
pieces of scikit-learn's two sample photographs take their place.
"""

import argparse
import io
import json
import logging
import os
import zipfile
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images
from torch.utils.data import Dataset
from torchvision.transforms import v2

from lightning_coreset import CoresetDataModule, SDADataset
from lightning_coreset.augmentation import export_images
from lightning_coreset.augmentation.exchange import borders

matplotlib.use("Agg")
import matplotlib.pyplot as plt

GRIDS = (4, 10, 20, 40)
PIECE = 128


class Photographs(Dataset):
    """Decoded photographs, as somebody's own dataset would read them from a folder."""

    def __init__(self, images: list[Image.Image], targets: list[int], classes: list[str]) -> None:
        self.images, self.targets, self.classes = images, targets, classes
        self.transform: Any = None

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = self.images[index]
        return self.transform(image) if self.transform else image, self.targets[index]


def read_photographs(folder: Path | None, count: int) -> Photographs:
    """The first photographs of VOC5 with the class of their largest box, or pieces of two sample photographs."""
    if folder is None:
        pictures = load_sample_images().images
        images, targets = [], []
        for place in range(count):
            picture = pictures[place % 2]
            top, left = 61 * place % (picture.shape[0] - PIECE), 97 * place % (picture.shape[1] - PIECE)
            images.append(Image.fromarray(picture[top : top + PIECE, left : left + PIECE]))
            targets.append(place % 2)
        return Photographs(images, targets, ["temple", "flower"])
    with zipfile.ZipFile(folder / "voc5" / "voc5.zip") as archive:
        coco = json.loads(archive.read("annotations/train.json"))
        largest: dict[int, Any] = {}
        for box in coco["annotations"]:
            best = largest.get(box["image_id"])
            if best is None or np.prod(box["bbox"][2:]) > np.prod(best["bbox"][2:]):
                largest[box["image_id"]] = box
        names = [category["name"] for category in sorted(coco["categories"], key=lambda category: category["id"])]
        numbers = sorted(category["id"] for category in coco["categories"])
        kept = [entry for entry in coco["images"] if entry["id"] in largest][:count]
        images = [Image.open(io.BytesIO(archive.read("images/" + entry["file_name"]))).convert("RGB") for entry in kept]
        targets = [numbers.index(largest[entry["id"]]["category_id"]) for entry in kept]
    return Photographs(images, targets, names)


def with_background_dimmed(image: Image.Image, mask: Any) -> Any:
    """An image whose background cells are dark: what the random network did not find."""
    cells = len(mask)
    rows, columns = borders(image.height, cells).diff(), borders(image.width, cells).diff()
    shown = mask.repeat_interleave(rows, 0).repeat_interleave(columns, 1).numpy()
    return (np.asarray(image) * np.where(shown, 1.0, 0.25)[:, :, None]).astype(np.uint8)


def draw(photographs: Photographs, path: Path, rows: int, cache: Path | None) -> None:
    """A row for each of some photographs: original, mask, and SDA at several grids."""
    pools = [SDADataset(photographs, grid=grid, cache_dir=cache) for grid in GRIDS]
    figure, axes = plt.subplots(rows, 2 + len(GRIDS), figsize=(2.1 * (2 + len(GRIDS)), 1.9 * rows), squeeze=False)
    for axis, title in zip(
        axes[0], ["original", "mask, 40 cells", *(f"SDA, {grid} cells" for grid in GRIDS)], strict=True
    ):
        axis.set_title(title, fontsize=9)
    for row in range(rows):
        item = len(photographs) + row * len(pools[0].parents) // rows
        original = pools[0].image(pools[0].parent_of(item))
        shown = [
            original,
            with_background_dimmed(original, pools[-1].mask(item)),
            *(pool.image(item) for pool in pools),
        ]
        for axis, image in zip(axes[row], shown, strict=True):
            axis.imshow(image)
            axis.axis("off")
    figure.tight_layout(pad=0.3)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main() -> None:
    """Draw the picture, choose, say what was chosen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="24 images, an untrained network: only to see that it runs"
    )
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--ratio", type=float, default=0.2)
    parser.add_argument("--proxy-epochs", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("dq_v2.png"))
    parser.add_argument("--cache", type=Path, help="keep what networks saw and learnt in this folder")
    parser.add_argument("--folder", type=Path, help="write the chosen SDA images below this folder")
    given = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    named = os.environ.get("LIGHTNING_CORESET_DATA")
    folder = Path(named) if named and not given.quick else None
    photographs = read_photographs(folder, 24 if given.quick else given.images)
    draw(photographs, given.output, 4, given.cache)
    print(f"Picture: {given.output}")

    # Whatever transform somebody has goes after SDA.
    photographs.transform = v2.Compose([v2.Resize((PIECE, PIECE)), v2.RandomHorizontalFlip(), v2.PILToTensor()])
    arguments = {"extractor": "random" if given.quick else "proxy", "proxy_epochs": given.proxy_epochs}
    datamodule = CoresetDataModule(
        photographs, method="dq_v2", method_args=arguments, ratio=given.ratio, batch_size=8, cache_dir=given.cache
    )
    datamodule.setup("fit")
    coreset = datamodule.coreset
    made = coreset.indices >= len(photographs)
    parents = set(coreset.details["parent"])
    print(f"{len(coreset)} of {len(photographs)} images in {coreset.manifest['seconds']:.1f} s, embedded by:")
    print(f"  {coreset.manifest['resolved']['features']}")
    print(f"  {int((~made).sum())} originals, {int(made.sum())} SDA images, of {len(parents)} photographs")
    for label, name in enumerate(photographs.classes):
        of_class = coreset.labels == label
        print(f"  {name:8} {int(of_class.sum()):4} chosen, {int((of_class & made).sum()):4} of them SDA images")
    if given.folder:
        expanded = SDADataset(photographs, cache_dir=given.cache)
        print(f"{len(export_images(expanded, coreset, given.folder))} files below {given.folder}")


if __name__ == "__main__":
    main()
