"""Every touch of a private or version-dependent name of Lightning, and what the wrapper needs to know of a trainer."""

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.utils.data import DataLoader, Dataset, IterableDataset
from tqdm.auto import tqdm

from lightning_coreset.data.loaders import refuse_iterable
from lightning_coreset.selectors.context import ProgressBar, silent_progress

__all__ = (
    "DatasetSource",
    "as_datamodule",
    "data_parallel_ranks",
    "deals_out_samplers",
    "forward_hooks",
    "keeps_train_loader",
    "leaves_nothing_behind",
    "overrides_train_dataloader",
    "progress_of",
    "renew_train_loader",
    "smoke_test_batches",
    "trainer_of",
    "watch_train_loaders",
)

#: Hooks that Lightning looks for on the datamodule it was given, and calls only where they are overridden.
FORWARDED_HOOKS = (
    "prepare_data",
    "val_dataloader",
    "test_dataloader",
    "predict_dataloader",
    "on_before_batch_transfer",
    "transfer_batch_to_device",
    "on_after_batch_transfer",
    "on_exception",
)


class DatasetSource(LightningDataModule):
    """A datamodule around plain datasets, or around a train loader that is there already.

    Several datasets of one stage get one loader each. Loaders of datasets that are not given are not overridden, as
    Lightning expects.
    """

    def __init__(
        self,
        train: Any,
        val: Any = None,
        test: Any = None,
        predict: Any = None,
        *,
        batch_size: int = 1,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self._datasets = {"train": train, "val": val, "test": test, "predict": predict}
        if not isinstance(train, DataLoader):
            self.batch_size = batch_size
            self.num_workers = num_workers
        # Bound methods, not closures: the datamodule must survive pickling for ddp_spawn.
        hooks = (self._train_loader, self._val_loader, self._test_loader, self._predict_loader)
        for stage, hook in zip(self._datasets, hooks, strict=True):
            if self._datasets[stage] is not None:
                setattr(self, f"{stage}_dataloader", hook)

    def _train_loader(self) -> Any:
        train = self._datasets["train"]
        return train if isinstance(train, DataLoader) else self._loader(train, shuffle=True)

    def _val_loader(self) -> Any:
        return self._loader(self._datasets["val"])

    def _test_loader(self) -> Any:
        return self._loader(self._datasets["test"])

    def _predict_loader(self) -> Any:
        return self._loader(self._datasets["predict"])

    def _loader(self, dataset: Any, shuffle: bool = False) -> Any:
        if isinstance(dataset, Mapping) and _are_datasets(dataset.values()):
            return {key: self._loader(part, shuffle) for key, part in dataset.items()}
        if isinstance(dataset, list | tuple) and _are_datasets(dataset):
            return [self._loader(part, shuffle) for part in dataset]
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            # torch refuses to shuffle nothing, or what has no index, before we can say that it is so.
            shuffle=shuffle and not isinstance(dataset, IterableDataset) and len(dataset) > 0,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
        )


def _are_datasets(parts: Iterable[Any]) -> bool:
    """Whether these are several datasets, and not the items of one."""
    kinds = [isinstance(part, Dataset) for part in parts]
    return bool(kinds) and all(kinds)


def as_datamodule(source: Any, batch_size: int | None, num_workers: int | None) -> LightningDataModule:
    """Whatever a user wraps, as a datamodule.

    Raises:
        UnsupportedSourceError: An iterable dataset.
        TypeError: Neither a datamodule of ``lightning.pytorch`` nor a map-style dataset or loader.
    """
    if isinstance(source, LightningDataModule):
        return source
    foreign = [f"{base.__module__}.{base.__qualname__}" for base in type(source).__mro__ if _is_foreign(base)]
    if foreign:
        msg = (
            f"{type(source).__name__} is a {foreign[0]}, which lightning.pytorch does not know; a datamodule of "
            "lightning.pytorch is accepted: change its import to `import lightning.pytorch as pl`."
        )
        raise TypeError(msg)
    if isinstance(source, IterableDataset):
        refuse_iterable(source)
    if isinstance(source, DataLoader) or (hasattr(source, "__getitem__") and hasattr(source, "__len__")):
        return DatasetSource(source, batch_size=batch_size or 1, num_workers=num_workers or 0)
    msg = (
        f"source is a {type(source).__name__}; a LightningDataModule, a map-style Dataset or a DataLoader is accepted: "
        "give one of them."
    )
    raise TypeError(msg)


def _is_foreign(base: type) -> bool:
    return base.__name__ == "LightningDataModule" and base.__module__.startswith("pytorch_lightning")


def forward_hooks(source: LightningDataModule, wrapper: LightningDataModule) -> None:
    """Give the wrapper the hooks its source overrides, and no others.

    Lightning asks whether a hook is overridden: a wrapper that defined all of them would force empty loops and shadow
    the module's own, one that defined none would drop the source's.
    """
    for hook in FORWARDED_HOOKS:
        if is_overridden(hook, source, parent=LightningDataModule):
            object.__setattr__(wrapper, hook, getattr(source, hook))
    for flag in ("prepare_data_per_node", "allow_zero_length_dataloader_with_multiple_devices", "name"):
        object.__setattr__(wrapper, flag, getattr(source, flag))


