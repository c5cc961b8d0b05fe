"""Which items are in a batch: a view of a train loader that tells it without changing a batch."""

import copy
import operator
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_coreset.data.loaders import refuse_iterable
from lightning_coreset.errors import CoresetError, UnsupportedSourceError


class Tagged(NamedTuple):
    """What travels from the dataset to the loader: positions and what they belong to.

    The positions are bytes of int64: torch would share a tensor through a file of its own, and pin it.
    """

    positions: bytes
    content: Any


class TaggedItems(Dataset[Any]):
    """A dataset whose items come with their position; all its attributes are the dataset's.

    Example:
        >>> TaggedItems(["a", "b", "c"]).__getitems__([2, -3]).content
        ['c', 'a']
    """

    def __init__(self, dataset: Any) -> None:
        self.__dict__["dataset"] = dataset

    def __len__(self) -> int:
        """Number of items."""
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Tagged:
        """One item, or a whole batch where the loader leaves batches to the dataset."""
        return Tagged(self._positions(index if isinstance(index, Sequence) else [index]), self.dataset[index])

    def __getitems__(self, indices: Sequence[Any]) -> Tagged:
        """The items of a batch."""
        whole = getattr(self.dataset, "__getitems__", None)
        items = whole(indices) if callable(whole) else [self.dataset[index] for index in indices]
        return Tagged(self._positions(indices), items)

    def __getattr__(self, name: str) -> Any:
        """The dataset's attributes; a user's ``worker_init_fn`` finds this view where its dataset was."""
        if "dataset" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.__dict__["dataset"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Attributes are set on the dataset."""
        setattr(self.dataset, name, value)

    def __getstate__(self) -> dict[str, Any]:
        """The view's own state, not the dataset's."""
        return {"dataset": self.dataset}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Put the dataset back."""
        self.__dict__.update(state)

    def _positions(self, indices: Sequence[Any]) -> bytes:
        size = len(self)
        try:
            whole = [operator.index(index) for index in indices]
        except TypeError as error:
            msg = (
                f"The train loader draws items by {indices[0]!r}; whole numbers are accepted, because they say which "
                "item is which: give a sampler of positions."
            )
            raise UnsupportedSourceError(msg) from error
        return array("q", [index + size if index < 0 else index for index in whole]).tobytes()


class TaggedCollate:
    """A collation that leaves the positions beside the batch."""

    def __init__(self, collate: Callable[[Any], Any]) -> None:
        self.collate = collate

    def __call__(self, tagged: Tagged) -> Tagged:
        """The batch as the wrapped collation makes it."""
        return Tagged(tagged.positions, self.collate(tagged.content))


class BatchPositions:
    """The positions of the batches that a loader has given out, in that order.

    Example:
        >>> seen = BatchPositions()
        >>> loader = tagged_loader(DataLoader(range(5), batch_size=3), seen, torch.tensor([4, 3, 2, 1, 0]))
        >>> [(batch.tolist(), seen.next().tolist()) for batch in loader]
        [([0, 1, 2], [4, 3, 2]), ([3, 4], [1, 0])]
    """

    def __init__(self) -> None:
        self._waiting: deque[Tensor] = deque()

    def restart(self) -> None:
        """A new pass begins: what was fetched before and not asked for will not be trained on."""
        self._waiting.clear()

    def add(self, positions: Tensor) -> None:
        """A batch was given out."""
        self._waiting.append(positions)

    def next(self) -> Tensor:
        """Positions of the next batch that is trained on ``[b]``.

        Raises:
            CoresetError: No batch is waiting.
        """
        if not self._waiting:
            msg = (
                "A batch was trained on that did not come from the train loader (dataloader_iter in training_step does "
                "so); training_step(batch, batch_idx) is accepted: take the batch from its argument."
            )
            raise CoresetError(msg)
        return self._waiting.popleft()


def refuse_untellable(loader: Any) -> None:
    """Refuse a loader whose items have no positions.

    Raises:
        UnsupportedSourceError: Another thing than a torch loader, or an iterable dataset.
    """
    if not isinstance(loader, DataLoader):
        msg = (
            f"The train loader is a {type(loader).__name__}, which does not say which items are in a batch; a torch "
            "DataLoader is accepted: return one from train_dataloader()."
        )
        raise UnsupportedSourceError(msg)
    refuse_iterable(untold(loader.dataset))


def untold(dataset: Any) -> Any:
    """The user's dataset behind the view of a tagged loader."""
    return dataset.dataset if isinstance(dataset, TaggedItems) else dataset


def tagged_loader(loader: Any, seen: BatchPositions, positions: Tensor | None = None) -> "DataLoader[Any]":
    """A copy of a loader that gives the same batches and tells which items are in them.

    Batches, their order and every random draw are those of the loader; with workers, persistent ones too.

    Args:
        loader: A loader over a map-style dataset.
        seen: Told of every batch.
        positions: Position to tell of each item of the dataset ``[n]``; None tells the item's own.

    Raises:
        UnsupportedSourceError: Another thing than a torch loader, or an iterable dataset.
    """
    refuse_untellable(loader)
    if isinstance(loader, _TellingLoader):
        # A second listener.
        loader._told = [*loader._told, (seen, positions)]
        return loader
    told: DataLoader[Any] = copy.copy(loader)
    kind = type(loader)
    told.__class__ = type(kind.__name__, (_TellingLoader, kind), {"__module__": kind.__module__})
    # Past the guard that loaders have on these attributes: the sampler and all else stay the loader's.
    told.__dict__ |= {
        "dataset": TaggedItems(loader.dataset),
        "collate_fn": TaggedCollate(loader.collate_fn),
        "_iterator": None,
        "_told": [(seen, positions)],
    }
    return told


class _TellingLoader(DataLoader[Any]):
    """Takes the positions off each batch; a mixin before the class of the user's loader."""

    _told: list[tuple[BatchPositions, Tensor | None]]

    def __iter__(self) -> Any:
        # Workers start here and now, as without us, so that random draws keep their order.
        return _TellingIterator(super().__iter__(), self._told)


class _TellingIterator:
    def __init__(self, batches: Iterator[Any], told: list[tuple[BatchPositions, Tensor | None]]) -> None:
        self._batches = batches
        self._told = told
        for seen, _ in told:
            seen.restart()

    def __iter__(self) -> "_TellingIterator":
        return self

    def __getattr__(self, name: str) -> Any:
        """Whatever else is asked of torch's iterator (Lightning shuts its workers down)."""
        if name == "_batches":
            raise AttributeError(name)
        return getattr(self._batches, name)

    def __len__(self) -> int:
        return len(self._batches)  # type: ignore[arg-type]

    def __next__(self) -> Any:
        batch = next(self._batches)
        if not isinstance(batch, Tagged):
            msg = (
                f"The train loader's own iteration gave a {type(batch).__name__} where a batch with its positions was "
                "expected; loaders that pass batches on unchanged are accepted: change them in collate_fn or in a "
                "batch-transfer hook."
            )
            raise UnsupportedSourceError(msg)
        # Lightning skips a batch that is None.
        if batch.content is not None:
            own = torch.frombuffer(bytearray(batch.positions), dtype=torch.int64) if batch.positions else _NOTHING
            for seen, positions in self._told:
                seen.add(own if positions is None else positions[own])
        return batch.content


_NOTHING = torch.empty(0, dtype=torch.int64)
