"""A short training of a small network that gives signals where there is no recording."""

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.transforms import v2

from lightning_coreset.data.fingerprint import callable_key, stable_key
from lightning_coreset.data.views import EvaluationView, image_of, random_state_kept
from lightning_coreset.distributed import together
from lightning_coreset.errors import CoresetError
from lightning_coreset.features.extractor import scaled_tensor, with_channels
from lightning_coreset.features.networks import network_transform
from lightning_coreset.features.training import train_classifier
from lightning_coreset.ops.random import seeded_generator
from lightning_coreset.ops.reducer import Reducer, SerialReducer
from lightning_coreset.signals.epochs import EpochColumns, epoch_columns, whole_signals
from lightning_coreset.signals.recorder import Recorder
from lightning_coreset.signals.sharing import from_rank
from lightning_coreset.signals.signals import Signals

_ROWS = 256
# Up to here images are read once and kept; a fixed number, so that answers do not depend on the machine.
_KEPT_NUMBERS = 2**29
_MEAN, _DEVIATION = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


class Proxy:
    """Trains a small network from random weights and records it, for methods that need signals of training.

    It runs in ``setup`` on the trainer's devices, in a plain loop of its own: the user's module, the trainer's state
    and the global random numbers stay as they are. After each epoch all items pass through the network in evaluation
    mode, without augmentation, so that every item has a row in every epoch.

    With several ranks seeds are dealt to ranks (where there are more ranks than seeds they repeat the work of others,
    which costs no time); the answer is that of one rank.

    Cost: per seed O(E N) training steps' work, and E passes over all items. Memory: the images as float32 up to 2 GB
    (beyond that they are read again for each pass), and ``17 E N + 4 N (C + h)`` bytes of signals.

    Args:
        model: ``"timm/<name>"`` or ``"torchvision/<name>"`` (random weights), ``"linear"`` (a linear layer on the
            standardised embeddings of ``features=``), or a function that gets the number of classes and returns a
            module from images ``[B, C, H, W]`` to logits.
        epochs: Passes over the data.
        seeds: Runs, each from weights and in an order of its own; scores are means over runs.
        batch_size: Items a step.
        learning_rate: The largest of a one-cycle schedule of SGD with momentum.
        image_size: Images are resized to this; those of datasets without a transform are used as they come.

    Raises:
        ValueError: An unknown model, or numbers below 1.

    Example:
        >>> images, labels = torch.eye(8).view(8, 1, 2, 4), torch.arange(8) % 2
        >>> proxy = Proxy("linear", epochs=3, batch_size=4)
        >>> signals = proxy.record(images, labels, embeddings=images.flatten(1))
        >>> signals.epochs, len(signals), list(signals.embeddings.shape)
        (3, 8, [8, 8])
    """

    def __init__(
        self,
        model: str | Callable[[int], nn.Module] = "timm/resnet10t",
        epochs: int = 10,
        seeds: int = 1,
        batch_size: int = 128,
        learning_rate: float = 0.05,
        image_size: int = 32,
    ) -> None:
        self.model = model
        self.epochs = epochs
        self.seeds = seeds
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.image_size = image_size
        _check_model(model)
        for name in ("epochs", "seeds", "batch_size", "image_size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                msg = f"{name}={value!r} is not accepted: give a whole number of at least 1."
                raise ValueError(msg)
        if not learning_rate > 0:
            msg = f"learning_rate={learning_rate!r} is not accepted: give a number above 0."
            raise ValueError(msg)

    @property
    def key(self) -> str:
        """A key of all arguments."""
        arguments = {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}
        arguments["model"] = self.model if isinstance(self.model, str) else callable_key(self.model)
        return stable_key(arguments)

    @property
    def needs_features(self) -> bool:
        """Whether it trains on embeddings."""
        return self.model == "linear"

    def record(
        self,
        dataset: Any,
        labels: Tensor,
        *,
        embeddings: Tensor | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        num_workers: int = 0,
        reducer: Reducer | None = None,
        progress: Callable[[int, str], AbstractContextManager[Any]] | None = None,
    ) -> Signals:
        """Train, and say what each item did.

        Args:
            dataset: A map-style dataset of ``N`` items.
            labels: Class of each item ``[N]``.
            embeddings: ``[N, d]``, for the linear model.
            seed: Of weights and order, together with the number of the run.
            device: Where to train.
            num_workers: Processes that read items.
            reducer: The ranks that share the runs.
            progress: Called as ``progress(total, description)``, gives a context manager around a bar.

        Returns:
            The signals of all runs, the same on every rank.

        Raises:
            CoresetError: Images of different sizes, no images, or a training that diverged.
        """
        ranks = reducer or SerialReducer()
        with random_state_kept():
            return self._record(dataset, labels, embeddings, seed, torch.device(device), num_workers, ranks, progress)

    def _record(
        self,
        dataset: Any,
        labels: Tensor,
        embeddings: Tensor | None,
        seed: int,
        device: torch.device,
        num_workers: int,
        ranks: Reducer,
        progress: Callable[[int, str], AbstractContextManager[Any]] | None,
    ) -> Signals:
        # A rank that fails alone must not leave the others waiting.
        with together(ranks, "reading the images of a proxy"):
            items = self._items(dataset, embeddings, num_workers)
        found: dict[int, Signals] = {}
        for turn in range(-(-self.seeds // ranks.world_size)):
            run = (turn * ranks.world_size + ranks.rank) % self.seeds
            with together(ranks, "training a proxy"):
                own = self._run(items, labels, (seed, run), device, num_workers, progress)
            for rank in range(ranks.world_size):
                number = turn * ranks.world_size + rank
                if number < self.seeds:
                    signals = from_rank(ranks, own, rank)
                    assert signals is not None
                    found[number] = signals
        joined = found[0]
        for number in range(1, self.seeds):
            joined = joined.followed_by(found[number], new_run=True)
        return joined

    def _items(self, dataset: Any, embeddings: Tensor | None, num_workers: int) -> "Dataset[Any]":
        if self.needs_features:
            if embeddings is None:
                msg = "Proxy(model='linear') trains on embeddings and got none: give features=, or another model."
                raise CoresetError(msg)
            rows = embeddings.cpu()
            shift, scale = rows.mean(dim=0), rows.std(dim=0, correction=0).clamp(min=1e-6)
            return TensorDataset((rows - shift) / scale)
        size = [self.image_size, self.image_size]
        transform = network_transform(size, size, v2.InterpolationMode.BILINEAR, _MEAN, _DEVIATION, normalize=True)
        view = EvaluationView(dataset, transform)
        first = scaled_tensor(image_of(view[0]))
        if first.numel() * len(view) > _KEPT_NUMBERS:
            return view
        return TensorDataset(torch.cat(list(_batches(view, num_workers))))

    def _run(
        self,
        items: "Dataset[Any]",
        labels: Tensor,
        seed: tuple[int, int],
        device: torch.device,
        num_workers: int,
        progress: Callable[[int, str], AbstractContextManager[Any]] | None,
    ) -> Signals:
        # Rows that are in memory need no workers.
        num_workers = 0 if isinstance(items, TensorDataset) else num_workers
        network = self._build(image_of(items[0]), int(labels.max()) + 1, seed)
        head = _last_linear(network)
        recorder = Recorder(head, embeddings=head is not None)
        recorder.attach(network)
        epochs: list[list[EpochColumns]] = []

        def look(_epoch: int, trained: nn.Module) -> None:
            place = 0
            with torch.no_grad():
                for images in _batches(items, num_workers):
                    recorder.begin(torch.arange(place, place + len(images)))
                    trained(images.to(device, non_blocking=True))
                    recorder.end()
                    place += len(images)
            record = recorder.finish()
            assert record is not None
            # Only the newest logits count.
            epochs[-1:] = [[replace(part, latest={}) for part in parts] for parts in epochs[-1:]]
            epochs.append([epoch_columns(record, labels)])

        train_classifier(
            network,
            items,
            labels,
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            seed=int(torch.randint(2**62, (1,), generator=seeded_generator("proxy", *seed))),
            device=device,
            num_workers=num_workers,
            progress=progress,
            on_epoch_end=look,
        )
        recorder.detach()
        return whole_signals(labels, epochs)

    def _build(self, image: Tensor, classes: int, seed: tuple[int, int]) -> nn.Module:
        drawn = int(torch.randint(2**62, (1,), generator=seeded_generator("proxy weights", *seed)))
        # torch.manual_seed would seed GPUs too.
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.default_generator.manual_seed(drawn)
            if not isinstance(self.model, str):
                return self.model(classes)
            if self.needs_features:
                return nn.Sequential(nn.Flatten(), nn.Linear(len(image), classes))
            library, _, name = self.model.partition("/")
            if library == "timm":
                network: nn.Module = timm.create_model(name, num_classes=classes, in_chans=len(image))
                return network
            made: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=classes)
            return nn.Sequential(_Colours(self.model), made)


def _check_model(model: Any) -> None:
    if isinstance(model, nn.Module):
        msg = (
            f"model is a {type(model).__name__} that is there already; a function of the number of classes is "
            "accepted, because each seed needs new weights: give lambda classes: ..., 'timm/<name>' or 'linear'."
        )
        raise ValueError(msg)
    if callable(model) or model == "linear":
        return
    library, _, name = str(model).partition("/")
    known = {
        "timm": timm.is_model,
        "torchvision": lambda word: word in torchvision.models.list_models(module=torchvision.models),
    }
    if library not in known or not known[library](name):
        msg = (
            f"model={model!r} is not accepted: give 'linear', 'timm/<name>', 'torchvision/<name>' with a name that the "
            "library knows, or a function of the number of classes."
        )
        raise ValueError(msg)


class _Colours(nn.Module):
    """Three channels for networks that know no other number."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, images: Tensor) -> Tensor:
        return with_channels(images, 3, self.name)


class _Images(Dataset[Any]):
    def __init__(self, items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Tensor:
        return scaled_tensor(image_of(self.items[index]))


def _batches(items: Any, num_workers: int) -> Any:
    """All images in order, in blocks of one size on every machine."""
    if isinstance(items, TensorDataset):
        return items.tensors[0].split(_ROWS)
    generator = torch.Generator().manual_seed(0)
    return DataLoader(
        _Images(items), batch_size=_ROWS, num_workers=num_workers, generator=generator, collate_fn=_stacked
    )


def _stacked(images: list[Tensor]) -> Tensor:
    shapes = {tuple(image.shape) for image in images}
    if len(shapes) > 1:
        msg = (
            f"Images of different sizes ({', '.join(map(str, sorted(shapes)[:3]))}) cannot be trained on together: "
            "give the dataset a transform attribute, which is replaced by one that resizes, or take "
            "Proxy(model='linear')."
        )
        raise CoresetError(msg)
    return torch.stack(images)


def _last_linear(network: nn.Module) -> str | None:
    """Name of the classifier, where it is a linear layer."""
    names = [name for name, part in network.named_modules() if isinstance(part, nn.Linear) and name]
    return names[-1] if names else None
