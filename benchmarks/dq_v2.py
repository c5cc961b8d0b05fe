"""DQ_v2: where random masks fall, what SDA costs, and what bins, SDA and extractors are worth at equal steps.

python -m benchmarks.dq_v2 [--parts masks throughput ablation] [--images 300] [--seeds 3] [--quick] [--append]
"""

import io
import json
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset
from torchvision.transforms import v2

from benchmarks.common import data_folder, example, interleaved, mean_and_spread, parser_of, progress, quiet, show
from lightning_coreset import DQv2, FeatureExtractor, Pool, SDADataset, SelectionContext, select
from lightning_coreset.augmentation.exchange import borders, cells_of
from lightning_coreset.augmentation.masks import foreground_cells, saliency_maps
from lightning_coreset.data import RawImages
from lightning_coreset.features.training import train_classifier

BATCH = 32
QUARTER = 0.25


class Pictures(Dataset):
    """Images in memory with a transform."""

    def __init__(self, images: list[Image.Image], targets: list[int], transform: Any = None) -> None:
        self.images, self.targets, self.transform = images, targets, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = self.images[index]
        return self.transform(image) if self.transform else image, self.targets[index]


class PretrainedSqueezeNet(FeatureExtractor):
    """ImageNet SqueezeNet at 96 pixels, as the CIFAR-10 example embeds."""

    key = "squeezenet, 96 px"

    def __init__(self) -> None:
        self._module = example.choose_embedder(data_folder())

    def module(self) -> nn.Module:
        """The network."""
        return self._module

    def transform(self, normalize: bool = True) -> Any:
        """The example's own."""
        return example.FOR_SQUEEZENET

    def extract(self, inputs: Tensor) -> Tensor:
        """Averaged maps ``[B, 512]``."""
        return self._module(inputs.contiguous(memory_format=torch.channels_last)).mean(dim=(2, 3))


def read_boxes(folder: Path, count: int) -> tuple[Pictures, list[list[list[float]]]]:
    """Photographs of VOC5 until ``count`` boxes are there, and the boxes of each."""
    with zipfile.ZipFile(folder / "voc5" / "voc5.zip") as archive:
        coco = json.loads(archive.read("annotations/train.json"))
        boxes: dict[int, list[list[float]]] = {}
        for entry in coco["annotations"]:
            boxes.setdefault(entry["image_id"], []).append(entry["bbox"])
        images, found = [], []
        for entry in coco["images"]:
            if sum(map(len, found)) >= count:
                break
            images.append(Image.open(io.BytesIO(archive.read("images/" + entry["file_name"]))).convert("RGB"))
            found.append(boxes.get(entry["id"], []))
    return Pictures(images, [0] * len(images)), found


def shares(mask: np.ndarray, boxes: list[list[float]]) -> list[tuple[float, bool]]:
    """Foreground share inside each box of an image, and whether the box is under a quarter of it."""
    found = []
    for left, top, width, height in boxes:
        part = mask[
            int(top) : max(int(top) + 1, round(top + height)), int(left) : max(int(left) + 1, round(left + width))
        ]
        if part.size:
            found.append((float(part.mean()), width * height < QUARTER * mask.size))
    return found


def masks(boxes: int, seeds: int, append: bool) -> None:
    """In-box foreground share of random masks against 50 % and against a centred mask of equal area."""
    folder = data_folder()
    if folder is None:
        print("The masks need LIGHTNING_CORESET_DATA: left out.")
        return
    pictures, given = read_boxes(folder, boxes)
    sizes = [(image.height, image.width) for image in pictures.images]
    rows: list[list[object]] = []
    means: list[tuple[float, float, float]] = []
    for seed in range(seeds):
        maps = saliency_maps(RawImages(pictures), torch.arange(len(pictures)), seed=seed)
        inside, whole = [], []
        for saliency, (height, width), own in zip(maps, sizes, given, strict=True):
            cells = cells_of(height, width, 40)
            mask = foreground_cells(saliency, cells).repeat_interleave(borders(height, cells).diff(), 0)
            mask = mask.repeat_interleave(borders(width, cells).diff(), 1).numpy()
            inside += shares(mask, own)
            whole.append(mask.mean())
        means.append(_means(inside, whole))
        rows.append([f"random CNN, seed {seed}", *(f"{100 * value:.1f}" for value in means[-1])])
    columns = [[100 * value for value in column] for column in zip(*means, strict=True)]
    rows.append([f"random CNN, mean of {seeds} seeds", *(mean_and_spread(column, 1) for column in columns)])
    inside, whole = [], []
    for (height, width), own in zip(sizes, given, strict=True):
        mask = np.zeros((height, width), dtype=bool)
        down, right = (round(side * (1 - 0.5**0.5) / 2) for side in (height, width))
        mask[down : height - down, right : width - right] = True
        inside += shares(mask, own)
        whole.append(mask.mean())
    rows.append(["centred rectangle", *(f"{100 * value:.1f}" for value in _means(inside, whole))])
    rows.append(["anywhere (expected)", "50.0", "50.0", "50.0"])
    small = sum(is_small for _, is_small in inside)
    note = (
        f"VOC5, {len(pictures)} photographs, {len(inside)} boxes, {small} of them under a quarter of their image. Mean "
        "share of a box's pixels that are foreground, %, and foreground share of whole images."
    )
    show("DQ_v2, where random masks fall", note, ["mask", "all boxes", "boxes < 1/4", "image"], rows, append)


