"""A frozen segmenter sees more of a wide scene: a few regions are looked at again and pasted into the whole view's map.

A small U-Net with an input of 32 pixels learns to outline handwritten digits (those that ship with scikit-learn) in
scenes of 128 pixels. Shrunk to its input, digits melt away; `RegionRefinement` looks again at regions, here by a loss
of one's own (the least background), while the user's test step computes its metric as ever. With LIGHTNING_CORESET_DATA
the scenes are streets of CamVid, where things are large and the gain is small; see benchmarks/RESULTS.md.

    python examples/10_segmentation.py [--steps 400] [--output segmentation.png] [--digits]
"""

import argparse
import importlib
import logging
import os
import sys
import warnings
from pathlib import Path

import lightning.pytorch as pl
import matplotlib
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassF1Score

from lightning_coreset import RegionRefinement
from lightning_coreset.regions import HCSConfig, draw_refinement

matplotlib.use("Agg")
sys.path.insert(0, str(Path(__file__).parents[1]))
before = importlib.import_module("examples.08_wide_scenes")

WIDE, SIDE, BACKGROUND = 128, 32, 10


def block(incoming: int, channels: int) -> nn.Sequential:
    """Two convolutions."""
    layers: list[nn.Module] = []
    for width in (incoming, channels):
        layers += [nn.Conv2d(width, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*layers)


class SmallUNet(nn.Module):
    """Two scales."""

    def __init__(self, classes: int, width: int = 24) -> None:
        super().__init__()
        self.fine, self.coarse = block(3, width), block(width, 2 * width)
        self.deep, self.joined = block(2 * width, 4 * width), block(7 * width, width)
        self.last = nn.Conv2d(width, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of each pixel."""
        fine = self.fine(images)
        coarse = self.coarse(nn.functional.max_pool2d(fine, 2))
        deep = self.deep(nn.functional.max_pool2d(coarse, 2))
        up = [nn.functional.interpolate(maps, fine.shape[2:], mode="bilinear") for maps in (coarse, deep)]
        return self.last(self.joined(torch.cat([fine, *up], dim=1)))


class Frozen(pl.LightningModule):
    """Somebody's segmenter: frames of any size are shrunk to its input, its map is enlarged again."""

    def __init__(self, net: nn.Module, size: tuple[int, int], classes: int, ignored: int | None) -> None:
        super().__init__()
        self.net, self.size = net, size
        self.score = MulticlassF1Score(classes, average="macro", ignore_index=ignored)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of each pixel of what came."""
        logits = self.net(nn.functional.interpolate(images, self.size, mode="bilinear", antialias=True))
        return nn.functional.interpolate(logits, images.shape[2:], mode="bilinear")

    def test_step(self, batch: list[Tensor]) -> None:
        """Mean Dice."""
        self.score(self(batch[0]).argmax(1), batch[1])
        self.log("dice", self.score)


def digit_scenes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Scenes ``[count, 3, 128, 128]`` with a few digits, and their masks: class of the ink, 10 elsewhere."""
    tiles, labels = before.digit_tiles()
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, WIDE, WIDE, generator=generator) * 0.3
    masks = torch.full((count, WIDE, WIDE), BACKGROUND)
    for image, mask in zip(images, masks, strict=True):
        for _ in range(8):
            y, x, item = (int(torch.randint(limit, (1,), generator=generator)) for limit in (112, 112, len(tiles)))
            image[:, y : y + 16, x : x + 16] = torch.maximum(image[:, y : y + 16, x : x + 16], tiles[item])
            ink = tiles[item, 0] > 0.4
            mask[y : y + 16, x : x + 16][ink] = labels[item]
    return images, masks


def train(images: Tensor, masks: Tensor, steps: int) -> nn.Module:
    """A U-Net that knows scenes and parts of them at its input's size."""
    torch.manual_seed(0)
    network = SmallUNet(BACKGROUND + 1).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps)
    for _ in range(steps):
        inputs, wanted = [], []
        for item in torch.randint(len(images), (16,)).tolist():
            side = WIDE // int(torch.tensor([1, 2, 4, 4])[torch.randint(4, (1,))])
            y, x = torch.randint(WIDE - side + 1, (2,)).tolist()
            part = images[item : item + 1, :, y : y + side, x : x + side]
            mask = masks[item : item + 1, None, y : y + side, x : x + side].float()
            inputs.append(nn.functional.interpolate(part, (SIDE, SIDE), mode="bilinear", antialias=True))
            wanted.append(nn.functional.interpolate(mask, (SIDE, SIDE), mode="nearest").long().squeeze(1))
        loss = nn.functional.cross_entropy(network(torch.cat(inputs)), torch.cat(wanted))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def background_share(logits: Tensor) -> Tensor:
    """A loss of one's own: probability of the background, by pixel ``[n]``."""
    return logits.softmax(dim=1)[:, BACKGROUND]


def main() -> None:
    """Train, test without and with regions, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=40)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--digits", action="store_true", help="digits even where there is real data")
    parser.add_argument("--output", type=Path, default=Path("segmentation.png"))
    given = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    folder = os.environ.get("LIGHTNING_CORESET_DATA")
    if folder is None or given.digits:
        network = train(*digit_scenes(200, 0), given.steps)
        images, masks = digit_scenes(given.scenes, 1)
        size, ignored, names, to_rgb = (SIDE, SIDE), None, [*map(str, range(10)), "background"], None
        # Sure it is of the background everywhere, so the regions to look at are those with the least of it.
        config = HCSConfig(levels=((4, 8),), alpha=0.9, loss=background_share)
    else:
        streets, mosaics = (importlib.import_module(f"benchmarks.hcs_{name}") for name in ("more", "scenes"))
        network = streets.trained_segmenter(*streets.read_streets(Path(folder), "train"), given.steps)
        frames, masks = streets.read_streets(Path(folder), "test", given.scenes)
        images, size, ignored = mosaics.normalized(frames), streets.STREET_INPUT, streets.IGNORED
        names = ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "cyclist"]
        config = HCSConfig(levels=((4, 6),))

        def to_rgb(shown: Tensor) -> Tensor:
            return shown * mosaics.DEVIATION + mosaics.MEAN

    module = Frozen(network, size, len(names), ignored)
    loader = DataLoader(TensorDataset(images, masks), batch_size=10)
    callback = RegionRefinement(config, input_size=size)
    print(f"{'frames':28} {'mean Dice %':>11} {'forwards':>9}")
    for name, callbacks in (("shrunk to the input", []), ("regions pasted back", [callback])):
        found = before.quiet_trainer(callbacks=callbacks).test(module, loader, verbose=False)[0]
        print(f"{name:28} {100 * found['dice']:11.1f} {callback.summary['forwards'] if callbacks else 1:9.0f}")
    # The newest answer is of the last batch.
    last = images[-len(callback.last.area) :]
    draw_refinement(last, callback.last, class_names=names, to_rgb=to_rgb).savefig(given.output, dpi=110)
    print(f"Picture: {given.output}")


if __name__ == "__main__":
    main()
