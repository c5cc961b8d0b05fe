"""Dataset Quantization v2: a pool with augmented images, split into bins, a share of each."""

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from lightning_coreset.augmentation import SDADataset, SDASettings
from lightning_coreset.augmentation.dataset import check_arguments
from lightning_coreset.augmentation.settings import choose_items
from lightning_coreset.coreset import Coreset
from lightning_coreset.data import EmbeddingCache, dataset_fingerprint, stable_key
from lightning_coreset.data.fingerprint import FORMAT_VERSION
from lightning_coreset.errors import CoresetError
from lightning_coreset.features import PrecomputedFeatures, extract_features, resolve_extractor
from lightning_coreset.features.proxy import ProxyExtractor
from lightning_coreset.ops import graph_cut_bins
from lightning_coreset.ops.random import seeded_generator
from lightning_coreset.pool import Pool
from lightning_coreset.selectors.base import Selector
from lightning_coreset.selectors.bins import dealt, draw
from lightning_coreset.selectors.context import SelectionContext
from lightning_coreset.selectors.cost import Work, bins_work
from lightning_coreset.selectors.expansion import Expansion
from lightning_coreset.selectors.group import Group, Picks
from lightning_coreset.signals import Signals

_BINNINGS = ("graph_cut", "random", "uniform")