def _means(inside: list[tuple[float, bool]], whole: list[float]) -> tuple[float, float, float]:
    small = [share for share, is_small in inside if is_small]
    return float(np.mean([share for share, _ in inside])), float(np.mean(small)), float(np.mean(whole))


def throughput(count: int, rounds: int, append: bool) -> None:
    """SDA images in a second, and a forward pass of a ViT-L on the same machine."""
    sets = {"CIFAR-10, 32 px": cifar10(count, 1)[0]}
    folder = data_folder()
    if folder is not None:
        sets["VOC5, 320 px"] = read_boxes(folder, count * 2)[0]
    network = timm.create_model("vit_large_patch16_224", pretrained=False).eval()
    batch = torch.rand(8, 3, 224, 224)
    rows: list[list[object]] = []
    for name, pictures in sets.items():
        pictures = Pictures(pictures.images[:count], pictures.targets[:count])
        expanded = SDADataset(pictures, augment=1.0)
        last = range(len(pictures), len(expanded))

        def look(pictures: Pictures = pictures) -> None:
            saliency_maps(RawImages(pictures), torch.arange(len(pictures)))

        def make(expanded: SDADataset = expanded, last: range = last) -> None:
            for item in last:
                expanded.image(item)

        with torch.inference_mode():
            seconds = interleaved({"look": look, "make": make, "vit": lambda: network(batch)}, rounds)
        looking, making = min(seconds["look"]) / len(pictures), min(seconds["make"]) / len(pictures)
        large = min(seconds["vit"]) / len(batch)
        told = [f"{1 / making:.0f}", f"{1 / (looking + making):.1f}", f"{1 / large:.2f}"]
        rows.append([name, *told, f"{100 * making / large:.2f} %", f"{100 * (looking + making) / large:.1f} %"])
    note = (
        f"{count} images; ViT-L/16 at 224 pixels, random weights, batch 8, one forward pass (an MAE that reconstructs "
        "needs its decoder on top). With mask: the ResNet-50 pass that each SDA image needs once, included; without: "
        "what each later read costs. Best of interleaved rounds; the paper claims 75 % less than MAE."
    )
    header = ["images", "SDA / s", "SDA with mask / s", "ViT-L / s", "SDA of ViT-L", "SDA with mask of ViT-L"]
    show("DQ_v2, cost of SDA", note, header, rows, append)


def cifar10(train: int, test: int) -> tuple[Pictures, Pictures]:
    """The first images of CIFAR-10."""
    both = example.read_cifar10(data_folder(), Path("coresets/cifar10"))
    parts = []
    for part, count, transform in zip(both, (train, test), (example.FOR_TRAINING, example.FOR_TESTING), strict=True):
        raw = RawImages(part)
        parts.append(Pictures([raw[item].convert("RGB") for item in range(count)], part.targets[:count], transform))
    return parts[0], parts[1]


def pneumonia(train: int, test: int) -> tuple[Pictures, Pictures] | None:
    """The first images of PneumoniaMNIST; no flips: hearts are on the left."""
    folder = data_folder()
    if folder is None:
        return None
    normalize = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(example.MEAN, example.DEVIATION)]
    parts = []
    with np.load(folder / "pneumoniamnist" / "pneumoniamnist.npz") as arrays:
        for name, count, first in (("train", train, [v2.RandomCrop(28, padding=3)]), ("test", test, [])):
            images = [Image.fromarray(image).convert("RGB") for image in arrays[f"{name}_images"][:count]]
            targets = arrays[f"{name}_labels"].flatten()[:count].astype(int).tolist()
            parts.append(Pictures(images, targets, v2.Compose(first + normalize)))
    return parts[0], parts[1]


