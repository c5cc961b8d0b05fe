"""A dataset and its semantically augmented images behind it."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_coreset.augmentation.exchange import cells_of, exchange_background
from lightning_coreset.augmentation.masks import MAP_SIDE, foreground_cells, saliency_maps
from lightning_coreset.augmentation.planes import like, to_planes
from lightning_coreset.augmentation.settings import SDASettings, choose_items
from lightning_coreset.data import EmbeddingCache, RawImages, dataset_fingerprint, read_changed, read_labels, stable_key
from lightning_coreset.data.fingerprint import FORMAT_VERSION
from lightning_coreset.data.loaders import refuse_iterable
from lightning_coreset.errors import CoresetError
from lightning_coreset.ops.reducer import Reducer


class SDADataset(Dataset[Any]):
    """A dataset of ``N`` images with ``M`` more that show the same foregrounds on other backgrounds.

    Items 0 to ``N - 1`` are the dataset's own. Item ``N + p`` shows the ``p``-th of the chosen items again: the half
    of its cells that a randomly initialised network finds most salient stays, every other cell is filled with a
    background cell of ``donors`` other chosen images. The label is kept, and the dataset's own transform follows. The
    network looks at the chosen images once, on construction; SDA images are made when they are read, the same at every
    read, in every process and on every rank; each reads its own image and its donors'. Images may be PIL, arrays or
    tensors with 1, 3 or 4 channels, of mixed sizes; sides below ``2 * grid`` pixels get fewer cells. A network on
    another kind of device may see single cells the other way round, unless ``cache_dir`` remembers them.

    Paper: "Rethinking Dataset Quantization" (DQ_v2), semantically-aware data augmentation.

    Args:
        dataset: A map-style dataset of images. Its transform is the attribute ``transform`` or ``transforms``;
            otherwise items are changed as they come.
        augment: Share of the items that get an SDA image, in [0, 1], the same in all classes.
        labels: Class of each item ``[N]``; None reads them from the dataset, where it has any.
        grid: Cells a side, at most.
        donors: Images that give the background of each.
        seed: Of the network, of which items are chosen, and of the background cells.
        device: Where the network runs; None is the CPU.
        num_workers: Processes that read images for it.
        cache_dir: Folder or URL for what the network saw; None keeps nothing.
        progress: Called as ``progress(total, description)``, gives a context manager around a bar.

    Attributes:
        dataset: The dataset as given.
        parents: Positions of the chosen items ``[M]``, ascending.

    Raises:
        ValueError: Arguments out of range.
        CoresetError: Items that are not images.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> images = TensorDataset(torch.rand(6, 3, 28, 28), torch.tensor([0, 0, 0, 1, 1, 1]))
        >>> expanded = SDADataset(images, augment=0.5)
        >>> len(expanded), expanded[6][1] == expanded[expanded.parent_of(6)][1]
        (9, tensor(True))
    """

    def __init__(
        self,
        dataset: Any,
        *,
        augment: float = 0.5,
        labels: Tensor | Sequence[int] | None = None,
        grid: int = 40,
        donors: int = 4,
        seed: int = 0,
        device: torch.device | str | None = None,
        num_workers: int = 0,
        cache_dir: Any = None,
        progress: Callable[[int, str], AbstractContextManager[Any]] | None = None,
    ) -> None:
        check_arguments(augment=augment, grid=grid, donors=donors)
        refuse_iterable(dataset)
        found = read_labels(dataset, labels)
        parents = choose_items(found, len(dataset), augment, seed, "SDA")
        self._open(dataset, SDASettings(len(dataset), parents, grid, donors, seed))
        self.look(
            device=None if device is None else torch.device(device),
            num_workers=num_workers,
            cache=cache_dir,
            progress=progress,
        )

    @classmethod
    def unseen(cls, dataset: Any, settings: SDASettings) -> "SDADataset":
        """The same with given settings, before the network has looked at anything (`look`).

        Raises:
            CoresetError: The settings are of a dataset with another number of items.
        """
        if len(dataset) != settings.size:
            msg = (
                f"These SDA settings are of a dataset of {settings.size} items, and this one has {len(dataset)}: read "
                "SDA images with the dataset they were selected from."
            )
            raise CoresetError(msg)
        self = cls.__new__(cls)
        self._open(dataset, settings)
        return self

    def _open(self, dataset: Any, settings: SDASettings) -> None:
        self.dataset = dataset
        self.parents = settings.parents
        self.settings = settings
        self.maps = torch.full((len(settings.parents), MAP_SIDE**2), torch.nan)
        self._raw = RawImages(dataset)

    def look(
        self,
        items: Tensor | None = None,
        *,
        device: torch.device | None = None,
        reducer: Reducer | None = None,
        num_workers: int = 0,
        cache: Any = None,
        progress: Callable[[int, str], AbstractContextManager[Any]] | None = None,
    ) -> None:
        """Let the network see what some items need: their parents and these parents' donors.

        Args:
            items: Items to be read later, SDA or not ``[n]``; None for all.
            device: Where the network runs; None is the CPU.
            reducer: The ranks that share the work; all must call this alike.
            num_workers: Processes that read images.
            cache: Folder or URL for what the network saw; None keeps nothing.
            progress: Called as ``progress(total, description)``, gives a context manager around a bar.
        """
        places = torch.arange(len(self.parents))
        if items is not None:
            own = (items[items >= self.settings.size] - self.settings.size).tolist()
            wanted = set(own).union(*(self.settings.donors_of(place) for place in own))
            places = torch.tensor(sorted(wanted), dtype=torch.int64)
        places = places[self.maps[places].isnan().any(dim=1)]
        if not len(places):
            return
        store = None
        if cache is not None:
            key = stable_key(FORMAT_VERSION, "saliency", dataset_fingerprint(self.dataset, None), self.settings.seed)
            store = EmbeddingCache(cache, key)
        self.maps[places] = saliency_maps(
            self._raw,
            self.parents[places],
            seed=self.settings.seed,
            device=device,
            reducer=reducer,
            cache=store,
            num_workers=num_workers,
            progress=progress,
        )

    @property
    def targets(self) -> Tensor | None:
        """Class of each item ``[N + M]``; None where the dataset does not tell without reading images."""
        found = read_labels(self.dataset)
        return None if found is None else torch.cat([found, found[self.parents]])

    def parent_of(self, item: int) -> int:
        """The item whose foreground an SDA item shows; originals are their own."""
        return item if item < self.settings.size else int(self.parents[item - self.settings.size])

    def mask(self, item: int) -> Tensor:
        """Foreground cells of an SDA item ``[g, g]``, bool."""
        place = item - self.settings.size
        return self._mask(place, to_planes(self._raw[int(self.parents[place])], int(self.parents[place])))

    def image(self, item: int) -> Any:
        """The raw image of an item, before any transform, of the kind its dataset reads."""
        raw = self._raw[self.parent_of(item)]
        return raw if item < self.settings.size else self._exchanged(raw, item - self.settings.size)

    def __len__(self) -> int:
        """Originals and SDA items, ``N + M``."""
        return self.settings.size + len(self.parents)

    def __getitem__(self, item: int) -> Any:
        """One item in the dataset's own structure, after its own transform."""
        if not -len(self) <= item < len(self):
            msg = f"Item {item} of {len(self)}: items go from 0 to {len(self) - 1}."
            raise IndexError(msg)
        item = int(item) % len(self)
        if item < self.settings.size:
            return self.dataset[item]
        place = item - self.settings.size
        return read_changed(self.dataset, int(self.parents[place]), lambda raw: self._exchanged(raw, place))

    def _exchanged(self, raw: Any, place: int) -> Any:
        planes = to_planes(raw, int(self.parents[place]))
        donors = []
        for other in self.settings.donors_of(place):
            lent = to_planes(self._raw[int(self.parents[other])], int(self.parents[other]))
            donors.append((lent, self._mask(other, lent)))
        generator = self.settings.generator(place, "cells")
        return like(raw, exchange_background(planes, self._mask(place, planes), donors, generator))

    def _mask(self, place: int, planes: Tensor) -> Tensor:
        saliency = self.maps[place]
        if bool(saliency[0].isnan()):
            msg = (
                f"The network has not seen item {int(self.parents[place])}, so SDA item {self.settings.size + place} "
                "cannot be made: call look() with the items that will be read."
            )
            raise CoresetError(msg)
        return foreground_cells(saliency, cells_of(planes.shape[1], planes.shape[2], self.settings.grid))


def check_arguments(*, augment: float, grid: int, donors: int) -> None:
    """Refuse arguments of SDA that make no sense.

    Raises:
        ValueError: One out of its range.
    """
    if isinstance(augment, bool) or not isinstance(augment, Real) or not 0 <= augment <= 1:
        msg = f"augment={augment!r} is not accepted: give the share of items that get an SDA image, 0 to 1."
        raise ValueError(msg)
    for name, value in (("grid", grid), ("donors", donors)):
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            msg = f"{name}={value!r} is not accepted: give a whole number of at least 1."
            raise ValueError(msg)
