"""TrainingDynamics: records what any run tells of each train item."""

import os
from collections.abc import Callable, Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_coreset.data import read_labels
from lightning_coreset.datamodule import CoresetDataModule
from lightning_coreset.distributed import gather_json, together
from lightning_coreset.errors import CoresetError
from lightning_coreset.recording import RecordedPool, RecordingCallback
from lightning_coreset.signals import Signals
from lightning_coreset.signals.epochs import EpochColumns
from lightning_coreset.signals.recording import Recording
from lightning_coreset.signals.tagging import untold
from lightning_coreset.storage import join


class TrainingDynamics(RecordingCallback):
    """Records loss, margin, correctness, EL2N and last-layer feature norm of each train item, epoch by epoch.

    Works with any module, datamodule or train loader over a map-style dataset: ``training_step`` sees the batches it
    always saw, in the same order, and all random draws stay as they are. Items are known by their position in the
    loader's dataset, under a `CoresetDataModule` by their position in the source's (items that were not chosen are not
    seen). Labels are the dataset's, so that collations which mix labels do not blur them.

    The recording is a folder to which each rank appends a file an epoch; a killed run keeps its whole epochs, and one
    that is resumed (or started again) replaces epochs from where it starts. An item that comes several times in an
    epoch counts as it was seen last. Recorded are the logits of the training step, with its augmentation and dropout,
    before the step's update.

    Cost: one copy of the logits a step; at an epoch's end O(n C) time on the CPU. Memory on each rank: ``4 n C`` bytes
    (and ``4 n h`` with embeddings) for the ``n`` items it trains on in an epoch. Disk: 24 bytes an item and epoch, and
    the newest logits.

    Refused, each with a message: several train loaders, iterable datasets, loaders that are no torch ``DataLoader`` or
    change batches in their own ``__iter__``, ``dataloader_iter`` in ``training_step``, batches whose logits have
    another number of rows than items.

    Args:
        path: Folder or fsspec URL; None is ``training_dynamics`` below the trainer's ``default_root_dir``. All ranks
            must see it.
        module: Name (as in ``named_modules()``) of the part whose output are the logits, best the last linear layer:
            its input gives the feature norms that ``grand`` and the gradient methods need. None takes the output of
            the module's ``forward`` (a tensor, its entry ``logits``, or the first of a tuple), without feature norms.
        labels: Class of each item ``[N]``, or a callable that gets the train dataset and returns them; None reads them
            from the dataset.
        embeddings: Keep the newest input of ``module`` too.
        every_n_epochs: Record epochs 0, n, 2n, ...

    Raises:
        ValueError: ``embeddings`` without ``module``, or ``every_n_epochs`` below 1.

    Example:
        >>> TrainingDynamics("recordings/run-1", module="head").path
        'recordings/run-1'
    """

    def __init__(
        self,
        path: str | os.PathLike | None = None,  # type: ignore[type-arg]
        *,
        module: str | None = None,
        labels: Tensor | Sequence[int] | Callable[..., Any] | None = None,
        embeddings: bool = False,
        every_n_epochs: int = 1,
    ) -> None:
        if embeddings and module is None:
            msg = (
                "embeddings=True without module= is not accepted: give the name of the last layer, whose input counts."
            )
            raise ValueError(msg)
        if every_n_epochs < 1:
            msg = f"every_n_epochs={every_n_epochs!r} is not accepted: give a whole number of at least 1."
            raise ValueError(msg)
        super().__init__(module, embeddings, every_n_epochs)
        self.path = None if path is None else os.fspath(path)
        self.labels = labels
        self._own: RecordedPool | None = None
        self._attempt: int | None = None

    @property
    def recording(self) -> Recording:
        """The folder."""
        if self.path is None:
            msg = "The recording has no place yet: give path=, or read it after fit()."
            raise CoresetError(msg)
        return Recording(self.path)

    def signals(self) -> Signals:
        """What was recorded so far, as signals of the whole pool.

        Raises:
            CoresetError: Nothing was recorded yet.
        """
        return self.recording.signals()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the place of the recording."""
        super().setup(trainer, pl_module, stage)
        self._attempt = self._own = None
        if self.path is None and stage == "fit":
            self.path = join(trainer.default_root_dir, "training_dynamics")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin an attempt, before any work is done that could not be kept. A smoke test keeps nothing."""
        super().on_train_start(trainer, pl_module)
        smoke_test: Any = getattr(trainer, "fast_dev_run", 0)
        if smoke_test or self._pool is None:
            return
        reducer = self.reducer(trainer)
        attempt = 0
        with together(reducer, "beginning the recording"):
            if reducer.rank == 0:
                attempt = self.recording.begin(self._pool.labels)
        self._attempt = gather_json(reducer, attempt)[0]

    def pool(self, trainer: Trainer, loader: "DataLoader[Any]") -> RecordedPool:
        """The loader's dataset, or the source's behind a `CoresetDataModule`."""
        datamodule: Any = getattr(trainer, "datamodule", None)
        if isinstance(datamodule, CoresetDataModule):
            found: RecordedPool = datamodule._recorded_pool(self.labels)
            return found
        # Loaders that are made again draw from the same items.
        dataset: Any = untold(loader.dataset)
        if self._own is None or len(self._own.labels) != len(dataset):
            labels = read_labels(dataset, self.labels, decode=True)
            if labels is None:
                msg = (
                    f"{type(dataset).__name__} shows no class of its items: give TrainingDynamics(labels=...), "
                    "one for each item, or a callable."
                )
                raise CoresetError(msg)
            self._own = RecordedPool(labels)
        return self._own

    def keep(self, trainer: Trainer, epoch: int, seen: EpochColumns) -> None:
        """Append the epoch to the folder."""
        reducer = self.reducer(trainer)
        if self._attempt is None:
            return
        with together(reducer, "writing the recording"):
            self.recording.append(seen, epoch, self._attempt, reducer.rank, reducer.world_size)
        if reducer.rank == 0:
            self.recording.prune()
