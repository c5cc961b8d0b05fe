"""CoresetDataModule: wraps a source of data, selects in ``setup()``, trains on what was selected."""

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_coreset.budget import resolve_total
from lightning_coreset.compat import (
    DatasetSource,
    as_datamodule,
    data_parallel_ranks,
    deals_out_samplers,
    forward_hooks,
    trainer_of,
)
from lightning_coreset.coreset import Coreset
from lightning_coreset.data.loaders import TrainLoader, WeightedItems, check_batches, reduced_loader
from lightning_coreset.data.targets import read_labels
from lightning_coreset.data.views import random_state_kept
from lightning_coreset.detection import ObjectProposer, resolve_proposer
from lightning_coreset.distributed import EpochWeightedSampler
from lightning_coreset.errors import CoresetError
from lightning_coreset.features import FeatureExtractor, resolve_extractor
from lightning_coreset.recording import RecordedPool
from lightning_coreset.registry import choose_selector
from lightning_coreset.reselection import Reselection
from lightning_coreset.selection import SelectionRun
from lightning_coreset.selectors.base import Selector
from lightning_coreset.selectors.facility_location import check_words
from lightning_coreset.selectors.units import BUDGET_UNITS
from lightning_coreset.signals import Proxy, Signals
from lightning_coreset.wrapping import WrappingDataModule

_PLAIN = (bool, int, float, str, type(None))


