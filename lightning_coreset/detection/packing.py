"""Proposals of many images as a few tensors, to be stored and to travel between ranks."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_coreset.data.shards import ShardFolder
from lightning_coreset.detection.proposals import Proposals
from lightning_coreset.errors import CoresetError
from lightning_coreset.storage import join

NAMES = ("boxes", "counts", "features", "labels", "mask_lengths", "mask_runs", "scores", "sizes")


class ProposalCache:
    """Floor-score proposals of some images of one dataset by one proposer, in shards; see `ShardFolder`.

    Args:
        folder: Folder or fsspec URL.
        key: What the proposals depend on: dataset, proposer and encoder.

    Example:
        >>> cache = ProposalCache("memory://example-proposals", "key")
        >>> cache.write(torch.tensor([3]), [Proposals([[0, 0, 2, 1]], [1], [0.5], size=(4, 4))])
        >>> {place: part.labels.tolist() for place, part in cache.read(torch.tensor([2, 3])).items()}
        {3: [1]}
    """

    def __init__(self, folder: Any, key: str) -> None:
        self.folder = join(folder, "proposals", key)
        self._shards = ShardFolder(
            self.folder, key, NAMES, again="looked at again", foreign="another dataset, proposer or version"
        )

    def write(self, positions: Tensor, proposals: Sequence[Proposals]) -> None:
        """Store the proposals of some positions as one shard.

        Raises:
            OSError: The place cannot be written; no part of the shard is left.
        """
        self._shards.write(positions, packed(proposals))

    def read(self, positions: Tensor) -> dict[int, Proposals]:
        """The proposals of some positions, as far as they are there."""
        wanted = set(positions.tolist())
        found: dict[int, Proposals] = {}
        for path, tensors in self._shards:
            stored = tensors["positions"].tolist()
            if wanted.isdisjoint(stored):
                continue
            try:
                parts = unpacked(tensors)
            except (RuntimeError, ValueError) as error:
                self._shards.damaged(path, str(error), stacklevel=2)
                continue
            found |= {place: part for place, part in zip(stored, parts, strict=True) if place in wanted}
        return found


def packed(proposals: Sequence[Proposals]) -> dict[str, Tensor]:
    """The columns of some images one after another; features in half precision, which is half a kilobyte an object.

    Raises:
        CoresetError: Features that half precision cannot hold.
    """
    filled = [part for part in proposals if len(part)]
    features = [part.features.to(torch.float16) for part in filled if part.features is not None]
    if not all(bool(torch.isfinite(part).all()) for part in features):
        msg = "Features of objects are beyond 65,504 and cannot be stored in half precision: scale or normalise them."
        raise CoresetError(msg)
    widths = {int(part.shape[1]) for part in features} | ({0} if len(features) < len(filled) else set())
    if len(widths) > 1:
        msg = f"Objects have features of {' and '.join(map(str, sorted(widths)))} columns: give all of them one width."
        raise CoresetError(msg)
    width = max(widths, default=0)
    runs = [run for part in filled for run in part.masks or ()]
    return {
        "counts": torch.tensor([len(part) for part in proposals], dtype=torch.int64),
        "sizes": torch.tensor([part.size for part in proposals], dtype=torch.int64).reshape(-1, 2),
        "boxes": torch.cat([torch.empty(0, 4), *[part.boxes for part in filled]]),
        "labels": torch.cat([torch.empty(0, dtype=torch.int64), *[part.labels for part in filled]]),
        "scores": torch.cat([torch.empty(0), *[part.scores for part in filled]]),
        # Without features the rows have no columns.
        "features": torch.cat([torch.empty(0, width, dtype=torch.float16), *features])
        if features
        else torch.empty(sum(map(len, filled)), 0, dtype=torch.float16),
        "mask_lengths": torch.tensor([len(run) for run in runs], dtype=torch.int64),
        "mask_runs": torch.tensor([count for run in runs for count in run], dtype=torch.int64),
    }


def unpacked(columns: Mapping[str, Tensor]) -> list[Proposals]:
    """The proposals of each image."""
    counts = columns["counts"].tolist()
    lengths = columns["mask_lengths"].tolist()
    runs = [part.tolist() for part in columns["mask_runs"].split(lengths)] if lengths else None
    parts = {name: columns[name].split(counts) for name in ("boxes", "labels", "scores", "features")}
    proposals, done = [], 0
    for image, (count, size) in enumerate(zip(counts, columns["sizes"].tolist(), strict=True)):
        boxes, labels, scores, features = (parts[name][image] for name in ("boxes", "labels", "scores", "features"))
        masks = None if runs is None else runs[done : done + count]
        has_features = features.shape[1] > 0
        proposals.append(Proposals(boxes, labels, scores, features if has_features else None, tuple(size), masks))
        done += count
    return proposals
