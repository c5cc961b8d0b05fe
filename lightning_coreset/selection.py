"""One selection for a datamodule: from a train loader to a coreset, with keys, cache, ranks and progress."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from lightning_coreset.budget import resolve_total
from lightning_coreset.compat import data_parallel_ranks, progress_of, smoke_test_batches
from lightning_coreset.coreset import Coreset
from lightning_coreset.data import EmbeddingCache, dataset_fingerprint, gather_thumbnails, read_labels, stable_key
from lightning_coreset.data.fingerprint import FORMAT_VERSION, callable_key
from lightning_coreset.data.loaders import TrainLoader, check_batches
from lightning_coreset.data.views import random_state_kept
from lightning_coreset.detection import Objects, read_objects
from lightning_coreset.distributed import current_reducer, gather_json, together
from lightning_coreset.errors import CoresetError
from lightning_coreset.features import FeatureExtractor, PrecomputedFeatures, extract_features, transfer_hooks
from lightning_coreset.ops import duplicate_groups
from lightning_coreset.ops.random import seeded_generator
from lightning_coreset.ops.reducer import Reducer
from lightning_coreset.pool import Pool
from lightning_coreset.pool_objects import PoolObjects
from lightning_coreset.selectors.base import Selector
from lightning_coreset.selectors.context import SelectionContext
from lightning_coreset.selectors.rows import embed_everything
from lightning_coreset.signals import Proxy, Signals
from lightning_coreset.signals.sharing import from_rank
from lightning_coreset.storage import exists, join


@dataclass
class SelectionRun:
    """What one call of ``setup("fit")`` knows about its selection.

    `prepare` reads what is cheap (labels, fingerprint, sizes) and refuses what cannot work; `select` does the work, or
    finds it done on disk. Every rank calls both and gets the same answer.
    """

    template: TrainLoader
    selector: Selector
    extractor: FeatureExtractor | PrecomputedFeatures
    features_transform: Callable[..., Any] | None
    labels: Any
    ratio: float | None
    budget: int | None
    batch_size: int | None
    memory_limit: int | str
    cache_dir: Any
    seed: int
    source: Any
    trainer: Any
    signals: Signals | Proxy | str | None = None
    budget_unit: str = "images"
    proposer: Any = None
    group_duplicates: bool = False
    fingerprint: str = ""
    key: str = ""
    #: The key without what embeds: networks learn between two calls of ``setup``, and that is no other selection.
    request: str = ""
    pool_labels: Tensor | None = field(init=False, default=None)
    _positions: Tensor | None = field(init=False, default=None)
    _total: int = field(init=False, default=0)
    _embedding_key: str | None = field(init=False, default=None)
    _signals_key: str | None = field(init=False, default=None)
    _objects: PoolObjects | None = field(init=False, default=None)
    recorded: Signals | None = field(init=False, default=None)

    def prepare(self) -> None:
        """Read labels and keys, and refuse what cannot work, before any work starts.

        Raises:
            ValueError: A budget, labels or features that do not fit the train dataset.
            CoresetError: No batch would be left, another rank failed, or ranks read different data.
        """
        # Items that augment at random draw from the global state when they are read.
        with together(self.reducer, "reading the train dataset"), random_state_kept():
            size = self.template.size
            if size == 0:
                msg = (
                    "The train dataset is empty, and there is nothing to select from: check the source's setup('fit')."
                )
                raise CoresetError(msg)
            self._total = 0
            if self.budget_unit == "images":
                self._total = resolve_total(size, ratio=self.ratio, budget=self.budget)
            self._cap_for_smoke_test(size)
            ranks, _ = data_parallel_ranks(self.trainer)
            # How many images hold so many boxes is known once they are chosen.
            if self.budget_unit == "images":
                check_batches(self._total, self.template.loader, self.batch_size, ranks)
            classwise = self.selector.per_class_default if self.selector.per_class is None else self.selector.per_class
            decode = bool(classwise) or bool(self.selector.needs & {"labels", "signals"})
            self.pool_labels = read_labels(self.template.dataset, self.labels, decode=decode)
            self._read_signals(size)
            if self._wants_objects:
                self._objects = PoolObjects(self._images, self.proposer, self.selector)
            self.selector.is_classwise(self.pool_labels is not None, self._objects is not None)
            if isinstance(self.extractor, PrecomputedFeatures) and self._needs_features:
                self.extractor.check(size)
            self.fingerprint = dataset_fingerprint(self.template.dataset, self.pool_labels)
            self._make_keys()
        self._check_ranks_agree()

    def select(self) -> Coreset:
        """The coreset: from disk where the same selection was made before, else selected now and kept.

        Raises:
            CoresetError: Weights that cannot be had, embeddings that are not finite, or another rank failed.
        """
        stored = self._read()
        if stored is not None:
            return stored
        labels = self.pool_labels
        positions = self._positions
        size = self.template.size if positions is None else len(positions)
        pool = Pool(
            labels=labels if labels is None or positions is None else labels[positions],
            size=size,
            ids=None if self._objects is None else self._objects.ids,
        )
        context = self._context(self._find_duplicates())
        asked: dict[str, Any] = {"context": context, "budget_unit": self.budget_unit}
        total = self._total
        if self.budget_unit != "images":
            total = self.selector.resolve_budget(pool, ratio=self.ratio, budget=self.budget, **asked)
        coreset = self.selector.select(pool, total, seed=self.seed, **asked)
        resolved = coreset.manifest["resolved"]
        if self._objects is not None:
            resolved = resolved | {"objects": self._objects.told}
        if self._needs_features:
            resolved = {"features": self.extractor.key} | resolved
        coreset = replace(coreset, manifest=coreset.manifest | {"fingerprint": self.fingerprint, "resolved": resolved})
        if positions is not None:
            capped = {"pool_size": size, "of": self.template.size, "reason": "fast_dev_run or overfit_batches"}
            coreset = replace(coreset, manifest=coreset.manifest | {"capped": capped})
            return self.selector.relocated(coreset, positions, self.template.size)
        self._write(coreset)
        return coreset

    def prepare_view(self, coreset: Coreset) -> None:
        """Let the selector do on all ranks what its view of the coreset needs."""
        self.selector.prepare_view(self.template.dataset, coreset, self._context())

    @property
    def reducer(self) -> Reducer:
        """The ranks that select together."""
        return current_reducer(self._device)

    @property
    def _wants_objects(self) -> bool:
        if "objects" in self.selector.needs or self.budget_unit != "images":
            return True
        # Methods that take the classes of objects where items have none of their own.
        asked = self.selector.wants_objects(Pool(labels=self.pool_labels, size=self.template.size))
        return asked and (self.proposer is not None or read_objects(self._images) is not None)

    @property
    def _images(self) -> Any:
        """What is selected from."""
        dataset = self.template.dataset
        return dataset if self._positions is None else Subset(dataset, self._positions.tolist())

    def _find_objects(self) -> Objects:
        assert self._objects is not None
        return self._objects.find(
            reducer=self.reducer,
            device=self._device,
            num_workers=self.template.loader.num_workers,
            cache=self._folder,
            dataset_key=self.fingerprint,
            progress=progress_of(self.trainer, self.reducer.rank),
        )

    def _context(self, duplicates: Tensor | None = None) -> SelectionContext:
        return SelectionContext(
            images=self._images,
            embed=self._embed,
            embed_images=self._embed_images,
            extractor=self.extractor,
            num_workers=self.template.loader.num_workers,
            signals=self.record if self._needs_signals and self.signals is not None else None,
            objects=None if self._objects is None else self._find_objects,
            reducer=self.reducer,
            device=self._device,
            memory_limit=self.memory_limit,
            progress=progress_of(self.trainer, self.reducer.rank),
            cache=self._folder,
            duplicates=duplicates,
        )

    def _find_duplicates(self) -> Tensor | None:
        """Group of near duplicates of each item; every rank gets the same."""
        if not self.group_duplicates:
            return None
        key = stable_key(FORMAT_VERSION, self.fingerprint, "thumbnails")
        cache = None if self._folder is None else EmbeddingCache(self._folder, key)
        progress = progress_of(self.trainer, self.reducer.rank)
        return duplicate_groups(gather_thumbnails(self._images, self.reducer, cache=cache, progress=progress))

    @property
    def _needs_features(self) -> bool:
        by_proxy = self._needs_signals and isinstance(self.signals, Proxy) and self.signals.needs_features
        return by_proxy or "features" in self.selector.needs

    @property
    def _needs_signals(self) -> bool:
        return "signals" in self.selector.needs

    @property
    def _device(self) -> torch.device:
        return torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device

    @property
    def _folder(self) -> str | None:
        """Where embeddings and selections are kept; None: nowhere. A smoke test keeps nothing."""
        if self.cache_dir is None or self._positions is not None:
            return None
        if str(self.cache_dir) != "auto":
            return str(self.cache_dir)
        return None if self.trainer is None else join(self.trainer.default_root_dir, "coresets")

    def _cap_for_smoke_test(self, size: int) -> None:
        ranks, _ = data_parallel_ranks(self.trainer)
        per_step = (self.batch_size or self.template.loader.batch_size or 1) * ranks
        batches = smoke_test_batches(self.trainer, max(1, math.ceil(self._total / per_step)))
        if batches is None:
            return
        kept = batches * per_step
        if self.budget_unit != "images":
            # Batches are counted in images, and a smoke test must not look for objects in all of them.
            self.budget_unit, self._total = "images", kept
        ratio = self.ratio if self.ratio is not None else min(1.0, self._total / size)
        # Less a hair, so that 3 / 0.1 needs 30 items and not 31.
        pool = min(size, math.ceil(kept / ratio - 1e-9))
        order = torch.randperm(size, generator=seeded_generator(self.seed, "smoke test"))
        self._positions = order[:pool].sort().values
        self._total = resolve_total(pool, ratio=self.ratio) if self.ratio is not None else min(kept, self._total, pool)

    def _read_signals(self, size: int) -> None:
        """Signals that are there already, as those of this train dataset; those of a proxy are made when needed."""
        if not self._needs_signals or self.signals is None or isinstance(self.signals, Proxy):
            return
        found = self.signals if isinstance(self.signals, Signals) else Signals.load(self.signals)
        loader_size = len(self.template.loader.dataset)  # type: ignore[arg-type]
        if len(found) == loader_size != size and isinstance(self.template.dataset, Subset):
            # Recorded by a loader that draws from a part of its dataset.
            found = found.subset(torch.as_tensor(self.template.dataset.indices))
        if self.pool_labels is None and len(found) == size:
            self.pool_labels = found.labels
        if self.pool_labels is None or not torch.equal(found.labels, self.pool_labels):
            msg = (
                f"signals= holds {len(found)} items and the train dataset has {size}, or their labels differ: give the "
                "recording of this dataset with these labels, in its order."
            )
            raise ValueError(msg)
        self.recorded = found if self._positions is None else found.subset(self._positions)
        self._signals_key = found.key

    def record(self) -> Signals:
        """The signals that the selection looks at: given, stored, or of a proxy run now; all ranks call it."""
        if self.recorded is None and isinstance(self.signals, Proxy):
            self.recorded = self._stored_signals() or self._run_proxy(self.signals)
        assert self.recorded is not None
        return self.recorded

    def _run_proxy(self, proxy: Proxy) -> Signals:
        dataset: Any = self.template.dataset
        labels = self.pool_labels
        if labels is None:
            msg = (
                "Proxy trains a classifier and the train items show no class: give labels=, one for each train item, "
                "or a method that needs no signals."
            )
            raise CoresetError(msg)
        if self._positions is not None:
            dataset, labels = Subset(dataset, self._positions.tolist()), labels[self._positions]
        # A gather of its own, because a rank without embeddings would leave the others waiting.
        embeddings = embed_everything(len(labels), self._embed, self.reducer) if proxy.needs_features else None
        found = proxy.record(
            dataset,
            labels,
            embeddings=embeddings,
            seed=self.seed,
            device=self._device,
            num_workers=self.template.loader.num_workers,
            reducer=self.reducer,
            progress=progress_of(self.trainer, self.reducer.rank),
        )
        if self._folder is not None and self.reducer.rank == 0:
            try:
                found.save(self._signals_path())
            except OSError as error:
                warnings.warn(
                    f"Signals are used but could not be written to {self._folder} ({error}): free some space or give "
                    "another cache_dir, or the proxy is trained again next time.",
                    stacklevel=2,
                )
        return found

    def _stored_signals(self) -> Signals | None:
        """Signals of a proxy as the first rank finds them."""
        found: Signals | None = None
        with together(self.reducer, "reading the signals"):
            if self._folder is not None and self.reducer.rank == 0 and exists(self._signals_path()):
                try:
                    found = Signals.load(self._signals_path())
                except CoresetError as error:
                    warnings.warn(f"{error} The proxy is trained again.", stacklevel=2)
        return from_rank(self.reducer, found, 0)

    def _signals_path(self) -> str:
        return join(str(self._folder), "signals", f"{self._signals_key}.safetensors")

    def _make_keys(self) -> None:
        if self._needs_features:
            self._embedding_key = self._key_of(self.fingerprint)
        if self._needs_signals and isinstance(self.signals, Proxy):
            on = self._embedding_key if self.signals.needs_features else None
            self._signals_key = stable_key(FORMAT_VERSION, self.fingerprint, on, self.signals.key, self.seed)
        selector = type(self.selector)
        name = f"{selector.__module__}.{selector.__qualname__}"
        capped = None if self._positions is None else len(self._positions)
        self.request = stable_key(
            FORMAT_VERSION,
            self.fingerprint,
            *([] if self._signals_key is None else [self._signals_key]),
            name,
            repr(sorted(self.selector.arguments.items())),
            *([] if self._objects is None else [self._objects.key, self.budget_unit, self.ratio, self.budget]),
            *(["one of each group"] if self.group_duplicates else []),
            self._total,
            self.seed,
            capped,
        )
        self.key = stable_key(self.request, self._embedding_key)

    def _check_ranks_agree(self) -> None:
        """Indices mean nothing on a rank that reads another dataset, nor do embeddings of another network."""
        told = gather_json(self.reducer, [self.fingerprint, self._embedding_key])
        datasets, embeddings = ({part[place] for part in told} for place in range(2))
        if len(datasets) > 1 or len(embeddings) > 1:
            different = "train datasets" if len(datasets) > 1 else "networks as features="
            msg = (
                f"{self.reducer.world_size} ranks hold different {different}, and one selection must fit all: call "
                "lightning.seed_everything() before the datamodule and the network are made, or load the same ones."
            )
            raise CoresetError(msg)

    def _key_of(self, images: str) -> str:
        """The embedding key of a dataset with this key."""
        precision = None if self.trainer is None else str(self.trainer.precision)
        module = None if self.trainer is None else self.trainer.lightning_module
        transform, hooks = callable_key(self.features_transform), transfer_hooks(self.source, module)
        return stable_key(FORMAT_VERSION, images, self.extractor.key, transform, precision, hooks)

    def _embed(self, positions: Tensor) -> Tensor:
        if self._positions is not None:
            positions = self._positions[positions]
        if isinstance(self.extractor, PrecomputedFeatures):
            return self.extractor.matrix(self.template.size)[positions]
        assert self._embedding_key is not None
        return self._extract(self.template.dataset, self._embedding_key, positions)

    def _embed_images(self, dataset: Any, key: str, positions: Tensor) -> Tensor:
        return self._extract(dataset, self._key_of(key), positions)

    def _extract(self, dataset: Any, key: str, positions: Tensor) -> Tensor:
        assert isinstance(self.extractor, FeatureExtractor)
        return extract_features(
            dataset,
            self.extractor,
            positions,
            transform=self.features_transform,
            trainer=self.trainer,
            source=self.source,
            num_workers=self.template.loader.num_workers,
            cache=None if self._folder is None else EmbeddingCache(self._folder, key),
            progress=progress_of(self.trainer, self.reducer.rank),
        )

    def _path(self) -> str | None:
        return None if self._folder is None else join(self._folder, "selections", f"{self.key}.json")

    def _read(self) -> Coreset | None:
        """The stored coreset as the first rank finds it: other machines may not see the same disk."""
        found: Coreset | None = None
        path = self._path()
        with together(self.reducer, "reading the selection"):
            if self.reducer.rank == 0 and path is not None and exists(path):
                try:
                    found = Coreset.load(path)
                except CoresetError as error:
                    warnings.warn(f"{error} It is selected again.", stacklevel=2)
                if found is not None and found.manifest.get("fingerprint") != self.fingerprint:
                    warnings.warn(f"{path} belongs to another dataset; it is selected again.", stacklevel=2)
                    found = None
        plain = gather_json(self.reducer, None if found is None else found.to_plain())[0]
        return None if plain is None else Coreset.from_plain(plain)

    def _write(self, coreset: Coreset) -> None:
        path = self._path()
        if path is None or self._folder is None or self.reducer.rank != 0:
            return
        try:
            coreset.save(path)
            # The latest one under a name that a user finds: after ddp_spawn nothing is left on the parent's object.
            coreset.save(join(self._folder, "coreset.json"))
        except OSError as error:
            warnings.warn(
                f"The selection is used but could not be written to {path} ({error}): free some space or give another "
                "cache_dir, or it is made again next time.",
                stacklevel=2,
            )
