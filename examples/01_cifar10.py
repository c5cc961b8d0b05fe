"""Train on 1 to 30 % of CIFAR-10, chosen by seven methods, and see what it costs.

Every image is embedded once by a SqueezeNet that has seen ImageNet (two to ten minutes on two cores, kept in
``--cache``). Each method chooses from the embeddings, and a Trainer fits a linear layer on the chosen ones, or with
``--network`` a ResNet-20 from scratch on the chosen images, for the same number of optimizer steps. Prints a table and
draws accuracy against the share that was kept.

    python examples/01_cifar10.py             # linear layer: minutes once the embeddings are there
    python examples/01_cifar10.py --network   # ResNet-20 on images: 0.3 s a step on two cores, better on a GPU
    python examples/01_cifar10.py --quick     # a few hundred images, one seed, seconds

Images and weights come from the folder named by LIGHTNING_CORESET_DATA (``cifar10/cifar10_train.npz`` and
``cifar10_test.npz`` of JPEG files, ``weights/squeezenet1_0_imagenet_fp16.pt``); without it torchvision downloads its
own. ``--quick`` never downloads: without the folder it takes scikit-learn's 8 x 8 digits and their pixels.
"""

import argparse
import io
import logging
import os
import statistics
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import matplotlib
import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset
from torchvision.datasets import CIFAR10
from torchvision.models import squeezenet1_0
from torchvision.transforms import v2
from tqdm import tqdm

from lightning_coreset import CoresetDataModule
from lightning_coreset.data import EmbeddingCache, dataset_fingerprint, read_labels, stable_key
from lightning_coreset.features import extract_features, resolve_extractor

matplotlib.use("Agg")
import matplotlib.pyplot as plt

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "subzerocore": ("subzerocore", {}),
    "one_sided": ("subzerocore", {"one_sided": True}),
    "facility_location": ("facility_location", {}),
    "k_center": ("k_center", {}),
    "herding": ("herding", {}),
    "random": ("random", {}),
    "uniform": ("uniform", {}),
}
SEEDED = ("random", "uniform")
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# 96 pixels: SqueezeNet sees little in 32, and 224 cost eight times as much.
FOR_SQUEEZENET = v2.Compose(
    [
        v2.PILToTensor(),
        v2.Resize(96, antialias=True),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(MEAN, DEVIATION),
    ]
)
FOR_TRAINING = v2.Compose(
    [
        v2.RandomCrop(32, padding=4),
        v2.RandomHorizontalFlip(),
        v2.PILToTensor(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(MEAN, DEVIATION),
    ]
)
FOR_TESTING = v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, DEVIATION)])


class PackedJpegs(Dataset):
    """JPEG files joined in one array, as `torchvision.datasets.CIFAR10` would give them."""

    def __init__(self, path: Path, transform: Any = None) -> None:
        with np.load(path) as arrays:
            self.bytes, self.offsets = arrays["jpeg"], arrays["offsets"]
            self.targets = arrays["labels"].astype(np.int64).tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        packed = self.bytes[self.offsets[index] : self.offsets[index + 1]]
        image: Any = Image.open(io.BytesIO(packed.tobytes()))
        return self.transform(image) if self.transform else image, self.targets[index]


class Loaders(pl.LightningDataModule):
    """The datamodule somebody has already, of images or of embeddings: nothing in it knows of coresets."""

    def __init__(self, train: Dataset, test: Dataset, batch_size: int, workers: int = 0) -> None:
        super().__init__()
        self.train, self.test = train, test
        self.batch_size, self.workers = batch_size, workers

    def train_dataloader(self) -> DataLoader:
        """All items of the train set."""
        return DataLoader(self.train, batch_size=self.batch_size, shuffle=True, num_workers=self.workers)

    def test_dataloader(self) -> DataLoader:
        """Items that no method ever sees."""
        return DataLoader(self.test, batch_size=500, num_workers=self.workers)


