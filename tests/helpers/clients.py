"""What a trainer does with a stranger's datamodule, so that two runs can be compared: batches, metrics, hooks."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from lightning_coreset import CoresetDataModule
from tests.helpers.lightning_parts import quiet_trainer

_TRANSFER_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
_HOOKS = ("prepare_data", "setup", "val_dataloader", "test_dataloader", "teardown", *_TRANSFER_HOOKS)
#: How often Lightning asks a datamodule for train batches is the one thing that a smaller set changes.
_TRAINING = ("train", "predict")


@dataclass
class Watched(pl.Callback):
    """What one datamodule gave to ``validate``, ``test`` and ``fit``.

    Attributes:
        datamodule: What the trainer got.
        batches: The batches of each stage, as the module got them.
        metrics: What ``validate`` and ``test`` of an untrained module returned.
        calls: The hooks of the source that Lightning called outside of training, in order, with their stage.
        transfers: Calls of each transfer hook during training.
        epochs: Train batches of each epoch.
        seen: What differs between items, of each train item of each epoch.
    """

    mark: Callable[[Any], list[Any]]
    datamodule: Any = None
    batches: dict[str, list[Any]] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    transfers: dict[str, int] = field(default_factory=dict)
    epochs: list[int] = field(default_factory=list)
    seen: list[list[Any]] = field(default_factory=list)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.epochs.append(0)
        self.seen.append([])

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.epochs[-1] += 1
        self.seen[-1] += self.mark(batch)

    def on_validation_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, *place: int) -> None:
        self.batches.setdefault(trainer.state.stage.value, []).append(batch)

    def on_test_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *place: int) -> None:
        self.batches.setdefault("test", []).append(batch)

    def listen(self, source: pl.LightningDataModule) -> None:
        """Note the calls of the hooks that a source overrides."""
        for name in _HOOKS:
            if is_overridden(name, source, parent=pl.LightningDataModule):
                setattr(source, name, self._noted(name, getattr(source, name), source))

    def _noted(self, name: str, hook: Callable[..., Any], source: pl.LightningDataModule) -> Callable[..., Any]:
        @functools.wraps(hook)
        def noted(*args: Any, **kwargs: Any) -> Any:
            stage = source.trainer.state.stage.value if source.trainer else ""
            if name not in _TRANSFER_HOOKS:
                self.calls.append((name, str([*args, *kwargs.values()])))
            elif stage == "train":
                self.transfers[name] = self.transfers.get(name, 0) + 1
            elif stage != "predict":
                self.calls.append((name, stage))
            return hook(*args, **kwargs)

        return noted


def watch(
    make_source: Callable[[], pl.LightningDataModule],
    make_module: Callable[[], pl.LightningModule],
    root: Path,
    mark: Callable[[Any], list[Any]],
    wrap: Callable[[Any], Any] = lambda source: source,
    epochs: int = 2,
) -> Watched:
    """Validate, test and fit with a real trainer, from the same seeds each time."""
    watched = Watched(mark)
    for task in ("validate", "test", "fit"):
        pl.seed_everything(0, verbose=False)
        module, source = make_module(), make_source()
        watched.listen(source)
        watched.datamodule = wrap(source)
        (root / task).mkdir(parents=True)
        trainer = quiet_trainer(root / task, callbacks=[watched], max_epochs=epochs)
        watched.metrics[task] = getattr(trainer, task)(module, datamodule=watched.datamodule)
    return watched


def compare(
    make_source: Callable[[], pl.LightningDataModule],
    make_module: Callable[[], pl.LightningModule],
    root: Path,
    mark: Callable[[Any], list[Any]],
    *,
    expected_batches: int,
    **coreset: Any,
) -> Watched:
    """Hold that a wrapped source differs from a bare one in its train items alone.

    Args:
        make_source: Makes the stranger's datamodule.
        make_module: Makes the module to train.
        root: Folder for what trainers write.
        mark: From a train batch to what tells its items apart.
        expected_batches: Train batches of an epoch over the coreset.
        coreset: Arguments of `CoresetDataModule`.

    Returns:
        What happened to the wrapped one.
    """
    bare = watch(make_source, make_module, root / "bare", mark)
    ours = watch(make_source, make_module, root / "wrapped", mark, lambda source: CoresetDataModule(source, **coreset))
    assert bare.batches.keys() == ours.batches.keys() >= {"validate", "test", "sanity_check"}
    for stage, batches in bare.batches.items():
        assert len(batches) == len(ours.batches[stage])
        assert all(same(one, other) for one, other in zip(batches, ours.batches[stage], strict=True)), stage
    assert bare.metrics == ours.metrics
    assert bare.calls == ours.calls
    assert ours.epochs == [expected_batches] * 2
    assert bare.epochs[0] > expected_batches
    assert bare.transfers.keys() == ours.transfers.keys()
    assert all(count == sum(ours.epochs) for count in ours.transfers.values())
    assert all(len(set(epoch)) == len(epoch) for epoch in ours.seen)
    return ours


def same(one: Any, other: Any) -> bool:
    """Whether two batches of any form are equal, bit by bit."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    return bool(one == other)


def rows(images: Tensor) -> list[tuple[float, ...]]:
    """Items of a batch as hashable values: sums over their pixels, weighted by place."""
    flat = images.flatten(1).double()
    places = torch.linspace(1, 2, flat.shape[1], dtype=torch.float64).square()
    return [round(value, 6) for value in (flat @ places).tolist()]


def written_pictures(count: int, size: int, channels: int = 3, seed: int = 0) -> Tensor:
    """Pictures that all differ ``[count, size, size, channels]``, uint8."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count, size, size, channels)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
