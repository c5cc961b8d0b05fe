"""Tiny grey pictures of images, by which near duplicates are known."""

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lightning_coreset.data.cache import EmbeddingCache
from lightning_coreset.data.views import RawImages, as_tensor, random_state_kept
from lightning_coreset.distributed import index_range, together
from lightning_coreset.ops.reducer import Reducer

_SIDE = 12
_SHARD_IMAGES = 1_024
_GREY = (0.299, 0.587, 0.114)


def thumbnails(dataset: Any, positions: Tensor | Sequence[int] | None = None) -> Tensor:
    """Grey thumbnails of 12 x 12 as rows ``[n, 144]``, float32; images are read one by one, without transforms.

    Args:
        dataset: Map-style dataset of images, as they are or with targets beside them.
        positions: Which; None takes all.

    Example:
        >>> thumbnails([torch.zeros(3, 20, 30, dtype=torch.uint8)]).shape
        torch.Size([1, 144])
    """
    images = RawImages(dataset)
    wanted = range(len(dataset)) if positions is None else torch.as_tensor(positions).tolist()
    rows = torch.empty(len(wanted), _SIDE * _SIDE)
    with random_state_kept():
        for row, place in zip(rows, wanted, strict=True):
            row.copy_(_thumbnail(as_tensor(images[place])).flatten())
    return rows


def gather_thumbnails(
    dataset: Any,
    reducer: Reducer,
    *,
    cache: EmbeddingCache | None = None,
    progress: Callable[[int, str], AbstractContextManager[Any]] | None = None,
) -> Tensor:
    """`thumbnails` of a whole dataset ``[N, 144]``; each rank reads its part of the images, all ranks get them all.

    Args:
        dataset: Map-style dataset of images.
        reducer: The ranks.
        cache: Where they are kept, and found again.
        progress: Called as ``progress(total, description)``, gives a context manager around a bar.

    Example:
        >>> from lightning_coreset.ops.reducer import SerialReducer
        >>> gather_thumbnails([torch.zeros(3, 20, 30, dtype=torch.uint8)] * 2, SerialReducer()).shape
        torch.Size([2, 144])
    """
    own = index_range(len(dataset), reducer.rank, reducer.world_size)
    with together(reducer, "looking for near duplicates"):
        positions = torch.arange(own.start, own.stop)
        rows, found = (None, torch.zeros(len(own), dtype=torch.bool)) if cache is None else cache.read(positions)
        rows = torch.zeros(len(own), _SIDE * _SIDE) if rows is None else rows
        missing = torch.nonzero(~found).flatten()
        with (progress or _silent)(len(missing), "Looking for near duplicates") as bar:
            for part in missing.split(_SHARD_IMAGES) if len(missing) else ():
                rows[part] = thumbnails(dataset, positions[part])
                if cache is not None:
                    _store(cache, positions[part], rows[part])
                if bar is not None:
                    bar.update(len(part))
    return torch.cat(reducer.gather(rows))


def _silent(_total: int, _description: str) -> AbstractContextManager[Any]:
    return nullcontext()


def _store(cache: EmbeddingCache, positions: Tensor, rows: Tensor) -> None:
    try:
        cache.write(positions, rows)
    except OSError as error:
        warnings.warn(
            f"Thumbnails are used but could not be written to {cache.folder} ({error}): free some space or give "
            "another cache_dir, or they are made again next time.",
            stacklevel=2,
        )


def _thumbnail(image: Tensor) -> Tensor:
    planes = image.as_subclass(Tensor).to(torch.float32)
    planes = planes.unsqueeze(0) if planes.ndim == 2 else planes
    grey = torch.einsum("chw,c->hw", planes[:3], torch.tensor(_GREY)) if len(planes) >= 3 else planes[0]
    small: Tensor = interpolate(grey[None, None], (_SIDE, _SIDE), mode="bilinear", antialias=True)
    return small[0, 0]
