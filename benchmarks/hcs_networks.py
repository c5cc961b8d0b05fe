"""Frozen networks for wide scenes, each with its tiles; and a memory, so that no crop is encoded twice."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from benchmarks.common import example
from benchmarks.hcs_scenes import Tiles, cifar10_tiles, normalized, resisc12_tiles
from lightning_coreset.regions import Adapter
from lightning_coreset.storage import write_atomic

_BLOCKS = {"resnet20": 3, "resnet32": 5, "resnet44": 7}
_WEIGHTS = {"resnet20": "cifar_resnet20_jpeg", "resnet32": "cifar_resnet32", "resnet44": "cifar_resnet44"}
_KNOWN = 10
_PROBE_STEPS = 300


@dataclass(frozen=True)
class Network:
    """A frozen network as it is asked.

    Attributes:
        name: For tables.
        features: Images to a map.
        head: Pooled rows to logits.
        tiles: What its scenes are made of.
        module: Images to logits, where it is one module.
    """

    name: str
    features: Callable[[Tensor], Tensor]
    head: Callable[[Tensor], Tensor]
    tiles: Tiles
    module: nn.Module | None = None

    def encode(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings and logits."""
        # CPUs convolve two to three times as fast when the channels of a pixel lie together.
        rows = self.features(crops.contiguous(memory_format=torch.channels_last)).mean((2, 3))
        return rows, self.head(rows)

    def native(self, images: Tensor) -> Tensor:
        """Map of scenes."""
        return self.features(images.contiguous(memory_format=torch.channels_last))

    def accuracy(self) -> float:
        """Share of single tiles that it names rightly."""
        with torch.no_grad():
            said = [self.encode(part)[1].argmax(1) for part in normalized(self.tiles.images).split(500)]
        return float((torch.cat(said) == self.tiles.labels).float().mean())


class Memory:
    """Encodes each crop once; what a benchmark asks twice is looked up."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.known: dict[bytes, tuple[Tensor, Tensor]] = {}

    def __call__(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings and logits of crops."""
        keys = [crop.numpy().tobytes() for crop in crops.contiguous()]
        new = {key: place for place, key in enumerate(keys) if key not in self.known}
        if new:
            rows, logits = self.network.encode(crops[list(new.values())])
            self.known.update(zip(new, zip(rows, logits, strict=True), strict=True))
        found = [self.known[key] for key in keys]
        return torch.stack([rows for rows, _ in found]), torch.stack([logits for _, logits in found])

    def adapter(self, maps: bool) -> Adapter:
        """With the map of the network, or as if it had none."""
        side = self.network.tiles.side
        plain = Adapter(self, input_size=(side, side), head=self.network.head)
        return plain.replace(features=self._map) if maps else plain

    def _map(self, images: Tensor) -> Tensor:
        key = images.numpy().tobytes()[:4096]
        if key not in self.known:
            maps = self.network.native(images)
            self.known[key] = maps, maps
        return self.known[key][0]


def load(name: str, folder: Path, cache: Path) -> Network:
    """A network of the folder with weights, or one trained here and kept; and tiles that it has not seen."""
    if name == "squeezenet":
        return _squeezenet(folder)
    return _timm_cnn(folder, cache / f"{name}.pt") if name == "timm" else _resnet(name, folder)


def _resnet(name: str, folder: Path) -> Network:
    network = example.ResNet20()
    blocks = _BLOCKS[name]
    for layer, incoming, channels, stride in (("layer1", 16, 16, 1), ("layer2", 16, 32, 2), ("layer3", 32, 64, 2)):
        stack = [
            example.Block(incoming, channels, stride),
            *(example.Block(channels, channels, 1) for _ in range(blocks - 1)),
        ]
        setattr(network, layer, nn.Sequential(*stack))
    network.load_state_dict(torch.load(folder / "weights" / f"{_WEIGHTS[name]}.pt", weights_only=True))
    frozen: Any = network.eval().to(memory_format=torch.channels_last)

    def features(images: Tensor) -> Tensor:
        return frozen.layer3(frozen.layer2(frozen.layer1(frozen.bn1(frozen.conv1(images)).relu())))

    # Trained on original pixels, the others lose ten points on JPEG.
    images, labels = cifar10_tiles(folder, lossless=not _WEIGHTS[name].endswith("jpeg"))
    clutter, _, _ = resisc12_tiles(folder, "test", images.shape[2])
    tiles = Tiles(images, labels, clutter, _KNOWN)
    return Network(f"ResNet-{6 * blocks + 2}, CIFAR-10", features, frozen.linear, tiles, frozen)


def _timm_cnn(folder: Path, path: Path) -> Network:
    """The smallest residual network of timm at a stride of 8, trained here on ten classes of resisc12 at 32 px."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network: Any = timm.create_model("test_resnet", num_classes=_KNOWN, output_stride=8)
        if not path.exists():
            train, labels, _ = resisc12_tiles(folder, "train", 32)
            _train(network, train[labels < _KNOWN], labels[labels < _KNOWN])
            buffer = io.BytesIO()
            torch.save(network.state_dict(), buffer)
            write_atomic(path, buffer.getvalue())
    network.load_state_dict(torch.load(path, weights_only=True))
    network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    images, truth, _ = resisc12_tiles(folder, "test", 32)
    known = truth < _KNOWN
    return Network(
        "timm test_resnet, resisc12",
        network.forward_features,
        lambda rows: network.forward_head(rows[:, :, None, None]),
        Tiles(images[known], truth[known], images[~known], _KNOWN),
        network,
    )


def _train(network: nn.Module, images: Tensor, labels: Tensor, epochs: int = 30, rows: int = 64) -> None:
    """Turned, flipped and shifted images; a minute and a half on one core."""
    steps = len(images) // rows
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=epochs * steps)
    for _ in range(epochs):
        for places in torch.randperm(len(images))[: steps * rows].split(rows):
            turns, down, across = int(torch.randint(4, ())), *torch.randint(-4, 5, (2,)).tolist()
            batch = normalized(images[places]).rot90(turns, (2, 3)).roll((down, across), (2, 3))
            batch = batch.flip(3) if torch.rand(()) < 0.5 else batch
            loss = nn.functional.cross_entropy(
                network(batch.contiguous(memory_format=torch.channels_last)), labels[places]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def _squeezenet(folder: Path, side: int = 64) -> Network:
    """ImageNet SqueezeNet with a linear layer that was trained on ten of the classes of resisc12."""
    features = example.choose_embedder(folder).eval()
    frozen = features if isinstance(features, nn.Module) else None
    if frozen is None:
        msg = "The weights of SqueezeNet are not in the folder."
        raise SystemExit(msg)
    train, labels, _ = resisc12_tiles(folder, "train", side)
    with torch.no_grad():
        rows = torch.cat([frozen(part).mean((2, 3)) for part in normalized(train).split(100)])
    seen = labels < _KNOWN
    torch.manual_seed(0)
    head = nn.Linear(rows.shape[1], _KNOWN)
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.003, weight_decay=0.01)
    scale, shift = rows[seen].std(0).clamp(min=1e-3), rows[seen].mean(0)
    for _ in range(_PROBE_STEPS):
        loss = nn.functional.cross_entropy(head((rows[seen] - shift) / scale), labels[seen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    head.requires_grad_(False)
    images, truth, _ = resisc12_tiles(folder, "test", side)
    known = truth < _KNOWN
    tiles = Tiles(images[known], truth[known], images[~known], _KNOWN)
    return Network("SqueezeNet, resisc12", frozen, lambda pooled: head((pooled - shift) / scale), tiles)