class DQv2(Selector, name="dq_v2"):
    """A uniform share of each bin of the pool and of images that show its foregrounds on other backgrounds.

    Half of the items get a second image (`SDADataset`); the pool that is 1.5 times as large is split into bins, by
    default by graph cut on the features of a small network that trains on it, and the budget is drawn from the bins
    in proportion to their sizes. Exactly the budget is chosen, shared over the classes by their originals. SDA images
    have the positions from ``N`` on; ``coreset.details["parent"]`` holds the original of each pick. ``augment=0`` is
    the original Dataset Quantization, without its pixel quantization; it works on arrays.

    Classes smaller than ``bins`` have as many bins as items. ``initial`` counts in its bins' shares and stays in the
    pool; forbidding an item forbids its SDA image. Cutting takes O(n^2 d) time and O(n d) memory for a class of ``n``
    items and SDA images; before it one ResNet-50 pass an SDA image, and the training of the proxy.

    Papers: Dataset Quantization (Zhou et al. 2023); "Rethinking Dataset Quantization" (DQ_v2).

    Args:
        augment: Share of the items that get an SDA image, in [0, 1].
        originals: Share of the originals that stay in the pool, in [0, 1].
        bins: Number of bins, in each class.
        binning: ``"graph_cut"``; ``"random"`` deals the whole pool out at random, ``"uniform"`` each class.
        lam: Weight of representing the pool in the graph cut; 2 and above keep gains positive longer.
        normalize: Whether rows are normalised for the graph cut.
        grid: Cells a side of an SDA image, at most.
        donors: Images that give the background of each SDA image.
        extractor: ``"proxy"``, ``"random"`` (the same network, untrained; taken where there are no labels), or what
            ``features=`` of `CoresetDataModule` takes, which counts where it is given. The first two read raw images;
            ``features_transform=`` is for the others.
        proxy_epochs: Passes of the proxy over the pool with its SDA images.
        per_class: Cut and draw in each class (default), or in the whole pool.

    Raises:
        ValueError: On selecting with arguments out of range, or with ``augment`` above 0 without images.

    Example:
        >>> from lightning_coreset import select
        >>> features = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
        >>> len(select(features, method="dq_v2", augment=0, ratio=0.25))
        10
    """

    needs = frozenset({"features", "images"})
    ranks = False
    per_class_default = True

    def __init__(
        self,
        *,
        augment: float = 0.5,
        originals: float = 1.0,
        bins: int = 10,
        binning: str = "graph_cut",
        lam: float = 1.0,
        normalize: bool = True,
        grid: int = 40,
        donors: int = 4,
        extractor: Any = "proxy",
        proxy_epochs: int = 10,
        per_class: bool | None = None,
    ) -> None:
        super().__init__(per_class=per_class)
        self.augment = augment
        self.originals = originals
        self.bins = bins
        self.binning = binning
        self.lam = lam
        self.normalize = normalize
        self.grid = grid
        self.donors = donors
        self.extractor = extractor
        self.proxy_epochs = proxy_epochs
        needed = {"features": binning == "graph_cut", "images": augment != 0}
        self.needs = frozenset(name for name, is_needed in needed.items() if is_needed)
        # What the network saw, so that views of one selection do not look again: a key, and the maps.
        self._seen: tuple[str, Tensor] | None = None
        self._fresh: SDADataset | None = None

    def check(self) -> None:
        """Refuse arguments out of range."""
        check_arguments(augment=self.augment, grid=self.grid, donors=self.donors)
        if isinstance(self.originals, bool) or not isinstance(self.originals, Real) or not 0 <= self.originals <= 1:
            msg = f"originals={self.originals!r} is not accepted: give the share of originals that stay, 0 to 1."
            raise ValueError(msg)
        if self.binning not in _BINNINGS:
            msg = f"binning={self.binning!r} is not accepted: give one of {', '.join(map(repr, _BINNINGS))}."
            raise ValueError(msg)
        for name, value, least in (("bins", self.bins, 1), ("proxy_epochs", self.proxy_epochs, 0)):
            if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
                msg = f"{name}={value!r} is not accepted: give a whole number of at least {least}."
                raise ValueError(msg)
        if not self.lam > 0:
            msg = f"lam={self.lam!r} is not accepted: give a positive number."
            raise ValueError(msg)

    def widened(self, size: int) -> int:
        """The originals that stay, and the SDA images."""
        return max(1, round(size * (self.originals + self.augment)))

    def work(self, size: int, width: int, count: int, memory_limit: int) -> Work:
        """Cutting the bins; neither making SDA images nor what embeds them."""
        if self.binning != "graph_cut":
            return Work(20.0 * size, 128 * size)
        return bins_work(size, width)

    def check_pool(self, pool: Pool, context: SelectionContext, signals: Signals | None = None) -> None:
        """Refuse SDA without images, and features that cannot know of SDA images."""
        has_images = pool.images is not None or context.images is not None
        if self.augment and not has_images:
            msg = (
                f"'dq_v2' with augment={self.augment!r} makes new images and got none to make them of: wrap the "
                "dataset in CoresetDataModule(..., method='dq_v2'), give Pool(images=...), or choose with augment=0."
            )
            raise ValueError(msg)
        if "features" not in self.needs:
            return
        if self.augment and (pool.features is not None or isinstance(self._extractor(context), PrecomputedFeatures)):
            msg = (
                f"'dq_v2' with augment={self.augment!r} got embeddings that are there already, which know nothing of "
                "the new images: give an extractor, such as 'proxy', 'pixels' or 'timm/resnet18', or choose with "
                "augment=0."
            )
            raise ValueError(msg)
        if not has_images:
            super().check_pool(pool, context, signals)

    @property
    def arguments(self) -> dict[str, Any]:
        """The constructor's values; an extractor that is an object by its key."""
        told = self.extractor if isinstance(self.extractor, str) else resolve_extractor(self.extractor).key
        return super().arguments | {"extractor": told}

    def embedder(self, features: Any) -> Any:
        """``features="auto"`` is the ``extractor``; anything else takes its place.

        Raises:
            ValueError: Both are given.
        """
        named = isinstance(features, str) and features == "auto"
        if not named and not (isinstance(self.extractor, str) and self.extractor == "proxy"):
            msg = (
                f"features= beside extractor={self.extractor!r} is not accepted: give one of them (from the shell, "
                "--data.features=auto clears it)."
            )
            raise ValueError(msg)
        spec = self.extractor if named else features
        if isinstance(spec, str) and spec in ("proxy", "random"):
            return ProxyExtractor(self.proxy_epochs if spec == "proxy" else 0)
        return spec

    def expand(self, pool: Pool, context: SelectionContext, seed: int) -> Expansion:
        """The pool with its SDA images, and what embeds them all."""
        images = pool.images if pool.images is not None else context.images
        labels, parents, absent = pool.labels, None, None
        resolved: dict[str, Any] = {}
        if self.augment:
            settings = SDASettings(
                pool.size, choose_items(labels, pool.size, self.augment, seed, "SDA"), self.grid, self.donors, seed
            )
            images = self._fresh = SDADataset.unseen(images, settings)
            images.look(**_surroundings(context), cache=context.cache)
            parents = torch.cat([torch.arange(pool.size), settings.parents])
            labels = None if labels is None else labels[parents]
            resolved["sda"] = settings.to_plain()
        size = pool.size if parents is None else len(parents)
        if self.originals < 1:
            kept = choose_items(pool.labels, pool.size, self.originals, seed, "originals")
            absent = torch.arange(size) < pool.size
            absent[kept] = False
        features, embed = pool.features, context.embed
        if "features" in self.needs and features is None and images is not None:
            extractor = self._extractor(context)
            if isinstance(extractor, PrecomputedFeatures):
                features = extractor.matrix(pool.size)
            else:
                embed, told = self._embedding(images, labels, extractor, context, seed)
                resolved |= told
        return Expansion(size, labels, features, embed, parents, absent, resolved)

    def _extractor(self, context: SelectionContext) -> Any:
        return resolve_extractor(self.embedder("auto")) if context.extractor is None else context.extractor

    def _embedding(
        self, images: Any, labels: Tensor | None, extractor: Any, context: SelectionContext, seed: int
    ) -> tuple[Callable[[Tensor], Tensor], dict[str, Any]]:
        """What embeds positions of the pool that is picked from, and what the manifest says of it."""
        settings = images.settings.to_plain() if isinstance(images, SDADataset) else None
        source = images.dataset if isinstance(images, SDADataset) else images
        key = "" if context.cache is None else stable_key(dataset_fingerprint(source, None), settings)
        around = _surroundings(context)
        reducer = around.pop("reducer")

        def store(*parts: Any) -> EmbeddingCache | None:
            return None if context.cache is None else EmbeddingCache(context.cache, stable_key(FORMAT_VERSION, *parts))

        used = None
        if isinstance(extractor, ProxyExtractor):
            extractor = ProxyExtractor(0) if labels is None else extractor
            used = None if labels is None or not extractor.epochs else labels
            notes = {"name": "proxy" if used is not None else "random", "epochs": extractor.epochs}
            told = {"features": extractor.key, "extractor": notes | {"labels": used is not None}}
            kept = store("proxy", key, None if used is None else used.tolist(), extractor.key, seed)
            fitted = extractor.fitted(images, used, seed=seed, reducer=reducer, cache=kept, **around)
            view: Any = fitted.view(images)
            extractor, embed_images = fitted, None
        else:
            told = {"extractor": {"name": extractor.key, "epochs": 0, "labels": False}}
            view, embed_images = images, context.embed_images

        def embed(positions: Tensor) -> Tensor:
            if embed_images is not None:
                return embed_images(images, key, positions)
            return extract_features(view, extractor, positions, cache=store("embedding", key, extractor.key), **around)

        return embed, told

    def select_group(self, group: Group) -> Picks:
        """Bins, and a uniform share of each."""
        bins = self._bins(group)
        indices = draw(group, bins)
        return Picks(indices, details={"bin": bins[indices].tolist()}, resolved={"bins": len(torch.unique(bins))})

    def _bins(self, group: Group) -> Tensor:
        """Bin of each row ``[n]``."""
        if self.binning == "graph_cut":
            return graph_cut_bins(group.rows, self.bins, lam=self.lam, normalize=self.normalize).cpu()
        if self.binning == "uniform":
            return dealt(group.size, self.bins, seeded_generator(group.seed, "class", group.label, "bins"))
        positions = torch.arange(group.size) if group.positions is None else group.positions
        whole = max(group.pool_size, group.size)
        return dealt(whole, self.bins, seeded_generator(group.seed, "bins"))[positions]

    def prepare_view(self, dataset: "Dataset[Any]", coreset: Coreset, context: SelectionContext) -> None:
        """Let the network see what the chosen SDA images need, on all ranks and their devices."""
        view = self._sda(dataset, coreset)
        if view is not None:
            view.look(coreset.indices, **_surroundings(context), cache=context.cache)
            self._seen = (_view_key(coreset), view.maps)
        self._fresh = None

    def train_view(self, dataset: "Dataset[Any]", coreset: Coreset) -> "Dataset[Any]":
        """Originals and SDA images, with the settings that the coreset was selected with.

        Raises:
            CoresetError: SDA images whose settings the manifest does not hold, or those of another dataset.
        """
        view = self._sda(dataset, coreset)
        if view is None:
            return super().train_view(dataset, coreset)
        view.look(coreset.indices)
        return Subset(view, sorted(coreset.indices.tolist()))

    def relocated(self, coreset: Coreset, positions: Tensor, size: int) -> Coreset:
        """See `Selector.relocated`; SDA images follow the whole dataset."""
        plain = coreset.manifest["resolved"].get("sda")
        if plain is None:
            return super().relocated(coreset, positions, size)
        settings = SDASettings.from_plain(plain)
        own = coreset.indices < settings.size
        indices = torch.where(own, positions[coreset.indices.clamp(max=settings.size - 1)], coreset.indices)
        moved = SDASettings(size, positions[settings.parents], settings.grid, settings.donors, settings.seed)
        return Coreset(
            indices=torch.where(own, indices, coreset.indices - settings.size + size),
            weights=coreset.weights,
            gains=coreset.gains,
            labels=coreset.labels,
            details=coreset.details | {"parent": positions[torch.tensor(coreset.details["parent"])].tolist()},
            manifest=coreset.manifest | {"resolved": coreset.manifest["resolved"] | {"sda": moved.to_plain()}},
        )

    def _sda(self, dataset: Any, coreset: Coreset) -> SDADataset | None:
        """The dataset with the SDA images of a coreset, as far as they were seen; None where none was chosen."""
        if not bool((coreset.indices >= len(dataset)).any()):
            return None
        plain = coreset.manifest.get("resolved", {}).get("sda")
        if plain is None:
            msg = (
                f"The coreset holds item {int(coreset.indices.max())} of {len(dataset)} and its manifest no SDA "
                "settings: select again with method='dq_v2', or train with the method that made it."
            )
            raise CoresetError(msg)
        settings = SDASettings.from_plain(plain)
        view = SDADataset.unseen(dataset, settings)
        fresh = self._fresh
        if fresh is not None and fresh.dataset is dataset and fresh.settings.to_plain() == settings.to_plain():
            view.maps = fresh.maps
        elif self._seen is not None and self._seen[0] == _view_key(coreset):
            view.maps = self._seen[1].clone()
        return view


def _surroundings(context: SelectionContext) -> dict[str, Any]:
    return {name: getattr(context, name) for name in ("device", "reducer", "num_workers", "progress")}


def _view_key(coreset: Coreset) -> str:
    return stable_key(coreset.manifest.get("fingerprint"), coreset.manifest["resolved"]["sda"])
