"""What surrounds a selection: ranks, device, memory, progress, and where embeddings come from."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from lightning_coreset.detection import Objects, UnitEstimate
from lightning_coreset.ops.reducer import Reducer, SerialReducer
from lightning_coreset.signals import Signals


class ProgressBar(Protocol):
    """The one thing a selector does with a progress bar."""

    def update(self, n: int = 1) -> object:
        """Say that ``n`` more items are done."""
        ...


class _SilentBar:
    def update(self, n: int = 1) -> None:
        pass


def silent_progress(_total: int, _description: str) -> AbstractContextManager[ProgressBar]:
    """A progress bar that shows nothing."""
    return nullcontext(_SilentBar())


@dataclass(frozen=True)
class SelectionContext:
    """Surroundings of one selection; the defaults are one rank, no progress bar, features in the pool.

    Attributes:
        images: The pool's images as a map-style dataset, for methods that look at or change them.
        embed: Gives the embeddings ``[n, d]`` of pool positions ``[n]`` where the pool has no features.
        embed_images: Gives the embeddings of positions in another dataset, called as ``embed_images(dataset, key,
            positions)`` with a key of what the dataset holds; None where nothing embeds.
        extractor: What embeds, where the caller chose it; None leaves it to the method.
        num_workers: Processes that read images.
        signals: Gives the training signals of the whole pool where the pool has none.
        objects: Gives what the whole pool's images show where the pool does not say it.
        unit_estimate: Of the annotation units of images whose true ones are not known; None is the sum of the scores.
        duplicates: Group of near duplicates of each item ``[N]``; one item of each group is a candidate.
        reducer: The ranks that select together.
        device: Where kernels run; None is where the features are.
        memory_limit: Bytes a kernel may take, ``"auto"`` for half of what is free.
        progress: Called as ``progress(total, description)``, gives a context manager around a bar.
        cache: Folder or URL for what a method wants to find again; None keeps nothing.

    Example:
        >>> SelectionContext().reducer.world_size
        1
    """

    images: Any | None = None
    embed: Callable[[Tensor], Tensor] | None = None
    embed_images: Callable[[Any, str, Tensor], Tensor] | None = None
    extractor: Any | None = None
    num_workers: int = 0
    signals: Callable[[], Signals] | None = None
    objects: Callable[[], Objects] | None = None
    unit_estimate: UnitEstimate | None = None
    duplicates: Tensor | None = None
    reducer: Reducer = field(default_factory=SerialReducer)
    device: torch.device | None = None
    memory_limit: int | str = "auto"
    progress: Callable[[int, str], AbstractContextManager[ProgressBar]] = silent_progress
    cache: str | None = None