def accuracy(view: Any, labels: Tensor, test: Pictures, classes: int, epochs: int, seed: int) -> float:
    """Test accuracy in percent of a ResNet-20 from scratch."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = example.ResNet20(classes)
    train_classifier(network, view, labels, epochs=epochs, batch_size=BATCH, learning_rate=0.1, seed=seed)
    right = 0
    with torch.inference_mode():
        for start in range(0, len(test), 200):
            items = [test[item] for item in range(start, min(start + 200, len(test)))]
            found = network(torch.stack([image for image, _ in items])).argmax(1)
            right += int((found == torch.tensor([label for _, label in items])).sum())
    return 100 * right / len(test)


def ablation(given: Any) -> None:
    """Bins, SDA and extractors on two real sets, at equal numbers of optimizer steps."""
    extractors = {"proxy": "proxy", "random net": "random", "pretrained": PretrainedSqueezeNet()}
    settings = [("graph_cut", name, augment) for name in extractors for augment in (0.0, 0.5)]
    settings += [(binning, "-", augment) for binning in ("random", "uniform") for augment in (0.0, 0.5)]
    cache = str(given.cache / "dq_v2")
    for title, parts in (
        ("CIFAR-10", cifar10(given.images, given.test)),
        ("PneumoniaMNIST", pneumonia(given.images, 624)),
    ):
        if parts is None:
            print(f"{title} needs LIGHTNING_CORESET_DATA: left out.")
            continue
        train, test = parts
        labels = torch.tensor(train.targets)
        classes = int(labels.max()) + 1
        results: dict[tuple[str, str, str], list[float]] = {}
        made: dict[tuple[str, str, str], list[float]] = {}
        started = time.perf_counter()
        for seed in range(given.seeds):
            plain = select(torch.zeros(len(train), 1), labels, method="random", ratio=given.ratio, seed=seed)
            steps = given.epochs * -(-len(plain) // BATCH)
            views = {("plain random", "-", "no"): (Subset(train, sorted(plain.indices.tolist())), plain)}
            for binning, name, augment in settings:
                selector = DQv2(
                    augment=augment,
                    binning=binning,
                    extractor=extractors.get(name, "proxy"),
                    proxy_epochs=given.proxy_epochs,
                )
                coreset = selector.select(
                    Pool(images=train, labels=labels), len(plain), seed=seed, context=SelectionContext(cache=cache)
                )
                key = (f"{binning} bins", name, "yes" if augment else "no")
                made.setdefault(key, []).append(100 * float((coreset.indices >= len(train)).float().mean()))
                views[key] = (selector.train_view(train, coreset), coreset)
            for key, (view, coreset) in views.items():
                order = coreset.indices.argsort()
                score = accuracy(view, coreset.labels[order], test, classes, given.epochs, seed)
                results.setdefault(key, []).append(score)
                progress(title, seed, key, f"{score:.1f}", f"{time.perf_counter() - started:.0f} s")
        rows = [
            [*key, f"{np.mean(made[key]):.0f} %" if key in made else "0 %", mean_and_spread(values)]
            for key, values in results.items()
        ]
        note = (
            f"First {len(train)} train images, {len(plain)} kept ({given.ratio:.0%}), {len(test)} test images; "
            f"ResNet-20 from scratch, {steps} steps of SGD, batch {BATCH} at most, for every row; proxy of "
            f"{given.proxy_epochs} epochs; seeds 0 to {given.seeds - 1} of selection and training. Test accuracy %, "
            "± deviation. Small on purpose (minutes of CPU): differences below two deviations say nothing."
        )
        header = ["bins", "extractor", "SDA", "SDA among the kept", "accuracy"]
        show(f"DQ_v2, ablation on {title}", note, header, rows, given.append)


def main() -> None:
    """All parts, or some."""
    parser = parser_of(__doc__)
    parser.add_argument("--parts", nargs="+", default=["masks", "throughput", "ablation"])
    parser.add_argument("--images", type=int, default=300, help="train images of the ablation")
    parser.add_argument("--test", type=int, default=1_000, help="test images of CIFAR-10")
    parser.add_argument("--ratio", type=float, default=0.3)
    parser.add_argument("--epochs", type=int, default=25, help="of the ResNet-20 on what was kept")
    parser.add_argument("--proxy-epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    quiet()
    if given.quick:
        given.images, given.test, given.epochs, given.proxy_epochs, given.seeds = 40, 20, 1, 1, 1
    if "masks" in given.parts:
        masks(10 if given.quick else 520, 2 if given.quick else 5, given.append)
    if "throughput" in given.parts:
        throughput(8 if given.quick else 32, 1 if given.quick else 2, given.append)
    if "ablation" in given.parts:
        ablation(given)


if __name__ == "__main__":
    main()
