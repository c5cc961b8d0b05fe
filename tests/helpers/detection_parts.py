"""A user's own detection code: boxes, batches of lists, a small detector; it knows nothing of coresets."""

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import pad

from lightning_coreset.detection import Proposals
from tests.helpers.digit_scenes import digit_scenes


class SceneSet(Dataset[Any]):
    """Scenes of digits of two sizes, with targets as torchvision's detectors take them."""

    def __init__(self, count: int, seed: int = 0) -> None:
        self.scenes = digit_scenes(count, seed=seed, size=96)
        self.targets = self.scenes.targets
        self.class_names = self.scenes.class_names
        self.transform: Any = None

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        image = self.scenes.images[index].float() / 255
        # Two sizes, as photographs have several: a batch of them is no tensor.
        image = pad(image, [0, 0, 24 * int(self.scenes.groups[index] % 2), 0])
        return image if self.transform is None else self.transform(image), self.targets[index]


class Unlabelled(Dataset[Any]):
    """The same images without targets."""

    def __init__(self, scenes: SceneSet) -> None:
        self.scenes = scenes

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> Tensor:
        return self.scenes[index][0]


def as_lists(items: list[Any]) -> tuple[list[Any], ...]:
    """Images of any size and their targets, as lists."""
    return tuple(zip(*items, strict=True))


class ScenesSource(pl.LightningDataModule):
    """A detection datamodule as users write them."""

    def __init__(self, count: int = 60, batch_size: int = 4) -> None:
        super().__init__()
        self.count = count
        self.batch_size = batch_size

    def setup(self, stage: str) -> None:
        self.train = SceneSet(self.count)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.train, self.batch_size, shuffle=True, collate_fn=as_lists)


class BoxCounter(pl.LightningModule):
    """Learns how many boxes an image has, and remembers how many it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)
        self.boxes = 0
        self.images = 0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, targets = batch
        assert isinstance(images, list | tuple)
        counts = torch.tensor([float(len(target["boxes"])) for target in targets])
        self.boxes += int(counts.sum())
        self.images += len(images)
        means = torch.stack([image.mean(dim=(1, 2)) for image in images])
        loss: Tensor = (self.layer(means).squeeze(1) - counts).square().mean()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class QuadrantProposer:
    """Finds one object in each quarter of an image that is brighter than the rest, of one of two classes."""

    class_names = ("left", "right")

    def __init__(self) -> None:
        self.looked_at = 0

    def fingerprint(self) -> str:
        return "quadrants of scenes"

    def propose(self, images: Sequence[Tensor]) -> list[Proposals]:
        self.looked_at += len(images)
        return [self._of(image.float()) for image in images]

    def _of(self, image: Tensor) -> Proposals:
        height, width = (side // 2 for side in image.shape[1:])
        quarters = [(left, top, left + width, top + height) for top in (0, height) for left in (0, width)]
        parts = [image[:, top:bottom, left:right] for left, top, right, bottom in quarters]
        bright = [place for place, part in enumerate(parts) if part.mean() >= image.mean()]
        rows = [torch.cat([part.mean(dim=(1, 2)), part.std(dim=(1, 2))]) for part in parts]
        return Proposals(
            boxes=torch.tensor([quarters[place] for place in bright]),
            labels=torch.tensor([place % 2 for place in bright]),
            scores=torch.tensor([0.5 + 0.1 * place for place in bright]),
            features=torch.stack([rows[place] for place in bright]),
            size=(int(image.shape[1]), int(image.shape[2])),
        )
