"""Which items get a second image, and all that is needed to make these images again."""

import base64
import math
import zlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_coreset.budget import class_seats
from lightning_coreset.errors import CoresetError
from lightning_coreset.ops.random import seeded_generator


@dataclass(frozen=True)
class SDASettings:
    """Everything that the pixels of SDA images depend on, beside the dataset.

    Attributes:
        size: Items of the dataset, ``N``.
        parents: Positions of the items that get an SDA image ``[M]``, ascending; SDA image ``p`` is item ``N + p``.
        grid: Cells a side, at most.
        donors: Images that each SDA image takes its background from, at most.
        seed: Of the network and of all draws.

    Example:
        >>> settings = SDASettings(5, torch.tensor([1, 4]), grid=40, donors=4, seed=0)
        >>> SDASettings.from_plain(settings.to_plain()).parents.tolist()
        [1, 4]
    """

    size: int
    parents: Tensor
    grid: int
    donors: int
    seed: int

    def to_plain(self) -> dict[str, Any]:
        """The settings in JSON types; parents as packed bits."""
        flags = torch.zeros(self.size, dtype=torch.bool).index_fill_(0, self.parents, True)
        packed = base64.b85encode(zlib.compress(np.packbits(flags.numpy()).tobytes(), 9)).decode()
        return {**{name: value for name, value in asdict(self).items() if name != "parents"}, "parents": packed}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "SDASettings":
        """What `to_plain` gave.

        Raises:
            CoresetError: Something else.
        """
        try:
            bits = np.frombuffer(zlib.decompress(base64.b85decode(plain["parents"])), dtype=np.uint8)
            parents = torch.from_numpy(np.flatnonzero(np.unpackbits(bits, count=plain["size"])))
            return cls(parents=parents, **{name: int(plain[name]) for name in ("size", "grid", "donors", "seed")})
        except (KeyError, TypeError, ValueError, zlib.error) as error:
            msg = f"These are no SDA settings ({type(error).__name__}: {error}): select again with method='dq_v2'."
            raise CoresetError(msg) from error

    def donors_of(self, place: int) -> list[int]:
        """Places among the parents whose images give the background of SDA image ``place``; never its own."""
        others = len(self.parents) - 1
        generator = self.generator(place)
        count = min(self.donors, others)
        # Floyd's draw without replacement: no permutation of all parents for each image.
        drawn: list[int] = []
        for last in range(others - count, others):
            found = int(torch.randint(last + 1, (1,), generator=generator))
            drawn.append(last if found in drawn else found)
        return [other + (other >= place) for other in drawn]

    def generator(self, place: int, use: str = "donors") -> torch.Generator:
        """The stream of one SDA image, from the seed and its parent."""
        return seeded_generator(self.seed, "SDA", int(self.parents[place]), use)


def choose_items(labels: Tensor | None, size: int, share: float, seed: int, use: str) -> Tensor:
    """A share of a dataset's items, spread over the classes by seats and drawn at random within each.

    Args:
        labels: Class of each item ``[N]``, or None.
        size: Items, ``N``.
        share: 0 to 1; ``floor(share * N + 0.5)`` items.
        seed: Of the draws.
        use: What they are drawn for, so that two uses draw apart.

    Returns:
        Positions in ascending order. O(N log N) time, O(N) memory.

    Example:
        >>> choose_items(torch.tensor([0, 0, 1, 1]), 4, 0.5, seed=0, use="SDA").shape
        torch.Size([2])
    """
    labels = torch.zeros(size, dtype=torch.int64) if labels is None else labels
    counts = torch.bincount(labels)
    shares = torch.bincount(class_seats(counts, counts, math.floor(share * size + 0.5)), minlength=len(counts))
    found = []
    for label in torch.nonzero(shares).flatten().tolist():
        members = torch.nonzero(labels == label).flatten()
        order = torch.randperm(len(members), generator=seeded_generator(seed, use, "class", label))
        found.append(members[order[: int(shares[label])]])
    return torch.cat(found).sort().values if found else torch.empty(0, dtype=torch.int64)