def overrides_train_dataloader(source: LightningDataModule) -> bool:
    """Whether there is a train loader to cut at all."""
    return is_overridden("train_dataloader", source, parent=LightningDataModule)


def trainer_of(datamodule: Any) -> Trainer | None:
    """The trainer a datamodule is attached to, or None in a notebook."""
    trainer = getattr(datamodule, "trainer", None)
    return trainer if isinstance(trainer, Trainer) else None


def data_parallel_ranks(trainer: Trainer | None) -> tuple[int, int]:
    """How many ranks share the data, and which one this is: ``(ranks, rank)``."""
    kwargs = None if trainer is None else trainer.distributed_sampler_kwargs
    return (int(kwargs["num_replicas"]), int(kwargs["rank"])) if kwargs else (1, 0)


def deals_out_samplers(trainer: Trainer | None) -> bool:
    """Whether the trainer itself wraps samplers for the ranks (``use_distributed_sampler``)."""
    return trainer is None or bool(trainer._accelerator_connector.use_distributed_sampler)


class _LoaderWatch:
    """Stands in for a fit loop's ``setup_data``: only in there are the loaders made ready those for training."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.original = trainer.fit_loop.setup_data
        self.changes: list[Callable[[Any], Any]] = []
        self.stale = False

    def __call__(self) -> None:
        if self.stale:
            # Nowhere else, because hooks at the end of an epoch may look at the loader.
            self.trainer.fit_loop._combined_loader = None
            self.stale = False
        strategy: Any = self.trainer.strategy
        last_step = strategy.process_dataloader

        def process_dataloader(dataloader: object) -> object:
            for change in self.changes:
                dataloader = change(dataloader)
            return last_step(dataloader)

        strategy.process_dataloader = process_dataloader
        try:
            self.original()
        finally:
            del strategy.process_dataloader


def watch_train_loaders(trainer: Trainer, change: Callable[[Any], Any]) -> Callable[[], None]:
    """Let ``change`` replace each train loader that the trainer makes ready, after samplers were dealt out.

    Whether loaders come from a datamodule, a module or an argument of ``fit``, and however often they are made again.

    Args:
        trainer: In ``setup``, before it asks for a train loader.
        change: Called with a loader, gives the one to use.

    Returns:
        A function that ends it.
    """
    loop: Any = trainer.fit_loop
    watch: Any = loop.setup_data
    if not isinstance(watch, _LoaderWatch):
        watch = loop.setup_data = _LoaderWatch(trainer)
    watch.changes.append(change)

    def end() -> None:
        if change in watch.changes:
            watch.changes.remove(change)
        if not watch.changes and vars(loop).get("setup_data") is watch:
            del loop.setup_data

    return end


def renew_train_loader(trainer: Trainer) -> None:
    """Let the trainer ask for the train loader again at the start of the next epoch, and for that one only.

    ``reload_dataloaders_every_n_epochs`` would make the validation loaders again too, and counts from the first epoch.

    Args:
        trainer: One whose train loaders are watched.
    """
    watch: Any = trainer.fit_loop.setup_data
    assert isinstance(watch, _LoaderWatch)
    watch.stale = True


def keeps_train_loader(trainer: Any) -> bool:
    """Whether a fit is running that will not ask for its train loader again."""
    if trainer is None or not trainer.training or trainer.fit_loop._combined_loader is None:
        return False
    return not trainer.reload_dataloaders_every_n_epochs


def leaves_nothing_behind(trainer: Trainer) -> bool:
    """Whether a fit runs in processes that are started for it, whose objects are gone afterwards (``ddp_spawn``)."""
    return isinstance(trainer.strategy.launcher, _MultiProcessingLauncher)


def smoke_test_batches(trainer: Any, epoch_batches: int) -> int | None:
    """Batches a smoke test will train on, None for a real run.

    Args:
        trainer: The trainer, if any.
        epoch_batches: Batches of a whole epoch over the coreset, of which ``overfit_batches`` may be a share.
    """
    if trainer is None:
        return None
    if trainer.fast_dev_run:
        return int(trainer.fast_dev_run)
    if isinstance(trainer.overfit_batches, float) and trainer.overfit_batches > 0:
        return max(1, math.floor(trainer.overfit_batches * epoch_batches))
    return int(trainer.overfit_batches) or None


def progress_of(trainer: Trainer | None, rank: int) -> Callable[[int, str], AbstractContextManager[ProgressBar]]:
    """A bar on the first rank that shows itself after a second; silent where the trainer's own is switched off."""
    if rank != 0:
        return silent_progress
    if trainer is not None:
        callback: Any = trainer.progress_bar_callback
        if callback is None or callback.is_disabled:
            return silent_progress
    return _bar


def _bar(total: int, description: str) -> AbstractContextManager[ProgressBar]:
    return tqdm(total=total, desc=description, delay=1.0, leave=False)