class Block(nn.Module):
    """Two convolutions; the shortcut takes every second pixel and pads the new channels with zeros."""

    def __init__(self, incoming: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(incoming, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride, self.padding = stride, (channels - incoming) // 2

    def forward(self, images: Tensor) -> Tensor:
        """``[B, C, H, W]``."""
        inner = self.bn2(self.conv2(self.bn1(self.conv1(images)).relu()))
        kept = images[:, :, :: self.stride, :: self.stride]
        return (inner + nn.functional.pad(kept, (0, 0, 0, 0, self.padding, self.padding))).relu()


class ResNet20(nn.Module):
    """The CIFAR network of He et al. 2016."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(Block(16, 16, 1), Block(16, 16, 1), Block(16, 16, 1))
        self.layer2 = nn.Sequential(Block(16, 32, 2), Block(32, 32, 1), Block(32, 32, 1))
        self.layer3 = nn.Sequential(Block(32, 64, 2), Block(64, 64, 1), Block(64, 64, 1))
        self.linear = nn.Linear(64, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, classes]``."""
        maps = self.bn1(self.conv1(images)).relu()
        return self.linear(self.layer3(self.layer2(self.layer1(maps))).mean((2, 3)))


class Classifier(pl.LightningModule):
    """Any network that gives logits, trained for a fixed number of steps."""

    def __init__(self, network: nn.Module, learning_rate: float, steps: int) -> None:
        super().__init__()
        self.network, self.learning_rate, self.steps = network, learning_rate, steps

    def training_step(self, batch: list[Tensor]) -> Tensor:
        """Cross-entropy of a batch."""
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def test_step(self, batch: list[Tensor]) -> None:
        """Share of images recognised."""
        self.log("accuracy", (self.network(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW, its rate up and down once over all steps."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.learning_rate, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def read_cifar10(folder: Path | None, download_to: Path) -> tuple[Dataset, Dataset]:
    """Train set (augmented) and test set, from the folder or by torchvision's download."""
    if folder is not None:
        parts = [folder / "cifar10" / f"cifar10_{part}.npz" for part in ("train", "test")]
        return PackedJpegs(parts[0], FOR_TRAINING), PackedJpegs(parts[1], FOR_TESTING)
    try:
        train = CIFAR10(download_to, train=True, transform=FOR_TRAINING, download=True)
    except (OSError, RuntimeError) as error:
        msg = f"CIFAR-10 could not be downloaded ({error}): name a folder in LIGHTNING_CORESET_DATA, or try --quick."
        raise SystemExit(msg) from None
    return train, CIFAR10(download_to, train=False, transform=FOR_TESTING)


def read_digits() -> tuple[Dataset, Dataset]:
    """Handwritten digits as small colour images, for a quick look without CIFAR-10."""
    images, labels = load_digits(return_X_y=True)
    colour = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8).repeat(1, 3, 1, 1) / 16
    everything = TensorDataset(colour, torch.tensor(labels))
    return Subset(everything, range(600)), Subset(everything, range(600, 900))


def choose_embedder(folder: Path | None) -> nn.Module | str:
    """SqueezeNet with the weights of the folder, or the name that makes torchvision download them."""
    if folder is None:
        return "torchvision/squeezenet1_0"
    state = torch.load(folder / "weights" / "squeezenet1_0_imagenet_fp16.pt", weights_only=True)
    network = squeezenet1_0(weights=None)
    network.load_state_dict({name: values.float() for name, values in state.items()})
    # CPUs convolve twice as fast when the channels of a pixel lie together.
    return network.features.to(memory_format=torch.channels_last)


def embed(dataset: Dataset, features: nn.Module | str, transform: Any, cache: Path, workers: int = 0) -> Tensor:
    """Embeddings ``[N, d]`` of a dataset; those in the cache are not made again."""
    extractor = resolve_extractor(features)
    key = stable_key(dataset_fingerprint(dataset, read_labels(dataset)), extractor.key, str(transform))
    return extract_features(
        dataset,
        extractor,
        torch.arange(len(dataset)),
        transform=transform,
        num_workers=workers,
        cache=EmbeddingCache(cache, key),
        progress=lambda total, text: tqdm(total=total, desc=text, unit=" images"),
    )


def train(source: Loaders, embeddings: Tensor, name: str, ratio: float, seed: int, given: Any) -> tuple[float, float]:
    """Accuracy in percent and seconds of selection of one run."""
    pl.seed_everything(seed, verbose=False)
    datamodule: pl.LightningDataModule = source
    if name != "everything":
        method, arguments = METHODS[name]
        # The one line that changes in a script that trains on everything. Without embeddings made beforehand it would
        # say features="torchvision/squeezenet1_0".
        datamodule = CoresetDataModule(
            source,
            method=method,
            method_args=arguments,
            ratio=ratio,
            features=embeddings,
            cache_dir=given.cache,
            seed=seed if name in SEEDED else 0,
        )
    trainer = pl.Trainer(
        max_steps=given.steps,
        max_epochs=-1,
        accelerator="auto" if given.network else "cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    network = ResNet20() if given.network else nn.Linear(embeddings.shape[1], 10)
    classifier = Classifier(network, 0.01 if given.network else 0.003, given.steps)
    trainer.fit(classifier, datamodule=datamodule)
    accuracy = trainer.test(classifier, datamodule=datamodule, verbose=False)[0]["accuracy"]
    return 100 * accuracy, datamodule.coreset.manifest["seconds"] if name != "everything" else 0.0


def draw(accuracies: dict[str, dict[float, list[float]]], everything: float, path: Path) -> None:
    """Accuracy against the share that was kept, a line for each method."""
    figure, axis = plt.subplots(figsize=(7, 4.5))
    for name, by_ratio in accuracies.items():
        middle = [statistics.mean(runs) for runs in by_ratio.values()]
        spread = [statistics.stdev(runs) if len(runs) > 1 else 0.0 for runs in by_ratio.values()]
        style = "--" if name in SEEDED else "-"
        axis.errorbar([100 * ratio for ratio in by_ratio], middle, spread, fmt=f"o{style}", ms=4, capsize=2, label=name)
    axis.axhline(everything, color="black", linewidth=0.8, linestyle=":", label="everything")
    ticks = [100 * ratio for ratio in next(iter(accuracies.values()))]
    axis.set_xscale("log")
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
    axis.minorticks_off()
    axis.set_xlabel("train images kept, %")
    axis.set_ylabel("test accuracy, %")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Embed, run all methods, print the table, draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few hundred images and one seed; downloads nothing")
    parser.add_argument("--network", action="store_true", help="ResNet-20 on images instead of a linear layer")
    parser.add_argument("--ratios", type=float, nargs="+", help="default 0.01 0.05 0.1 0.3; --quick: 0.05 0.3")
    parser.add_argument("--steps", type=int, help="optimizer steps of each run, default 1000; --quick: 50")
    parser.add_argument("--seeds", type=int, help="default 3; --quick: 1")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--workers", type=int, default=0, help="processes that read images")
    parser.add_argument(
        "--cache", type=Path, default=Path("coresets/cifar10"), help="embeddings, selections, downloads"
    )
    parser.add_argument("--output", type=Path, default=Path("cifar10.png"))
    given = parser.parse_args()
    given.ratios = given.ratios or ([0.05, 0.3] if given.quick else [0.01, 0.05, 0.1, 0.3])
    given.steps = given.steps or (50 if given.quick else 1000)
    given.seeds = given.seeds or (1 if given.quick else 3)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message="SubZeroCore looks at")
    for logger in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(logger).setLevel(logging.ERROR)

    folder = Path(os.environ["LIGHTNING_CORESET_DATA"]) if "LIGHTNING_CORESET_DATA" in os.environ else None
    features: nn.Module | str
    if given.quick and folder is None:
        print("LIGHTNING_CORESET_DATA is not set: a quick look at scikit-learn's digits instead of CIFAR-10")
        train_images, test_images = read_digits()
        features, transform = "pixels", None
    else:
        train_images, test_images = read_cifar10(folder, given.cache)
        features, transform = choose_embedder(folder), FOR_SQUEEZENET
        if given.quick:
            train_images, test_images = Subset(train_images, range(400)), Subset(test_images, range(200))
    parts = [embed(images, features, transform, given.cache, given.workers) for images in (train_images, test_images)]

    if given.network:
        source = Loaders(train_images, test_images, given.batch_size, given.workers)
    else:
        scale, shift = parts[0].std(0).clamp(min=1e-3), parts[0].mean(0)
        sets = zip(parts, (train_images, test_images), strict=True)
        source = Loaders(
            *(TensorDataset((rows - shift) / scale, read_labels(images)) for rows, images in sets), given.batch_size
        )

    print(f"{'ResNet-20' if given.network else 'linear layer'}, {given.steps} optimizer steps, {given.seeds} seeds")
    print(f"{'kept %':>7} {'items':>6}  {'method':18} {'accuracy %':>14} {'selecting s':>12}")
    runs = [train(source, parts[0], "everything", 1.0, seed, given)[0] for seed in range(given.seeds)]
    report(1.0, len(parts[0]), "everything", runs, 0.0)
    accuracies: dict[str, dict[float, list[float]]] = {name: {} for name in METHODS}
    for ratio in given.ratios:
        for name in METHODS:
            found = [train(source, parts[0], name, ratio, seed, given) for seed in range(given.seeds)]
            accuracies[name][ratio] = [accuracy for accuracy, _ in found]
            report(ratio, round(ratio * len(parts[0])), name, accuracies[name][ratio], found[0][1])
    draw(accuracies, statistics.mean(runs), given.output)
    print(f"Plot: {given.output}")


def report(ratio: float, items: int, name: str, accuracies: list[float], seconds: float) -> None:
    """One line of the table."""
    spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
    mean = statistics.mean(accuracies)
    print(f"{100 * ratio:7g} {items:6}  {name:18} {mean:8.2f} ± {spread:4.2f} {seconds:12.2f}", flush=True)


if __name__ == "__main__":
    main()
