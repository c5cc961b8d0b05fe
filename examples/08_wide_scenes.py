"""A frozen classifier names the thing in a scene that is far wider than its input, with one callback.

A small network learns single handwritten digits (those that ship with scikit-learn, 16 pixels). It is then tested,
frozen, on scenes of 128 pixels: noise in which one digit occurs a few times, anywhere, among scraps of others. One
trainer tests it without and with `RegionRefinement`. With data in LIGHTNING_CORESET_DATA the network is a ResNet-20
that knows CIFAR-10, and scenes are mosaics of photographs among aerial images.

    python examples/08_wide_scenes.py [--scenes 100] [--output wide_scenes.png] [--digits]
"""

import argparse
import importlib
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import matplotlib
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from lightning_coreset import RegionRefinement
from lightning_coreset.regions import HCSConfig, draw_refinement, from_module, refine

matplotlib.use("Agg")

SIDE, WIDE = 16, 128


class Frozen(pl.LightningModule):
    """The module somebody has already: it classifies images of its input's size, and knows nothing of regions."""

    def __init__(self, net: nn.Module, side: int) -> None:
        super().__init__()
        self.net = net
        self.example_input_array = torch.zeros(1, 3, side, side)
        self.accuracy = MulticlassAccuracy(10, average="micro")

    def forward(self, images: Tensor) -> Tensor:
        """Logits; whatever comes is shrunk to the input, as most pipelines do."""
        return self.net(nn.functional.interpolate(images, self.example_input_array.shape[2:], mode="area"))

    def training_step(self, batch: list[Tensor]) -> Tensor:
        """Cross-entropy of a batch."""
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def test_step(self, batch: list[Tensor]) -> None:
        """Share of scenes named rightly."""
        self.accuracy(self(batch[0]), batch[1])
        self.log("accuracy", self.accuracy)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain Adam."""
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def digit_tiles() -> tuple[Tensor, Tensor]:
    """Digits at twice their size in three equal channels ``[N, 3, 16, 16]``, and which they are."""
    images, labels = load_digits(return_X_y=True)
    small = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    return nn.functional.interpolate(small, (SIDE, SIDE), mode="bilinear").repeat(1, 3, 1, 1), torch.tensor(labels)


def digit_scenes(tiles: Tensor, labels: Tensor, count: int, seed: int = 1, things: int = 4) -> tuple[Tensor, Tensor]:
    """Scenes ``[count, 3, 128, 128]`` in which one digit occurs a few times among scraps of digits, and which it is."""
    generator = torch.Generator().manual_seed(seed)

    def draw(below: int) -> int:
        return int(torch.randint(below, (1,), generator=generator))

    scenes, truth = torch.rand(count, 3, WIDE, WIDE, generator=generator) * 0.3, torch.arange(count) % 10
    for scene, label in zip(scenes, truth, strict=True):
        for _ in range(150):
            # A quarter of a digit says nothing.
            y, x, scrap = draw(WIDE - 8), draw(WIDE - 8), tiles[draw(len(tiles))]
            a, b = 8 * draw(2), 8 * draw(2)
            scene[:, y : y + 8, x : x + 8] = torch.maximum(
                scene[:, y : y + 8, x : x + 8], scrap[:, a : a + 8, b : b + 8]
            )
        own = torch.nonzero(labels == label).flatten()
        for _ in range(things):
            y, x = draw(WIDE - SIDE), draw(WIDE - SIDE)
            scene[:, y : y + SIDE, x : x + SIDE] = tiles[own[draw(len(own))]]
    return scenes, truth


def small_network() -> nn.Module:
    """Three convolutions, pooled."""
    layers: list[nn.Module] = []
    for incoming, channels in ((3, 24), (24, 48), (48, 64)):
        layers += [nn.Conv2d(incoming, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if channels < 64 else []
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def quiet_trainer(**settings: Any) -> pl.Trainer:
    """A trainer that shows nothing."""
    plain = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return pl.Trainer(accelerator="cpu", **plain, **settings)


def trained_on_digits(tiles: Tensor, labels: Tensor, steps: int) -> Frozen:
    """A network that knows single digits, and that scraps of them are none: there it learns to be unsure."""
    pl.seed_everything(0, verbose=False)
    module = Frozen(small_network(), SIDE)
    noisy = torch.maximum(tiles, torch.rand(tiles.shape) * 0.3)
    scraps = backgrounds(tiles, labels)
    shares = torch.cat([nn.functional.one_hot(labels, 10).float(), torch.full((len(scraps), 10), 0.1)])
    loader = DataLoader(TensorDataset(torch.cat([noisy, scraps]), shares), batch_size=64, shuffle=True)
    quiet_trainer(max_steps=steps, max_epochs=-1).fit(module, loader)
    return module


def backgrounds(tiles: Tensor, labels: Tensor) -> Tensor:
    """Parts of scenes without a digit ``[N, 3, 16, 16]``."""
    scenes, _ = digit_scenes(tiles, labels, 10, seed=2, things=0)
    parts = nn.functional.unfold(scenes, SIDE, stride=SIDE).mT.reshape(-1, 3, SIDE, SIDE)
    return parts[torch.randperm(len(parts))[:600]]


def main() -> None:
    """Train or load a network, test it on scenes in three ways, draw a few of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--steps", type=int, default=400, help="of training on single digits")
    parser.add_argument("--digits", action="store_true", help="digits even where there is real data")
    parser.add_argument("--output", type=Path, default=Path("wide_scenes.png"))
    given = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    folder = os.environ.get("LIGHTNING_CORESET_DATA")
    to_rgb, names = None, [str(digit) for digit in range(10)]
    if folder is None or given.digits:
        tiles, labels = digit_tiles()
        module, side = trained_on_digits(tiles[:1200], labels[:1200], given.steps), SIDE
        scenes, truth = digit_scenes(tiles[1200:], labels[1200:], given.scenes)
    else:
        sys.path.insert(0, str(Path(__file__).parents[1]))
        networks, mosaics = (importlib.import_module(f"benchmarks.hcs_{name}") for name in ("networks", "scenes"))
        known = networks.load("resnet20", Path(folder))
        side, names = 32, ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
        module = Frozen(known.module, side)
        scenes, truth = mosaics.scenes(known.tiles, "open", "unaligned", 0, given.scenes)

        def to_rgb(images: Tensor) -> Tensor:
            return images * mosaics.DEVIATION + mosaics.MEAN

    loader = DataLoader(TensorDataset(scenes, truth), batch_size=20)
    ways = {
        "shrunk to the input": [],
        "41 crops": [RegionRefinement()],
        "scan of the feature map": [
            RegionRefinement(adapter=lambda _call, part: from_module(part.net, input_size=side, probe=True))
        ],
    }
    print(f"{'scenes are':26} {'accuracy %':>10} {'inputs a scene':>15}")
    for name, callbacks in ways.items():
        accuracy = quiet_trainer(callbacks=callbacks).test(module, loader, verbose=False)[0]["accuracy"]
        inputs = callbacks[0].summary["pixels"] if callbacks else 1.0
        print(f"{name:26} {100 * accuracy:10.1f} {inputs:15.1f}")

    found = refine(scenes[:3], from_module(module.net, input_size=side, probe=True), HCSConfig())
    draw_refinement(scenes[:3], found, class_names=names, labels=truth, to_rgb=to_rgb).savefig(given.output, dpi=110)
    print(f"Picture: {given.output}")


if __name__ == "__main__":
    main()
