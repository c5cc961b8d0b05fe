"""What `TrainingDynamics` and the data module share: the recorder on a trainer's hooks."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_coreset.compat import watch_train_loaders
from lightning_coreset.distributed import current_reducer, gather_json, together
from lightning_coreset.errors import CoresetError, UnsupportedSourceError
from lightning_coreset.ops.reducer import Reducer
from lightning_coreset.signals.epochs import NOTHING_SEEN, EpochColumns, epoch_columns
from lightning_coreset.signals.recorder import Recorder
from lightning_coreset.signals.tagging import BatchPositions, refuse_untellable, tagged_loader


@dataclass(frozen=True, eq=False)
class RecordedPool:
    """Whose signals a recording holds.

    Attributes:
        labels: Class of each item ``[N]``.
        positions: Position in the pool of each item of the train loader ``[n]``; None where they are the same.
    """

    labels: Tensor
    positions: Tensor | None = None


class RecordingCallback(Callback):
    """Records each epoch and hands it over; subclasses say whose signals they are and where they go.

    Args:
        module: Name of the part of the module whose output are the logits; None is its ``forward``.
        embeddings: Record the input of that part too.
        every_n_epochs: Record epochs 0, n, 2n, ...
    """

    def __init__(self, module: str | None = None, embeddings: bool = False, every_n_epochs: int = 1) -> None:
        self.module = module
        self.embeddings = embeddings
        self.every_n_epochs = every_n_epochs
        self._recorder = Recorder(module, embeddings)
        self._seen = BatchPositions()
        self._unwatch: Callable[[], None] | None = None
        self._pool: RecordedPool | None = None
        self._epoch: int | None = None
        self._begun: int | None = None

    @abstractmethod
    def pool(self, trainer: Trainer, loader: "DataLoader[Any]") -> RecordedPool:
        """Labels and positions of what a train loader draws from; called on all ranks for each loader."""

    @abstractmethod
    def keep(self, trainer: Trainer, epoch: int, seen: EpochColumns) -> None:
        """Take what this rank saw in an epoch; called on all ranks."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Watch the train loaders from before the first is asked for."""
        self.detach()
        if stage == "fit":
            self._unwatch = watch_train_loaders(trainer, partial(self._tag, trainer))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen to the module."""
        loaders: Any = trainer.train_dataloader
        if isinstance(loaders, list | tuple) and len(loaders) == 1:
            loaders = loaders[0]
        if not isinstance(loaders, DataLoader):
            msg = (
                f"The train loaders are a {type(loaders).__name__} of several, and their batches cannot be told apart; "
                "one loader is accepted: record a run with one train loader."
            )
            raise UnsupportedSourceError(msg)
        self._recorder.attach(pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin an epoch."""
        self._begin_epoch(trainer)

    def _begin_epoch(self, trainer: Trainer) -> None:
        self._recorder.reset()
        self._begun = trainer.current_epoch
        due = trainer.current_epoch % self.every_n_epochs == 0
        self._epoch = trainer.current_epoch if due else None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Say which items are trained on."""
        # A run that is resumed in the middle of an epoch does not start it again, and only its rest is recorded.
        if self._begun != trainer.current_epoch:
            self._begin_epoch(trainer)
        positions = self._seen.next()
        if self._epoch is not None:
            self._recorder.begin(positions)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep what the step said; after the last one hand the epoch over, before validation saves a checkpoint."""
        if self._epoch is not None:
            self._recorder.end()
            if trainer.is_last_batch:
                self._hand_over(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hand an epoch over that was ended early."""
        if self._epoch is not None:
            self._hand_over(trainer)

    def _hand_over(self, trainer: Trainer) -> None:
        assert self._epoch is not None
        record = self._recorder.finish()
        epoch, self._epoch = self._epoch, None
        reducer = self.reducer(trainer)
        # Nobody saw anything: training was resumed at the end of this epoch.
        if not any(gather_json(reducer, record is not None)):
            return
        assert self._pool is not None
        with together(reducer, "recording an epoch"):
            seen = NOTHING_SEEN if record is None else epoch_columns(record, self._pool.labels)
        self.keep(trainer, epoch, seen)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave no trace on trainer and module."""
        self.detach()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave no trace on trainer and module; an epoch that was not finished is lost."""
        self.detach()

    def reducer(self, trainer: Trainer) -> Reducer:
        """The ranks that train together."""
        return current_reducer(trainer.strategy.root_device)

    def _tag(self, trainer: Trainer, loader: Any) -> Any:
        with together(self.reducer(trainer), "reading the train dataset"):
            refuse_untellable(loader)
            pool = self.pool(trainer, loader)
            size = len(pool.labels if pool.positions is None else pool.positions)
            if size != len(loader.dataset):
                msg = (
                    f"The train loader draws from {len(loader.dataset)} items and the recorded pool gives it {size}: "
                    "record a run that trains on the items of its dataset, each as one item."
                )
                raise CoresetError(msg)
            if self._pool is not None and not torch.equal(self._pool.labels, pool.labels):
                msg = (
                    f"The train dataset changed during training ({len(self._pool.labels)} items before, "
                    f"{len(pool.labels)} now, or other labels): record a run over one dataset."
                )
                raise CoresetError(msg)
        self._pool = pool
        return tagged_loader(loader, self._seen, pool.positions)

    def detach(self) -> None:
        """Leave no trace on trainer and module."""
        self._recorder.detach()
        self._recorder.reset()
        self._epoch = self._pool = self._begun = None
        if self._unwatch is not None:
            self._unwatch()
            self._unwatch = None
