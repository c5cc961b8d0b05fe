"""From the source's train loader to the same loader over fewer items."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from lightning_coreset.errors import CoresetError, UnsupportedSourceError


@dataclass(frozen=True)
class TrainLoader:
    """A train loader that was found fit for selection by index.

    Attributes:
        loader: The source's loader.
        dataset: What it draws from; for a loader over a subset sampler, that subset.
    """

    loader: "DataLoader[Any]"
    dataset: "Dataset[Any]"

    @property
    def size(self) -> int:
        """Items of the dataset, ``N``."""
        return len(self.dataset)  # type: ignore[arg-type]


def read_train_loader(loader: Any) -> TrainLoader:
    """Check that a train loader can be cut by index, and find its dataset.

    Raises:
        UnsupportedSourceError: Several loaders, an iterable dataset, a batch sampler or a sampler of one's own.
    """
    if isinstance(loader, list | tuple) and len(loader) == 1:
        loader = loader[0]
    if not isinstance(loader, DataLoader):
        msg = (
            f"train_dataloader() gave a {type(loader).__name__}; one torch DataLoader is accepted: return one loader, "
            "or wrap the dataset that is to be cut in CoresetDataModule."
        )
        raise UnsupportedSourceError(msg)
    dataset: Any = loader.dataset
    refuse_iterable(dataset)
    if loader.batch_sampler is None or type(loader.batch_sampler) is not BatchSampler:
        came = "no automatic batching" if loader.batch_sampler is None else f"a {type(loader.batch_sampler).__name__}"
        msg = (
            f"The train loader has {came}, and a smaller set of items cannot be passed through it; batch_size= with "
            "shuffle= is accepted: build the loader that way, or wrap the dataset in CoresetDataModule."
        )
        raise UnsupportedSourceError(msg)
    sampler = loader.sampler
    if type(sampler) is SubsetRandomSampler:
        return TrainLoader(loader, Subset(dataset, [int(index) for index in sampler.indices]))
    plain_shuffle = type(sampler) is RandomSampler and not sampler.replacement and sampler.num_samples == len(dataset)
    if not plain_shuffle and not isinstance(sampler, SequentialSampler | DistributedSampler | WeightedRandomSampler):
        msg = (
            f"The train loader draws with a {type(sampler).__name__}, which may not know a smaller set of items; "
            "shuffle=True or False, SubsetRandom-, Weighted- and DistributedSampler are accepted: use one of them, or "
            "wrap the dataset in CoresetDataModule."
        )
        raise UnsupportedSourceError(msg)
    return TrainLoader(loader, dataset)


def refuse_iterable(dataset: Any) -> None:
    """Refuse a dataset whose items have no index.

    Raises:
        UnsupportedSourceError: An iterable dataset.
    """
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        msg = (
            f"{type(dataset).__name__} is an iterable dataset, whose items have no index; a map-style dataset is "
            "accepted: give one with __getitem__ and __len__."
        )
        raise UnsupportedSourceError(msg)


def check_batches(count: int, loader: "DataLoader[Any]", batch_size: int | None, ranks: int) -> None:
    """Refuse a coreset that leaves a loader with ``drop_last`` without a single batch.

    Lightning would print a line about no training batches and return as if all were well.

    Raises:
        CoresetError: ``ceil(count / ranks)`` is smaller than a batch.
    """
    size = batch_size or loader.batch_size or 1
    share = -(-count // ranks)
    if loader.drop_last and share < size:
        msg = (
            f"The train loader drops its last batch, and {count} items on {ranks} rank(s) do not fill one batch of "
            f"{size}: keep at least {(size - 1) * ranks + 1}, lower the batch size, or set drop_last=False."
        )
        raise CoresetError(msg)


def reduced_loader(
    template: TrainLoader,
    dataset: "Dataset[Any]",
    indices: list[int],
    *,
    batch_size: int | None = None,
    num_workers: int | None = None,
    resample: Sampler[int] | None = None,
    generator: torch.Generator | None = None,
) -> "DataLoader[Any]":
    """The source's loader over another dataset, all else kept: workers, collation, shuffling, generator.

    Args:
        template: The source's loader.
        dataset: What to train on.
        indices: Positions of the dataset's items in the template's, ascending.
        batch_size: Replaces the source's.
        num_workers: Replaces the source's.
        resample: A sampler to draw with, instead of the source's shuffling.
        generator: Replaces the source's.
    """
    loader = template.loader
    workers = loader.num_workers if num_workers is None else num_workers
    sampler, shuffle = (resample, None) if resample is not None else _sampler(loader, dataset, indices)
    return DataLoader(
        dataset,
        batch_size=batch_size or loader.batch_size,
        shuffle=shuffle,
        sampler=sampler,
        num_workers=workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        drop_last=loader.drop_last,
        timeout=loader.timeout if workers else 0,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context if workers else None,
        generator=generator or loader.generator,
        prefetch_factor=loader.prefetch_factor if workers else None,
        persistent_workers=loader.persistent_workers and workers > 0,
        pin_memory_device=loader.pin_memory_device,
        in_order=loader.in_order,
    )


def _sampler(
    loader: "DataLoader[Any]", dataset: "Dataset[Any]", indices: list[int]
) -> tuple[Sampler[int] | None, bool | None]:
    old = loader.sampler
    if isinstance(old, DistributedSampler):
        new: DistributedSampler[Any] = DistributedSampler(
            dataset,
            num_replicas=old.num_replicas,
            rank=old.rank,
            shuffle=old.shuffle,
            seed=old.seed,
            drop_last=old.drop_last,
        )
        return new, None
    if isinstance(old, WeightedRandomSampler):
        draws = max(1, round(old.num_samples * len(indices) / max(1, len(old.weights))))
        draws = draws if old.replacement else min(draws, len(indices))
        weights = torch.as_tensor(old.weights)[indices].tolist()
        return WeightedRandomSampler(weights, draws, old.replacement, generator=old.generator), None
    return None, not isinstance(old, SequentialSampler)


class WeightedItems(Dataset[Any]):
    """Items with their weight: under the key ``"weight"`` of a dict, as the last entry of a tuple or list.

    Args:
        dataset: The items to train on.
        weights: Weight of each ``[k]``.

    Example:
        >>> WeightedItems([("image", 3)], torch.tensor([0.5]))[0]
        ('image', 3, 0.5)
    """

    def __init__(self, dataset: Any, weights: Tensor) -> None:
        self.dataset = dataset
        self.weights = weights.tolist()

    def __len__(self) -> int:
        """Number of items."""
        return len(self.weights)

    def __getitem__(self, index: int) -> Any:
        """One item with its weight."""
        item, weight = self.dataset[index], self.weights[index]
        if isinstance(item, dict):
            return {**item, "weight": weight}
        return (*item, weight) if isinstance(item, list | tuple) else (item, weight)
