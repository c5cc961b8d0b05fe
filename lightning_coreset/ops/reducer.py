"""What a kernel may ask of other ranks, so that `ops` never sees a process group."""

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Reducer(Protocol):
    """Some ranks that work on one pool together."""

    rank: int
    world_size: int

    def gather(self, rows: Tensor) -> list[Tensor]:
        """The tensors of all ranks in rank order; they may differ in their first dimension, ``[n_r, ...]``."""
        ...


class SerialReducer:
    """One rank alone.

    Example:
        >>> import torch
        >>> SerialReducer().gather(torch.arange(2))
        [tensor([0, 1])]
    """

    rank = 0
    world_size = 1

    def gather(self, rows: Tensor) -> list[Tensor]:
        """The one tensor there is."""
        return [rows]
