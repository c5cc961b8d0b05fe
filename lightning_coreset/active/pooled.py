"""A pool around a source: what is known of it, what is chosen from it, and who is asked."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from lightning_coreset.active.asking import answer_pending, ask
from lightning_coreset.active.choosing import UnlabelledRun, default_pseudo_classes
from lightning_coreset.active.evaluation import evaluation_transform, pool_loader
from lightning_coreset.active.oracles import Oracle
from lightning_coreset.active.pool import LabelledPool
from lightning_coreset.compat import trainer_of
from lightning_coreset.coreset import Coreset
from lightning_coreset.data.views import random_state_kept
from lightning_coreset.detection import Objects
from lightning_coreset.distributed import current_reducer
from lightning_coreset.errors import CoresetError
from lightning_coreset.features import resolve_extractor
from lightning_coreset.ops.reducer import Reducer
from lightning_coreset.selectors.base import Selector
from lightning_coreset.wrapping import WrappingDataModule


class PooledDataModule(WrappingDataModule):
    """What `ActiveLearningDataModule` does with its pool; settings and loaders are there.

    Attributes:
        pool: What is labelled, pending, skipped or free; after ``setup("fit")``.
        oracle: Who answers round 0, and later rounds unless a loop names another.
    """

    pool: LabelledPool | None
    oracle: Oracle | None
    _later_oracle: Oracle | None
    _unit: str
    _pseudo: int | bool
    _features: Any
    _features_transform: Callable[..., Any] | None
    _transform: Callable[..., Any] | None
    _class_names: Sequence[str] | None
    _memory_limit: Any
    _cache_dir: Any
    _proposer: Any
    _seed: int
    _num_workers: int | None

    def opened(self) -> LabelledPool:
        """The pool.

        Raises:
            CoresetError: Before ``setup("fit")``.
        """
        if self.pool is None:
            msg = "The pool of labels is opened in setup('fit'), which was not called yet: call dm.setup('fit')."
            raise CoresetError(msg)
        return self.pool

    def _workers(self) -> int:
        """Processes that read items."""
        return self._template().loader.num_workers if self._num_workers is None else self._num_workers

    @property
    def _reducer(self) -> Reducer:
        """The ranks that work together."""
        trainer = trainer_of(self)
        return current_reducer("cpu" if trainer is None else trainer.strategy.root_device)

    def choose(self, selector: Selector, budget: int, budget_unit: str = "images") -> Coreset:
        """Let a selector choose among the unlabelled items; labelled ones count as chosen. All ranks call it."""
        pool = self.opened()
        free = len(pool.unlabelled)
        objects = self._proposer if isinstance(self._proposer, Objects) else None
        in_units = budget_unit != "images" and self._proposer is not None
        # Where nobody proposes objects nobody knows what an image costs, but hardly any costs less than a unit.
        count = budget if budget_unit == "images" else min(budget, free)
        if not 1 <= count <= free:
            msg = (
                f"budget={budget} is not accepted: {free} of {pool.n} items are unlabelled and not asked for, give 1 "
                f"to {free}."
            )
            raise ValueError(msg)
        clusters = self._pseudo or ("labels" in selector.needs) or selector.per_class is True
        if clusters is True:
            clusters = default_pseudo_classes(pool.n)
        with random_state_kept():
            template = self._over_the_same_items(self._template())
        run = UnlabelledRun(
            template=template,
            selector=selector,
            extractor=resolve_extractor(selector.embedder(self._features)),
            features_transform=self._features_transform,
            labels=None,
            ratio=None,
            budget=budget if in_units else count,
            batch_size=None,
            memory_limit=self._memory_limit,
            cache_dir=self._cache_dir,
            seed=self._seed,
            source=self.source,
            trainer=trainer_of(self),
            initial=torch.nonzero(pool.mask("labelled")).flatten(),
            forbidden=torch.nonzero(pool.mask("pending", "skipped")).flatten(),
            budget_unit=budget_unit if in_units else "images",
            proposer=None if objects is not None else self._proposer,
            pseudo_classes=int(clusters),
            objects=objects,
        )
        run.prepare()
        coreset = run.select()
        coreset.manifest["fingerprint"] = run.fingerprint
        if clusters:
            coreset.manifest["pseudo_classes"] = int(clusters)
        return coreset

    def ask(
        self,
        positions: Tensor,
        *,
        round: int,
        budget: float | None = None,
        about: dict[str, Any] | None = None,
        reserve: Sequence[int] = (),
    ) -> None:
        """Ask for the labels of items at these positions, the most wanted first; all ranks call it.

        Args:
            positions: The items.
            round: The round that asks.
            budget: How much may be labelled.
            about: What chose them, in JSON types.
            reserve: Further positions, in case that the others cost less than was thought.
        """
        pool = self.opened()
        if self._oracle_of(round) is None:
            msg = "Nobody labels: give oracle=DatasetOracle(), ExportToLabel(...) or another."
            raise ValueError(msg)
        ask(
            pool,
            [pool.ids[place] for place in positions.tolist()],
            self._oracle_of,
            reserve=[pool.ids[place] for place in reserve],
            round=round,
            dataset=self._pool_dataset,
            reducer=self._reducer,
            budget=budget if self._unit != "images" else None,
            unit=self._unit,
            about=about,
            names=self._names,
            source=self.source,
        )

    def answer_pending(self) -> None:
        """Let the oracle answer what is pending, such as requests of a run that was killed; all ranks call it."""
        if self.opened().n_pending and (self.oracle or self._later_oracle) is not None:
            answer_pending(
                self.opened(),
                self._oracle_of,
                dataset=self._pool_dataset,
                reducer=self._reducer,
                names=self._names,
                source=self.source,
            )

    def _oracle_of(self, round: int) -> Oracle | None:
        return (self._later_oracle or self.oracle) if round else (self.oracle or self._later_oracle)

    def has_round(self, round: int) -> bool:
        """Whether the journal holds a round."""
        events = self.opened().history
        return any(event.get("round") == round for event in events if event["event"] in ("request", "label"))

    def pool_dataloader(self) -> "DataLoader[Any]":
        """The unlabelled items in the order of ``pool.unlabelled``, read as for validation, in one pass."""
        pool = self.opened()
        positions = torch.nonzero(pool.mask("unlabelled")).flatten()
        items = Subset(self._pool_dataset, positions.tolist())
        return pool_loader(items, self._template().loader, self._validation_loaders(), self.view_transform())

    def view_transform(self) -> Callable[..., Any] | None:
        """The image transform by which the pool is looked at; None leaves the dataset's own."""
        return self._transform or evaluation_transform(self._validation_loaders(), self._pool_dataset)

    @property
    def _names(self) -> list[str] | None:
        """Names of the classes, where they are known."""
        given = self._class_names
        for holder in (self.source, self._pool_dataset):
            for name in ("class_names", "classes"):
                given = getattr(holder, name, None) if given is None else given
        return None if given is None else [str(name) for name in given]

    def _validation_loaders(self) -> Any:
        if not is_overridden("val_dataloader", self.source, parent=LightningDataModule):
            return None
        with random_state_kept():
            return self.source.val_dataloader()
