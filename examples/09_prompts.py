"""A CLIP-like model finds what a prompt names in scenes that are far wider than its input.

A small image encoder and a small text encoder learn, from pairs, that images and sentences such as "a photo of the
digit seven" belong together. Frozen, they name what occurs in wide scenes by its likeness to prompts: the whole view,
crops, and crops whose margin between prompts decides. Without LIGHTNING_CORESET_DATA on scikit-learn's digits; with it
on CIFAR-10 and resisc12, "a photo of a ship" and "an aerial photo of a river".

Real weights go the same way: --open-clip ViT-B-32 --weights PATH loads a model of open_clip (extra [vlm]) from a file.

    python examples/09_prompts.py [--scenes 60] [--steps 600] [--output prompts.png] [--digits]
"""

import argparse
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib
import torch
from torch import Tensor, nn

from lightning_coreset.regions import Adapter, HCSConfig, clip_adapter, draw_refinement, open_clip_adapter, refine
from lightning_coreset.regions import prompt_features as mean_over_templates

matplotlib.use("Agg")
# Scenes of digits, and the small network, are those of the example before; its name begins with a digit.
sys.path.insert(0, str(Path(__file__).parents[1]))
before = importlib.import_module("examples.08_wide_scenes")

WIDTH, TRIGRAMS, SCALE = 64, 512, 20.0
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
OBJECTS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class TextEncoder(nn.Module):
    """Sentences as bags of three-letter pieces, two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(TRIGRAMS, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))

    def forward(self, sentences: list[str]) -> Tensor:
        """Rows ``[n, WIDTH]``."""
        bags = torch.zeros(len(sentences), TRIGRAMS)
        for bag, sentence in zip(bags, sentences, strict=True):
            padded = f"  {sentence}  "
            for place in range(len(padded) - 2):
                piece = padded[place : place + 3].encode()
                bag[int.from_bytes(piece, "little") % TRIGRAMS] += 1
        return self.layers(bags)


def image_encoder() -> nn.Module:
    """The small network of the example before, up to an embedding."""
    return nn.Sequential(*list(before.small_network())[:-1], nn.Linear(64, WIDTH))


def train(
    images: Tensor, sentences: list[str], labels: Tensor, steps: int, nothing: Tensor | None = None
) -> tuple[nn.Module, TextEncoder]:
    """Both encoders by the contrastive loss of CLIP; images of nothing are to be like no sentence more than another."""
    torch.manual_seed(0)
    vision, text = image_encoder().train(), TextEncoder()
    optimizer = torch.optim.AdamW([*vision.parameters(), *text.parameters()], lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    of_class = [torch.nonzero(labels == number).flatten() for number in range(len(sentences))]
    for _ in range(steps):
        # Eight images of each class against all sentences: images that share a sentence are no negatives.
        chosen = torch.cat([rows[torch.randint(len(rows), (8,))] for rows in of_class])
        # In one batch, because batch norm must meet both together.
        shown = images[chosen] if nothing is None else torch.cat([images[chosen], _drawn(nothing, 40)])
        rows = nn.functional.normalize(vision(shown), dim=1)
        seen, other = rows[: len(chosen)], rows[len(chosen) :]
        said = nn.functional.normalize(text(sentences), dim=1)
        likeness, truth = SCALE * seen @ said.T, labels[chosen]
        mean_image = torch.stack([seen[truth == number].mean(0) for number in range(len(sentences))])
        loss = nn.functional.cross_entropy(likeness, truth)
        loss = loss + nn.functional.cross_entropy(SCALE * said @ mean_image.T, torch.arange(len(sentences)))
        if nothing is not None:
            loss = loss - (SCALE * other @ said.T).log_softmax(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return vision.eval(), text.eval()


def _drawn(images: Tensor, count: int) -> Tensor:
    return images[torch.randint(len(images), (count,))]


def with_map(vision: nn.Sequential, text: Tensor, side: int) -> Adapter:
    """The model with its prompts, and the map that its image encoder pools, so that scenes can be scanned."""
    adapter = clip_adapter(vision, text, SCALE, input_size=side)
    # Behind the map: a mean, a flattening, a linear layer.
    return adapter.replace(features=vision[:-3], head=lambda rows: adapter.head(vision[-1](rows)))


def digits_world(
    steps: int, scenes: int
) -> tuple[Adapter, Tensor, Tensor, tuple[str, ...], Callable[[Tensor], Tensor]]:
    """Encoders for digits, and scenes."""
    tiles, labels = before.digit_tiles()
    sentences = [f"a photo of the digit {name}" for name in DIGITS]
    noisy = torch.maximum(tiles[:1200], torch.rand(1200, *tiles.shape[1:]) * 0.3)
    nothing = before.backgrounds(tiles[:1200], labels[:1200])
    vision, text = train(noisy, sentences, labels[:1200], steps, nothing)
    with torch.no_grad():
        features = mean_over_templates(text, DIGITS, ["a photo of the digit {}", "the digit {}"])
    images, truth = before.digit_scenes(tiles[1200:], labels[1200:], scenes)
    return with_map(vision, features, before.SIDE), images, truth, DIGITS, lambda shown: shown


def real_world(
    folder: Path, steps: int, scenes: int
) -> tuple[Adapter, Tensor, Tensor, tuple[str, ...], Callable[[Tensor], Tensor]]:
    """Encoders for CIFAR-10 and resisc12, and mosaics of the one among the other."""
    mosaics = importlib.import_module("benchmarks.hcs_scenes")
    objects, kinds = mosaics.cifar10_tiles(folder)
    places, where, names = mosaics.resisc12_tiles(folder, "train", 32)
    # The first half of the test images of CIFAR-10 teaches, the second is in the scenes.
    images = mosaics.normalized(torch.cat([objects[:5000], places]))
    sentences = [f"a photo of a {name}" for name in OBJECTS]
    sentences += [f"an aerial photo of a {name.replace('_', ' ')}" for name in names]
    vision, text = train(images, sentences, torch.cat([kinds[:5000], 10 + where]), steps)
    with torch.no_grad():
        features = mean_over_templates(text, OBJECTS, ["a photo of a {}", "a picture of a {}"])
    clutter, _, _ = mosaics.resisc12_tiles(folder, "test", 32)
    tiles = mosaics.Tiles(objects[5000:], kinds[5000:], clutter, 10)
    wide, truth = mosaics.scenes(tiles, "open", "unaligned", 0, scenes)
    return with_map(vision, features, 32), wide, truth, OBJECTS, lambda shown: shown * mosaics.DEVIATION + mosaics.MEAN


def main() -> None:
    """Train or load, look in three ways, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--steps", type=int, default=600, help="of training the small model")
    parser.add_argument("--digits", action="store_true", help="digits even where there is real data")
    parser.add_argument("--open-clip", help="name of a model of open_clip to look with instead")
    parser.add_argument("--weights", default="", help="path of its weights, or a tag open_clip knows")
    parser.add_argument("--output", type=Path, default=Path("prompts.png"))
    given = parser.parse_args()

    folder = os.environ.get("LIGHTNING_CORESET_DATA")
    small = folder is None or given.digits
    world = (
        digits_world(given.steps, given.scenes) if small else real_world(Path(str(folder)), given.steps, given.scenes)
    )
    adapter, images, truth, names, to_rgb = world
    if given.open_clip:
        adapter = open_clip_adapter(given.open_clip, names, pretrained=given.weights)
        # Seven times its input: what is a scene for the small model is none for a large one.
        images = nn.functional.interpolate(images, scale_factor=7 * adapter.input_size[0] / images.shape[2])

    ways = {
        "crops, surest": HCSConfig(engine="crop"),
        "crops, widest margin": HCSConfig(engine="crop", loss="prompt"),
        "scan of the encoder's map": HCSConfig(engine="scan"),
        "scan, widest margin": HCSConfig(engine="scan", loss="prompt"),
    }
    if adapter.features is None:
        ways = {title: config for title, config in ways.items() if config.engine == "crop"}
    print(f"prompts for {', '.join(names)}\n{'looked at':32} {'accuracy %':>10} {'inputs':>7}")
    for title, config in ways.items():
        found = refine(images, adapter, config, labels=truth)
        after = found.accuracy()[1]
        print(f"{title:32} {100 * after:10.1f} {found.n_pixels:7.0f}")
    whole = refine(images, adapter, HCSConfig(engine="crop"), labels=truth).accuracy()[0]
    print(f"{'the whole view':32} {100 * whole:10.1f} {1:7}")
    shown = images[:3]
    figure = draw_refinement(shown, refine(shown, adapter, HCSConfig()), class_names=names, labels=truth, to_rgb=to_rgb)
    figure.savefig(given.output, dpi=110)
    print(f"Picture: {given.output}")


if __name__ == "__main__":
    main()
