"""Seeds: every random choice comes from a generator of its own, never from the global state."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_ONE_AT_A_TIME = threading.Lock()


def seeded_generator(*parts: int | str | None) -> torch.Generator:
    """A CPU generator whose stream depends on all parts, for example ``(seed, "class", 3)``.

    Neighbouring seeds and classes get unrelated streams, which plain sums of numbers would not give.

    Example:
        >>> torch.equal(torch.randperm(9, generator=seeded_generator(0, 1)),
        ...             torch.randperm(9, generator=seeded_generator(0, 1)))
        True
    """
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@contextmanager
def seeded_weights(*parts: int | str | None) -> Iterator[None]:
    """What modules draw when they are built comes from the parts, and the global CPU state is as before afterwards.

    Example:
        >>> with seeded_weights(0):
        ...     first = torch.nn.Linear(2, 2)
        >>> with seeded_weights(0):
        ...     torch.equal(torch.nn.Linear(2, 2).weight, first.weight)
        True
    """
    # `torch.manual_seed` would seed GPUs too; threads would draw each other's numbers.
    with _ONE_AT_A_TIME, torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seeded_generator(*parts).initial_seed())
        yield
