"""ActiveLearningDataModule: trains on what is labelled so far, and starts from a well chosen first set."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler

from lightning_coreset.active.checks import (
    as_proposer,
    check_clusters,
    check_request,
    journal_path,
    nothing_labelled,
    other_data,
    validation_key,
)
from lightning_coreset.active.choosing import about, label_free_selector
from lightning_coreset.active.journal import Journal
from lightning_coreset.active.oracles import Oracle
from lightning_coreset.active.overlay import LabelledItems, Overlay
from lightning_coreset.active.pool import Id, LabelledPool
from lightning_coreset.active.pooled import PooledDataModule
from lightning_coreset.compat import as_datamodule, data_parallel_ranks, forward_hooks, keeps_train_loader, trainer_of
from lightning_coreset.coreset import Coreset
from lightning_coreset.data.fingerprint import dataset_fingerprint
from lightning_coreset.data.loaders import check_batches, reduced_loader
from lightning_coreset.data.views import random_state_kept
from lightning_coreset.distributed import EpochShuffle, together
from lightning_coreset.errors import AwaitingLabelsError, CoresetError
from lightning_coreset.features import FeatureExtractor, resolve_extractor
from lightning_coreset.selectors.base import Selector


class ActiveLearningDataModule(PooledDataModule):
    """Trains on the labelled items of a source; all else is the source's.

    What is labelled stands in `pool`, a `LabelledPool` that is made in ``setup("fit")`` and, with a journal, survives
    any crash. With ``initial=`` the first items are chosen and asked for there too, unless the journal has a round 0.
    Labels that annotators return stand in for the dataset's own. Each train loader is over what is labelled when it is
    made; where the source shuffles, an epoch's order follows from ``seed`` and the epoch alone.

    Args:
        pool: The datamodule, map-style dataset or train loader whose train items are the pool.
        initial: What chooses round 0: a method without training signals (`list_selectors`), or a selector.
        initial_args: Arguments of the method.
        budget: How much round 0 may label.
        budget_unit: What budgets count: ``"images"``, ``"boxes"`` or ``"masks"``.
        oracle: Who answers round 0, and later rounds unless the loop names another.
        pseudo_classes: Give the selector k-means clusters of the embeddings as classes. Methods that need classes get
            them anyway.
        num_classes: How many clusters (default ``round(sqrt(N / 2))``, at most 100); given, there are pseudo-classes.
        proposer: What finds the objects of images, for methods that choose by them and for budgets in boxes, as in
            `CoresetDataModule`; or `Objects` of the whole pool.
        features: What embeds images for selectors, as in `CoresetDataModule`.
        features_transform: Image transform of that pass, instead of the extractor's own.
        transform: Image transform of the pool loader and of queries, instead of the validation dataset's.
        labelled: Ids of items whose labels are there from the start.
        ids: Names of the train items, or a callable that gets the train dataset and returns them; None takes positions.
        journal: File of JSON lines for all that happens to the pool; ``"auto"`` puts it beside the files of an oracle
            that has some, else keeps it in memory and in checkpoints.
        overlay: Called as ``overlay(item, target)`` after the transforms, for targets that do not lie where the
            dataset has its own.
        class_names: Names of the classes, for hand-over files; None takes the source's ``class_names`` or ``classes``.
        memory_limit: Bytes that selection may use, ``"auto"`` for half of what is free.
        cache_dir: Folder or URL for embeddings, as in `CoresetDataModule`.
        seed: Of every random choice.
        batch_size: Of the train loader; None keeps the source's (1 for a dataset).
        num_workers: Of the train loader; None keeps the source's (0 for a dataset).

    Attributes:
        pool: What is labelled, pending, skipped or free; after ``setup("fit")``.
        coreset: What the warm start chose; None where the journal had it already.
        train_dataset: What the last train loader is over.
        source: The wrapped datamodule.

    Raises:
        ValueError: ``initial`` without ``budget`` or an oracle, unknown words, ids that repeat.
        TypeError: A source or an argument that is not accepted.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> from lightning_coreset.active import DatasetOracle
        >>> items = TensorDataset(torch.eye(8), torch.arange(8) % 2)
        >>> dm = ActiveLearningDataModule(
        ...     items, initial="k_center", budget=3, oracle=DatasetOracle(), features="pixels", cache_dir=None)
        >>> dm.setup("fit")
        >>> dm.pool.n_labelled, len(dm.train_dataloader().dataset)
        (3, 3)
    """

    _own_attributes = frozenset({"coreset", "train_dataset", "source", "pool", "oracle", "trainer"})

    def __init__(
        self,
        pool: LightningDataModule | Dataset | DataLoader,  # type: ignore[type-arg]
        *,
        initial: Selector | str | None = None,
        initial_args: dict[str, Any] | None = None,
        budget: int | None = None,
        budget_unit: Literal["images", "boxes", "masks"] = "images",
        oracle: Oracle | None = None,
        pseudo_classes: bool = False,
        num_classes: int | None = None,
        proposer: Any = None,
        features: FeatureExtractor | nn.Module | Tensor | str = "auto",
        features_transform: Callable[..., Any] | None = None,
        transform: Callable[..., Any] | None = None,
        labelled: Sequence[Id] | None = None,
        ids: Sequence[Id] | Callable[..., Any] | None = None,
        journal: str | os.PathLike | None = "auto",  # type: ignore[type-arg]
        overlay: Overlay | None = None,
        class_names: Sequence[str] | None = None,
        memory_limit: int | Literal["auto"] = "auto",
        cache_dir: str | os.PathLike | None = "auto",  # type: ignore[type-arg]
        seed: int = 0,
        batch_size: int | None = None,
        num_workers: int | None = None,
    ) -> None:
        super().__init__()
        bare = isinstance(pool, Dataset) or not isinstance(pool, LightningDataModule | DataLoader)
        self.source = as_datamodule(pool, batch_size, num_workers)
        self._batch_size = None if bare else batch_size
        self._num_workers = None if bare else num_workers
        check_request(budget, budget_unit, oracle)
        self._initial: Selector | None = None
        if initial is not None:
            self._initial = label_free_selector(initial, initial_args)
            if budget is None:
                msg = f"initial={self._initial.name!r} without budget= is not accepted: say how much round 0 may label."
                raise ValueError(msg)
        self._pseudo = check_clusters(pseudo_classes, num_classes)
        self.oracle = oracle
        self._budget, self._unit = budget, budget_unit
        self._proposer = as_proposer(proposer)
        self._features = features
        resolve_extractor(features)
        self._features_transform = features_transform
        self._transform = transform
        self._labelled_before = None if labelled is None else list(labelled)
        self._ids = ids
        self._journal_path = journal_path(journal, oracle)
        self._overlay = overlay
        self._class_names = class_names
        self._memory_limit = memory_limit
        self._cache_dir = cache_dir
        self._seed = seed
        self.pool: LabelledPool | None = None
        self.coreset: Coreset | None = None
        self.train_dataset: Dataset[Any] | None = None
        self._fingerprint: str | None = None
        self._restored: list[dict[str, Any]] | None = None
        self._allowing = False
        self._own_events: int | None = None
        self._is_smoke_test = False
        self._real_pool: LabelledPool | None = None
        # A loop waits for all labels of a round, and may bring another oracle for its rounds.
        self._complete_only = False
        self._later_oracle: Oracle | None = None
        forward_hooks(self.source, self)
        plain = {"budget": budget, "budget_unit": budget_unit, "seed": seed}
        self.save_hyperparameters(plain, logger=False)

    @property
    def has_initial(self) -> bool:
        """Whether ``initial=`` was given here."""
        return self._initial is not None

    def setup(self, stage: str | None = None) -> None:
        """Set the source up; for ``"fit"`` open the pool, and make the warm start unless it was made before."""
        self.source.setup(stage)  # type: ignore[arg-type]
        if stage is None or stage == "fit":
            self._open()
            if self._initial is not None:
                assert self._budget is not None
                self.warm_start(self._initial, self._budget, self._unit, self.oracle)
                self._own_events = len(self.opened().history)
            else:
                self.answer_pending()

    def warm_start(
        self,
        initial: Selector | str,
        budget: int,
        budget_unit: str = "images",
        oracle: Oracle | None = None,
        proposer: Any = None,
        initial_args: dict[str, Any] | None = None,
    ) -> Coreset | None:
        """Choose and ask for round 0; does nothing where the journal holds a round 0, but to ask again what is open.

        Args:
            initial: A method without training signals, or a selector.
            budget: How much may be labelled.
            budget_unit: What the budget counts.
            oracle: Who answers; None is the datamodule's.
            proposer: What finds the objects of images; None is the datamodule's.
            initial_args: Arguments of the method.

        Returns:
            What was chosen; None where it was chosen before.

        Raises:
            ValueError: No oracle, an unknown method, or a budget above what is unlabelled.
            CoresetError: Called before ``setup("fit")``.
        """
        pool = self.opened()
        self.oracle = oracle = oracle or self.oracle or self._later_oracle
        if oracle is None:
            msg = "A warm start needs somebody to label: give oracle=DatasetOracle(), ExportToLabel(...) or another."
            raise ValueError(msg)
        check_request(budget, budget_unit, oracle)
        selector = label_free_selector(initial, initial_args)
        self._proposer = self._proposer if proposer is None else as_proposer(proposer)
        self._unit = budget_unit
        if self.has_round(0):
            self.answer_pending()
            return None
        self.coreset = self.choose(selector, budget, budget_unit)
        told = about(selector, self._seed, self.coreset.manifest.get("pseudo_classes", 0))
        reserve = self.coreset.manifest.get("reserve", {}).get("indices", [])
        self.ask(self.coreset.indices, round=0, budget=budget, about=told, reserve=reserve)
        rank_zero_info(
            f"Warm start: {len(self.coreset)} of {pool.n} items chosen by {selector.name!r} (seed {self._seed}); "
            f"{pool.n_labelled} labelled, {pool.n_pending} pending."
        )
        return self.coreset

    def train_dataloader(self) -> "DataLoader[Any]":
        """The source's train loader over the items that are labelled now.

        Raises:
            CoresetError: Nothing is labelled yet, or no batch would be left.
        """
        pool = self.opened()
        positions = torch.nonzero(pool.mask("labelled")).flatten()
        if not len(positions) or (self._complete_only and pool.n_pending):
            raise AwaitingLabelsError(nothing_labelled(pool))
        template = self._over_the_same_items(self._template())
        trainer = trainer_of(self)
        ranks, _ = data_parallel_ranks(trainer)
        check_batches(len(positions), template.loader, self._batch_size, ranks)
        self.train_dataset = self.labelled_items()
        shuffled = type(template.loader.sampler) is RandomSampler and template.loader.generator is None
        return reduced_loader(
            template,
            self.train_dataset,
            positions.tolist(),
            batch_size=self._batch_size,
            num_workers=self._num_workers,
            resample=EpochShuffle(len(positions), seed=self._seed) if shuffled else None,
            # Its own, so that starting an epoch draws nothing from the global state.
            generator=torch.Generator().manual_seed(self._seed) if shuffled else None,
        )

    def labelled_items(self) -> LabelledItems:
        """What is labelled now, with the targets that annotators returned."""
        pool = self.opened()
        positions = torch.nonzero(pool.mask("labelled")).flatten()
        returned = dict(zip(pool.positions(pool.targets).tolist(), pool.targets.values(), strict=True))
        return LabelledItems(self._pool_dataset, positions, returned, self._overlay)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Inside, items may be labelled while `fit` runs: whoever does so sees to a new train loader."""
        before, self._allowing = self._allowing, True
        try:
            yield
        finally:
            self._allowing = before

    def state_dict(self) -> dict[str, Any]:
        """The history of the pool and the source's state, tensors and primitives only."""
        state: dict[str, Any] = {"source": self.source.state_dict()}
        if self.pool is not None:
            state |= {"fingerprint": self._fingerprint, "events": json.dumps(self.pool.history)}
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the labels of a checkpoint, and with those that came since.

        Raises:
            CoresetError: The checkpoint is of another dataset, or its labels and the journal's went different ways.
        """
        self.source.load_state_dict(state_dict.get("source", {}))
        if "events" not in state_dict:
            return
        if self.pool is not None and state_dict["fingerprint"] != self._fingerprint:
            raise CoresetError(other_data("train", "checkpoint"))
        self._restored = json.loads(state_dict["events"])
        if self.pool is not None:
            self._restore()

    def teardown(self, stage: str) -> None:
        """Tear the source down."""
        if self.pool is not None:
            self.pool.guard(None)
        self.source.teardown(stage)

    def _open(self) -> None:
        with together(self._reducer, "reading the train dataset"), random_state_kept():
            template = self._template()
            if template.size == 0:
                msg = "The train dataset is empty, and there is nothing to label: check the source's setup('fit')."
                raise CoresetError(msg)
            fingerprint = dataset_fingerprint(template.dataset, None)
            validation = validation_key(self._validation_loaders())
            if self._fingerprint not in (None, fingerprint):
                raise CoresetError(other_data("train", "setup before"))
            self._pool_dataset, self._fingerprint = template.dataset, fingerprint
            # A smoke test labels nothing that anybody pays for, and is forgotten afterwards.
            smoke_test = bool(getattr(trainer_of(self), "fast_dev_run", 0))
            if smoke_test and self.oracle is not None and self.oracle.waits:
                msg = "fast_dev_run asks nobody to label: give oracle=DatasetOracle() for a smoke test."
                raise CoresetError(msg)
            if self._is_smoke_test:
                self.pool = self._real_pool
            self._is_smoke_test, self._real_pool = smoke_test, self.pool
            if self.pool is None or smoke_test:
                ids = self._ids(template.dataset) if callable(self._ids) else self._ids
                journal = None if smoke_test or self._journal_path is None else Journal(self._journal_path)
                self.pool = LabelledPool(template.size, ids, journal)
                if self._real_pool is not None:
                    self.pool.adopt(self._real_pool.history)
        self.pool.synchronise(self._reducer)
        self._compare("dataset", fingerprint, "train")
        self._compare("validation", validation, "validation")
        for oracle in (self.oracle, self._later_oracle):
            if oracle is not None:
                oracle.bind(self.pool)
        self.pool.guard(self._refuse_labels_that_nobody_sees)
        if self._labelled_before and not self.pool.n_labelled:
            with self.allowed():
                self.pool.label(self._labelled_before, round=-1, units=0)
        if self._restored is not None:
            self._restore()

    def _compare(self, name: str, key: str | None, word: str) -> None:
        """The data of round 0 are those of every later round."""
        pool = self.opened()
        known = pool.notes(name)
        if key is not None and not known:
            pool.note(**{name: key})
        elif key is not None and known[0] != key:
            raise CoresetError(other_data(word, "journal"))

    def _restore(self) -> None:
        events, self._restored = self._restored, None
        assert events is not None
        pool = self.opened()
        if pool.journal is None and len(pool.history) == self._own_events:
            # What setup chose before it could know of the checkpoint, and nobody wrote down.
            pool.adopt(events)
        else:
            pool.replay(events)

    def _refuse_labels_that_nobody_sees(self, event: str) -> None:
        if event == "label" and not self._allowing and keeps_train_loader(trainer_of(self)):
            msg = (
                "Items labelled during fit() are never seen by this trainer, which keeps its train loader: use the "
                "ActiveLearningRounds callback, or Trainer(reload_dataloaders_every_n_epochs=1)."
            )
            raise CoresetError(msg)
