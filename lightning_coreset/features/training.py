"""A plain seeded training loop, for small networks of our own that train before anything is selected."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_coreset.data.views import image_of, random_state_kept
from lightning_coreset.errors import CoresetError
from lightning_coreset.features.extractor import scaled_tensor
from lightning_coreset.ops.random import seeded_generator

_MOMENTUM = 0.9
_WEIGHT_DECAY = 5e-4


def train_classifier(
    network: nn.Module,
    dataset: Any,
    labels: Tensor,
    *,
    epochs: int,
    batch_size: int = 128,
    learning_rate: float = 0.05,
    seed: int = 0,
    device: torch.device | str = "cpu",
    num_workers: int = 0,
    progress: Callable[[int, str], AbstractContextManager[Any]] | None = None,
    on_epoch_end: Callable[[int, nn.Module], object] | None = None,
    precision: Callable[[], AbstractContextManager[Any]] | None = None,
) -> nn.Module:
    """Train a network of one's own to tell the classes of a dataset apart, without a trainer.

    Cross-entropy, SGD with Nesterov momentum, learning rate up and down once. The order of items comes from (seed,
    epoch), batches of an epoch differ by one item at most, and neither the global random state nor anything of a
    trainer is touched. Every rank that calls this gets the same network.

    Args:
        network: From images ``[B, C, H, W]`` to logits ``[B, classes]``; trained in place.
        dataset: A map-style dataset of ``N`` items whose images are tensors of one size (an `EvaluationView`).
        labels: Class of each item ``[N]``; what the items say of themselves is not read.
        epochs: Passes over the dataset; 0 leaves the weights as they are.
        batch_size: Items a step, at most.
        learning_rate: The largest of the schedule.
        seed: Of order and of the network's own draws, such as dropout.
        device: Where to train.
        num_workers: Processes that read items.
        progress: Called as ``progress(total, description)``, gives a context manager around a bar.
        on_epoch_end: Called as ``on_epoch_end(epoch, network)``, epochs from 0, the network in evaluation mode.
        precision: Makes a context around each forward pass, such as the trainer's autocast.

    Returns:
        The network, in evaluation mode on the device. O(epochs N) reads and passes.

    Raises:
        ValueError: Another number of labels than of items.
        CoresetError: Images of different sizes, or a loss that is not finite.

    Example:
        >>> images = torch.eye(4).view(4, 1, 2, 2)
        >>> network = nn.Sequential(nn.Flatten(), nn.utils.skip_init(nn.Linear, 4, 2))
        >>> _ = [nn.init.zeros_(values) for values in network.parameters()]
        >>> trained = train_classifier(network, images, torch.tensor([0, 0, 1, 1]), epochs=20, batch_size=2)
        >>> trained(images).argmax(1).tolist()
        [0, 0, 1, 1]
    """
    device = torch.device(device)
    if len(labels) != len(dataset):
        msg = f"{len(labels)} labels came for {len(dataset)} items to train on: give one class per item."
        raise ValueError(msg)
    network.to(device)
    batches = -(-len(dataset) // batch_size)
    if epochs and batches:
        with ExitStack() as stack:
            stack.enter_context(_own_random_state(device, seed))
            stack.enter_context(torch.enable_grad())
            bar = None if progress is None else stack.enter_context(progress(epochs * len(dataset), "Training a proxy"))
            _train(
                network, _loader(dataset, labels, epochs, batches, seed, num_workers), epochs, batches, learning_rate,
                device, bar, on_epoch_end, precision or ExitStack,
            )  # fmt: skip
    return network.eval()


def _train(
    network: nn.Module,
    loader: "DataLoader[Any]",
    epochs: int,
    batches: int,
    learning_rate: float,
    device: torch.device,
    bar: Any,
    on_epoch_end: Callable[[int, nn.Module], object] | None,
    precision: Callable[[], AbstractContextManager[Any]],
) -> None:
    optimizer = torch.optim.SGD(
        network.parameters(), learning_rate, _MOMENTUM, weight_decay=_WEIGHT_DECAY, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, epochs * batches, pct_start=0.2)
    summed = torch.zeros((), device=device)
    network.train()
    for step, (images, targets) in enumerate(loader, 1):
        optimizer.zero_grad(set_to_none=True)
        with precision():
            logits = network(images.to(device, non_blocking=True))
        loss = nn.functional.cross_entropy(logits.float(), targets.to(device, non_blocking=True))
        loss.backward()
        optimizer.step()
        schedule.step()
        summed += loss.detach()
        if bar is not None:
            bar.update(len(targets))
        if step % batches == 0:
            # Once an epoch: looking at a number makes a GPU wait.
            if not bool(torch.isfinite(summed)):
                msg = "The loss of a short proxy training is not finite: look for broken images, or train no proxy."
                raise CoresetError(msg)
            if on_epoch_end is not None:
                network.eval()
                with torch.no_grad():
                    on_epoch_end(step // batches - 1, network)
                network.train()


class _Labelled(Dataset[Any]):
    def __init__(self, dataset: Any, labels: Tensor) -> None:
        self.dataset = dataset
        self.labels = labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return scaled_tensor(image_of(self.dataset[index])), self.labels[index]


def _loader(dataset: Any, labels: Tensor, epochs: int, batches: int, seed: int, num_workers: int) -> "DataLoader[Any]":
    """One loader for all epochs, so that its workers start once."""
    orders = [torch.randperm(len(dataset), generator=seeded_generator(seed, "epoch", epoch)) for epoch in range(epochs)]
    return DataLoader(
        _Labelled(dataset, labels),
        batch_sampler=[part.tolist() for order in orders for part in order.tensor_split(batches)],
        num_workers=num_workers,
        collate_fn=_collate,
        # Its own, so that starting workers does not draw from the global one.
        generator=torch.Generator().manual_seed(0),
    )


def _collate(items: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    images, labels = zip(*items, strict=True)
    shapes = {tuple(image.shape) for image in images}
    if len(shapes) > 1:
        msg = (
            f"Images of different sizes ({', '.join(map(str, sorted(shapes)[:3]))}) cannot be trained on together: "
            "read them through a transform that resizes them."
        )
        raise CoresetError(msg)
    # Batch normalisation takes no batch of one; twice the same item has the same mean gradient.
    twice = 2 if len(images) == 1 else 1
    return torch.stack(images * twice), torch.tensor(labels * twice)


@contextmanager
def _own_random_state(device: torch.device, seed: int) -> Iterator[None]:
    """What the network and the items draw comes from the seed, and what others draw later is as if nothing happened."""
    drawn = int(torch.randint(2**62, (1,), generator=seeded_generator(seed, "training")))
    devices = [device] if device.type == "cuda" else []
    with random_state_kept(), torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(drawn)
        if devices:
            torch.cuda.default_generators[torch.cuda.current_device()].manual_seed(drawn)
        yield
