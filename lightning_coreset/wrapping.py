"""What data modules share that wrap a source: its attributes are theirs, its train items stay the same."""

import warnings
from dataclasses import replace
from typing import Any, ClassVar

from lightning.pytorch import LightningDataModule

from lightning_coreset.compat import overrides_train_dataloader
from lightning_coreset.data.fingerprint import item_keys
from lightning_coreset.data.loaders import TrainLoader, read_train_loader
from lightning_coreset.errors import UnsupportedSourceError


class WrappingDataModule(LightningDataModule):
    """Around a source whose public attributes are seen and set through it.

    Subclasses set ``source`` and call `lightning_coreset.compat.forward_hooks`.

    Attributes:
        source: The wrapped datamodule.
    """

    _own_attributes: ClassVar[frozenset[str]] = frozenset({"source", "trainer"})
    source: LightningDataModule

    def __init__(self) -> None:
        super().__init__()
        self._pool_dataset: Any = None

    @property
    def trainer(self) -> Any:
        """The trainer this datamodule is attached to; the source sees the same."""
        return self.__dict__.get("_trainer")

    @trainer.setter
    def trainer(self, trainer: Any) -> None:
        self.__dict__["_trainer"] = trainer
        if "source" in self.__dict__:
            self.source.trainer = trainer

    def __getattr__(self, name: str) -> Any:
        """Public attributes that are not here are the source's."""
        # Private names and the source itself must fail, or unpickling would never end.
        if name.startswith("_") or "source" not in self.__dict__:
            msg = f"{type(self).__name__!r} object has no attribute {name!r}"
            raise AttributeError(msg)
        return getattr(self.__dict__["source"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Public attributes that are the source's are set there."""
        own = name.startswith("_") or name in self._own_attributes or name in self.__dict__ or hasattr(type(self), name)
        if own or "source" not in self.__dict__ or not hasattr(self.source, name):
            super().__setattr__(name, value)
        else:
            setattr(self.source, name, value)

    def _template(self) -> TrainLoader:
        if not overrides_train_dataloader(self.source):
            msg = (
                f"{type(self.source).__name__} has no train_dataloader(), so there is nothing to select from: define "
                "it, or wrap the train dataset itself."
            )
            raise UnsupportedSourceError(msg)
        return read_train_loader(self.source.train_dataloader())

    def _over_the_same_items(self, template: TrainLoader) -> TrainLoader:
        """A new train loader, but never over other items than those selected from: positions say nothing of them."""
        if template.dataset is self._pool_dataset:
            return template
        # Datamodules may make a new dataset with each loader.
        if item_keys(template.dataset) == item_keys(self._pool_dataset):
            self._pool_dataset = template.dataset
            return template
        warnings.warn(
            f"{type(self.source).__name__} gives other items with each train loader, and training goes on with those "
            "selected from: make or split the dataset in setup(), or seed it.",
            stacklevel=3,
        )
        return replace(template, dataset=self._pool_dataset)