class CoresetDataModule(WrappingDataModule):
    """Trains on the part of a source's train data that a selector chooses; all else is the source's.

    The selection runs in ``setup("fit")`` on the trainer's devices, under DDP shared over the ranks, once; it is kept
    on disk and in checkpoints. Validation, test and prediction, batch-transfer hooks and attributes of the source
    behave as if it were not wrapped.

    Args:
        source: The datamodule, map-style dataset or train loader to cut.
        selector: A selector object; instead of ``method``.
        method: Name of a method (default ``"subzerocore"``).
        method_args: Arguments of the method.
        ratio: Share of the train items to keep, in (0, 1]. Give this or ``budget``.
        budget: Number of train items to keep, or of their ``budget_unit``.
        budget_unit: What budget and ratio count: ``"images"``, or the ``"boxes"`` or ``"masks"`` that images show.
        per_class: Share the budget over the classes; None is the method's default.
        features: What embeds the images: ``"auto"`` (a pretrained timm ResNet-18), ``"timm/<name>"``,
            ``"torchvision/<name>"``, ``"pixels"``, a path to ``.npy``, ``.npz`` or ``.safetensors``, a tensor
            ``[N, d]``, a module, or a `FeatureExtractor`. For ``dq_v2`` ``"auto"`` is its ``extractor``.
        features_transform: Image transform of the feature pass, instead of the extractor's own.
        proposer: What finds the objects of images, for methods that choose by them and for budgets in boxes:
            ``"ground_truth"``, ``"torchvision/<name>"``, a path to COCO results, an `ObjectProposer`; None takes what
            the dataset's targets tell. Methods that learn from labelled objects let it embed them.
        signals: For methods that look at training: a `Proxy` (a short training in ``setup``), `Signals`, or the path of
            what `TrainingDynamics` recorded or ``Signals.save`` wrote. Other methods leave it aside.
        weights: ``"ignore"``; ``"resample"`` draws items in proportion to their weights; ``"batch"`` adds the weight
            to each batch.
        labels: Class of each train item ``[N]``, or a callable that gets the train dataset and returns them; None
            reads them from the dataset.
        group_duplicates: Near duplicates, told by thumbnails, have one candidate among them.
        reselect_every_n_epochs: Select again after each so many epochs, from all that was recorded so far, with
            methods that look at training; 0 selects once.
        warmup_epochs: Train on everything for so many epochs first, and make the first selection from them. Until then
            ``coreset`` is None. Checkpoints then hold the signals too (``4 C + 17 E`` bytes an item).
        memory_limit: Bytes that selection may use, ``"auto"`` for half of what is free. Picks do not depend on it.
        cache_dir: Folder or URL for embeddings and selections; ``"auto"`` is ``coresets`` below the trainer's
            ``default_root_dir`` (nothing without a trainer), None keeps nothing.
        seed: Of every random choice.
        batch_size: Of the reduced loader; None keeps the source's (1 for a dataset).
        num_workers: Of the reduced loader; None keeps the source's (0 for a dataset).

    Attributes:
        coreset: What was chosen, after ``setup("fit")``.
        train_dataset: What is trained on, in ascending order of position.
        source: The wrapped datamodule.
        selector: The selector.

    Raises:
        ValueError: Both or neither of ``ratio`` and ``budget``, ``selector`` beside ``method``, unknown words.
        TypeError: A source or a method argument that is not accepted.

    Example:
        >>> from lightning.pytorch.demos.boring_classes import RandomDataset
        >>> dm = CoresetDataModule(RandomDataset(8, 100), method="k_center", ratio=0.1, features="pixels")
        >>> dm.setup("fit")
        >>> len(dm.train_dataset)
        10
    """

    _own_attributes = frozenset({"coreset", "train_dataset", "source", "selector", "trainer"})

    def __init__(
        self,
        source: LightningDataModule | Dataset | DataLoader,  # type: ignore[type-arg]
        *,
        selector: Selector | None = None,
        method: str | None = None,
        method_args: dict[str, Any] | None = None,
        ratio: float | None = None,
        budget: int | None = None,
        budget_unit: Literal["images", "boxes", "masks"] = "images",
        per_class: bool | None = None,
        features: FeatureExtractor | nn.Module | Tensor | str = "auto",
        features_transform: Callable[..., Any] | None = None,
        proposer: ObjectProposer | str | None = None,
        signals: Proxy | Signals | str | None = None,
        weights: Literal["ignore", "resample", "batch"] = "ignore",
        labels: Tensor | Sequence[int] | Callable[..., Any] | None = None,
        group_duplicates: bool = False,
        reselect_every_n_epochs: int = 0,
        warmup_epochs: int = 0,
        memory_limit: int | Literal["auto"] = "auto",
        cache_dir: str | os.PathLike | None = "auto",  # type: ignore[type-arg]
        seed: int = 0,
        batch_size: int | None = None,
        num_workers: int | None = None,
    ) -> None:
        super().__init__()
        # A number for a bare dataset goes to the source made around it, where BatchSizeFinder can change it.
        self._bare = isinstance(source, Dataset) or not isinstance(source, LightningDataModule | DataLoader)
        self.source = as_datamodule(source, batch_size, num_workers)
        self._batch_size = None if self._bare else batch_size
        self._num_workers = None if self._bare else num_workers
        self._ratio, self._budget, self._budget_unit = ratio, budget, budget_unit
        check_words(budget_unit=(budget_unit, BUDGET_UNITS))
        self._group_duplicates = group_duplicates
        self._proposer = None if proposer is None else resolve_proposer(proposer)
        resolve_total(budget if isinstance(budget, int) and budget > 0 else 1, ratio=ratio, budget=budget)
        self.selector = choose_selector(selector, method, method_args, per_class)
        self.selector.check()
        if weights not in ("ignore", "resample", "batch"):
            msg = f"weights={weights!r} is not accepted: give 'ignore', 'resample' or 'batch'."
            raise ValueError(msg)
        self._reselection = Reselection(reselect_every_n_epochs, warmup_epochs)
        self._reselection.check(self.selector, signals)
        self._signals = signals
        self._base: Signals | None = None
        self._weights = weights
        self._extractor = resolve_extractor(self.selector.embedder(features))
        self._features_transform = features_transform
        self._labels = labels
        self._memory_limit = memory_limit
        self._cache_dir = cache_dir
        self._seed = seed
        self.coreset: Coreset | None = None
        self.train_dataset: Dataset[Any] | None = None
        self._fingerprint: str | None = None
        self._pool_labels: Tensor | None = None
        self._selected: str | None = None
        self._pending: dict[str, Any] | None = None
        forward_hooks(self.source, self)
        # Plain values only: checkpoints are read with weights_only. Never logged: names like seed would collide with
        # the module's. Not batch_size: BatchSizeFinder would take it for the one to change.
        given: dict[str, Any] = {
            "features": features,
            "labels": labels,
            "method_args": method_args,
            "cache_dir": cache_dir,
        }
        given |= {"signals": signals, "proposer": proposer}
        hidden = [name for name, value in given.items() if not _is_plain(value)]
        always = ["source", "selector", "features_transform", "batch_size", "num_workers"]
        self.save_hyperparameters(ignore=[*always, *hidden], logger=False)

    @classmethod
    def from_datasets(
        cls,
        train_dataset: Any = None,
        val_dataset: Any = None,
        test_dataset: Any = None,
        predict_dataset: Any = None,
        batch_size: int = 1,
        num_workers: int = 0,
        **coreset_kwargs: Any,
    ) -> "CoresetDataModule":
        """Wrap datasets instead of a datamodule; ``batch_size`` and ``num_workers`` are those of all loaders."""
        source = DatasetSource(
            train_dataset, val_dataset, test_dataset, predict_dataset, batch_size=batch_size, num_workers=num_workers
        )
        return cls(source, **coreset_kwargs)

    def setup(self, stage: str | None = None) -> None:
        """Set the source up; for ``"fit"`` select, unless the same selection was made before."""
        self.source.setup(stage)  # type: ignore[arg-type]
        if stage is None or stage == "fit":
            trainer = trainer_of(self)
            if self._reselection.active:
                if self._reselection.begin(trainer):
                    self.coreset = None
                if trainer is not None:
                    self._reselection.follow(trainer, self._recorded_pool, self._select_again)
            self._select()

    def train_dataloader(self) -> "DataLoader[Any]":
        """The source's train loader over the chosen items."""
        if self.coreset is None and not (self._reselection.warmup and self._fingerprint is not None):
            msg = (
                "train_dataloader() before setup('fit') is not accepted, nothing was selected yet: call "
                "dm.setup('fit')."
            )
            raise CoresetError(msg)
        template = self._over_the_same_items(self._template())
        trainer = trainer_of(self)
        ranks, rank = data_parallel_ranks(trainer)
        self.train_dataset = self._train_view()
        if self.coreset is None:
            everything = list(range(template.size))
            return reduced_loader(
                template, self.train_dataset, everything, batch_size=self._batch_size, num_workers=self._num_workers
            )
        check_batches(len(self.coreset), template.loader, self._batch_size, ranks)
        order = self.coreset.indices.argsort()
        resample = None
        if self._weights == "resample":
            dealt = (1, 0) if deals_out_samplers(trainer) else (ranks, rank)
            resample = EpochWeightedSampler(
                self.coreset.weights[order], seed=self._seed, num_replicas=dealt[0], rank=dealt[1]
            )
        return reduced_loader(
            template,
            self.train_dataset,
            _source_positions(self.coreset)[order].tolist(),
            batch_size=self._batch_size,
            num_workers=self._num_workers,
            resample=resample,
        )

    def teardown(self, stage: str) -> None:
        """Tear the source down."""
        self._reselection.unfollow(trainer_of(self))
        self.source.teardown(stage)

    def state_dict(self) -> dict[str, Any]:
        """The selection and the source's state, tensors and primitives only."""
        state: dict[str, Any] = {"source": self.source.state_dict()}
        if self._reselection.recorded is not None:
            state |= {"fingerprint": self._fingerprint, "recorded": self._reselection.recorded.tensors()}
        if self.coreset is not None:
            state |= {"fingerprint": self._fingerprint} | self.coreset.to_state()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Train on the selection of a checkpoint, whatever ``setup`` chose.

        Raises:
            CoresetError: The checkpoint's selection is of another dataset.
        """
        self.source.load_state_dict(state_dict.get("source", {}))
        if "fingerprint" not in state_dict:
            return
        self._pending = state_dict
        if self._fingerprint is not None:
            self._restore()
            with random_state_kept():
                template = self._over_the_same_items(self._template())
            self._open_view(self._run(template, self._signals))

    def _run(self, template: TrainLoader, signals: Proxy | Signals | str | None) -> SelectionRun:
        return SelectionRun(
            template=template,
            selector=self.selector,
            extractor=self._extractor,
            features_transform=self._features_transform,
            labels=self._labels,
            ratio=self._ratio,
            budget=self._budget,
            batch_size=self._batch_size,
            memory_limit=self._memory_limit,
            cache_dir=self._cache_dir,
            seed=self._seed,
            source=self.source,
            trainer=trainer_of(self),
            signals=signals,
            budget_unit=self._budget_unit,
            proposer=self._proposer,
            group_duplicates=self._group_duplicates,
        )

    def _select(self) -> None:
        # Making a dataset may draw random numbers, and without us it would be made later.
        with random_state_kept():
            template = self._template()
        self._pool_dataset = template.dataset
        run = self._run(template, self._signals)
        run.prepare()
        self._fingerprint, self._pool_labels = run.fingerprint, run.pool_labels
        if self._pending is not None:
            self._restore()
        elif not self._reselection.warmup and (self.coreset is None or self._selected != run.request):
            self.coreset = run.select()
            self._base = run.recorded
            rank_zero_info(self.coreset.summary)
        self._selected = run.request
        self._open_view(run)

    def _open_view(self, run: SelectionRun) -> None:
        if self.coreset is not None:
            run.prepare_view(self.coreset)
        self.train_dataset = self._train_view()

    def _select_again(self, trainer: Any, epochs: int) -> None:
        """Choose anew from what training told in so many epochs, and from the signals it began with."""
        recorded = self._reselection.recorded
        assert recorded is not None
        with random_state_kept():
            template = self._over_the_same_items(self._template())
        if self._signals is not None:
            if self._base is None:
                begun = self._run(template, self._signals)
                begun.prepare()
                self._base = begun.record()
            recorded = self._base.followed_by(recorded, new_run=True)
        run = self._run(template, recorded)
        run.prepare()
        coreset = run.select()
        self.coreset = replace(coreset, manifest=coreset.manifest | {"selected_after_epochs": epochs})
        self._open_view(run)
        rank_zero_info(f"After {epochs} epoch(s): {self.coreset.summary}")

    def _recorded_pool(self, labels: Any = None) -> RecordedPool:
        """Whose signals a recording of this run holds: the source's train items, chosen or not."""
        found = self._pool_labels if labels is None else read_labels(self._template().dataset, labels)
        if found is None:
            msg = (
                "The train items have no class that a recording could compare with: give labels= to CoresetDataModule "
                "or TrainingDynamics."
            )
            raise CoresetError(msg)
        positions = None if self.coreset is None else self.coreset.indices.sort().values
        return RecordedPool(found, positions)

    def _restore(self) -> None:
        state, self._pending = self._pending, None
        assert state is not None
        if state["fingerprint"] != self._fingerprint:
            msg = (
                f"The checkpoint's coreset was selected from another train dataset (fingerprint "
                f"{str(state['fingerprint'])[:12]}, here {str(self._fingerprint)[:12]}): resume with the dataset "
                "it was "
                "made with, or start without ckpt_path."
            )
            raise CoresetError(msg)
        if "recorded" in state:
            self._reselection.restore(Signals(**{name: value.cpu() for name, value in state["recorded"].items()}))
        if "indices" not in state:
            self.coreset = None
            return
        stored, current = Coreset.from_state(state), self.coreset
        if current is not None and current.same_items(stored):
            return
        # Where selections follow training, that of a checkpoint is another one as a matter of course.
        if current is not None and not self._reselection.active:
            warnings.warn(
                f"The checkpoint holds another selection than this run made ({current.differences(stored)} differ), "
                "and training goes on with the checkpoint's: start without ckpt_path to use the new one.",
                stacklevel=3,
            )
        self.coreset = stored

    def _train_view(self) -> "Dataset[Any]":
        dataset = self._pool_dataset
        if self.coreset is None:
            return dataset if self._weights != "batch" else WeightedItems(dataset, torch.ones(len(dataset)))
        view = self.selector.train_view(dataset, self.coreset)
        if self._weights != "batch":
            return view
        return WeightedItems(view, self.coreset.weights[self.coreset.indices.argsort()])


def _source_positions(coreset: Coreset) -> Tensor:
    """The source's item behind each pick: images that a method made have their parents' weights in a sampler."""
    parents = coreset.details.get("parent")
    return coreset.indices if parents is None else torch.tensor(parents, dtype=torch.int64)


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(key) and _is_plain(part) for key, part in value.items())
    return isinstance(value, _PLAIN)


__all__ = ("CoresetDataModule",)
