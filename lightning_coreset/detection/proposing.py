"""The pass: every image of a pool through a proposer once, at a floor score, so that thresholds can change later."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_coreset.data import RawImages, dataset_fingerprint, stable_key
from lightning_coreset.data.fingerprint import FORMAT_VERSION, tensor_key
from lightning_coreset.data.views import as_tensor, random_state_kept
from lightning_coreset.detection.objects import Objects
from lightning_coreset.detection.packing import ProposalCache, packed, unpacked
from lightning_coreset.detection.proposals import KnownObjects, ObjectEncoder, ObjectProposer, Proposals, size_of
from lightning_coreset.distributed import index_range
from lightning_coreset.distributed.reducer import gather_json, together
from lightning_coreset.errors import CoresetError
from lightning_coreset.features.extraction import module_ready
from lightning_coreset.ops.reducer import Reducer, SerialReducer

_SHARD_IMAGES = 128
_Work = Callable[[list[int], list[Tensor]], list[Proposals]]


def propose_objects(
    dataset: Any,
    proposer: ObjectProposer,
    *,
    encoder: ObjectEncoder | None = None,
    reducer: Reducer | None = None,
    device: torch.device | str | None = None,
    num_workers: int = 0,
    batch_size: int = 8,
    cache: Any = None,
    dataset_key: str | None = None,
    progress: Callable[[int, str], AbstractContextManager[Any]] | None = None,
) -> Objects:
    """The objects that a proposer finds in a dataset, everything above its floor score.

    Images are read as they are stored, before any transform. Each rank looks at its part of them; the table is whole
    on every rank. An interrupted pass goes on after its last whole shard of 128 images.

    Args:
        dataset: A map-style dataset of ``N`` images.
        proposer: What finds objects; a `KnownObjects` is asked for its table, and images are read for an encoder only.
        encoder: Embeds objects to which the proposer gave no features.
        reducer: The ranks that share the work; None is one alone.
        device: Where networks run; None is the CPU.
        num_workers: Processes that read images.
        batch_size: Images handed over at once; proposals do not depend on it where the proposer's do not.
        cache: Folder or fsspec URL in which proposals are kept and found again.
        dataset_key: A key of the dataset where the caller has one.
        progress: Called as ``progress(total, description)``, gives a context manager around a bar.

    Returns:
        The table, features rounded to half precision as they are stored. One read and one call an image, O(M D) memory.

    Raises:
        CoresetError: Another number of proposals than images, labels beyond the proposer's classes, no object at all.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> from lightning_coreset.detection import CallableProposer
        >>> def whole(images):
        ...     return [{"boxes": [[0, 0, 4, 4]], "labels": [0], "scores": [0.9]} for _ in images]
        >>> objects = propose_objects(TensorDataset(torch.zeros(3, 3, 4, 4)), CallableProposer(whole, ["thing"]))
        >>> objects.image.tolist(), objects.class_names
        ([0, 1, 2], ['thing'])
    """
    reducer = reducer or SerialReducer()
    known = proposer.known_objects(dataset) if isinstance(proposer, KnownObjects) else None
    if known is not None and known.num_images != len(dataset):
        msg = f"{_name(proposer)} knows {known.num_images} images and the dataset has {len(dataset)}: give its own."
        raise CoresetError(msg)
    if known is None or (encoder is not None and known.features is None and len(known)):
        parts = propose_images(
            dataset,
            proposer,
            known=known,
            encoder=encoder,
            reducer=reducer,
            device=device,
            num_workers=num_workers,
            batch_size=batch_size,
            cache=cache,
            dataset_key=dataset_key,
            progress=progress,
        )
        table = _gathered(reducer, parts, list(proposer.class_names))
        known = table if known is None else replace(known, features=table.features)
    if len(known) == 0:
        msg = (
            f"{_name(proposer)} found no object in any of {len(dataset)} images: lower its floor score, or see whether "
            "its classes and the images belong together."
        )
        raise CoresetError(msg)
    return known


def propose_images(
    dataset: Any,
    proposer: ObjectProposer,
    *,
    known: Objects | None = None,
    encoder: ObjectEncoder | None = None,
    reducer: Reducer | None = None,
    device: torch.device | str | None = None,
    num_workers: int = 0,
    batch_size: int = 8,
    cache: Any = None,
    dataset_key: str | None = None,
    progress: Callable[[int, str], AbstractContextManager[Any]] | None = None,
) -> list[Proposals]:
    """This rank's part of the pass: `Proposals` of its images, with masks where the proposer has them.

    Args are those of `propose_objects`; ``known`` are objects that need an encoder only.
    """
    reducer = reducer or SerialReducer()
    positions = torch.tensor(index_range(len(dataset), reducer.rank, reducer.world_size), dtype=torch.int64)
    with together(reducer, "finding objects"), ExitStack() as stack:
        shards = None
        if cache is not None:
            shards = ProposalCache(cache, proposals_key(dataset, proposer, encoder, known, dataset_key))
        found = {} if shards is None else shards.read(positions)
        missing = [place for place in positions.tolist() if place not in found]
        if missing:
            # Reading may draw random numbers.
            stack.enter_context(random_state_kept())
            stack.enter_context(torch.no_grad())
            for model in (proposer, encoder):
                module = getattr(model, "module", None)
                stack.enter_context(module_ready(module() if callable(module) else None, torch.device(device or "cpu")))
            bar = None if progress is None else stack.enter_context(progress(len(missing), "Finding objects"))
            work = _work(proposer, encoder, known)
            for places, parts in _shards_of(_looked_at(dataset, missing, work, batch_size, num_workers, bar)):
                found |= dict(zip(places, parts, strict=True))
                if shards is not None:
                    _store(shards, places, parts)
        return [found[place] for place in positions.tolist()]


def proposals_key(
    dataset: Any,
    proposer: ObjectProposer,
    encoder: ObjectEncoder | None = None,
    known: Objects | None = None,
    dataset_key: str | None = None,
) -> str:
    """What proposals depend on; no threshold is among it."""
    boxes = None if known is None else [tensor_key(known.image), tensor_key(known.boxes)]
    return stable_key(
        FORMAT_VERSION,
        dataset_key or dataset_fingerprint(dataset, None),
        proposer.fingerprint(),
        None if encoder is None else encoder.fingerprint(),
        boxes,
    )


def _work(proposer: ObjectProposer, encoder: ObjectEncoder | None, known: Objects | None) -> _Work:
    """From positions and images to proposals."""

    def look(places: list[int], images: list[Tensor]) -> list[Proposals]:
        if known is None:
            parts = proposer.propose(images)
            _check(parts, images, proposer)
        else:
            parts = [_known_part(known, place, image) for place, image in zip(places, images, strict=True)]
        bare = [place for place, part in enumerate(parts) if part.features is None and len(part)]
        if encoder is None or not bare:
            return list(parts)
        rows = encoder.encode([images[place] for place in bare], [parts[place].boxes for place in bare])
        embedded = dict(zip(bare, rows, strict=True))
        return [replace(part, features=embedded.get(place, part.features)) for place, part in enumerate(parts)]

    return look


def _known_part(known: Objects, place: int, image: Tensor) -> Proposals:
    rows = slice(*torch.searchsorted(known.image, torch.tensor([place, place + 1])).tolist())
    boxes = known.boxes[rows]
    height, width = size_of(image)
    if len(boxes) and bool((boxes > boxes.new_tensor([width, height, width, height]) + 0.5).any()):
        msg = (
            f"Boxes of image {place} reach beyond its {width} x {height} pixels: they belong to another image, or to "
            "another size of it."
        )
        raise CoresetError(msg)
    return Proposals(boxes, known.labels[rows], torch.ones(len(boxes)), size=(height, width))


def _check(parts: Sequence[Any], images: Sequence[Tensor], proposer: ObjectProposer) -> None:
    if len(parts) != len(images):
        msg = (
            f"{_name(proposer)} returned proposals of {len(parts)} images and was given {len(images)}: return one "
            "Proposals for each image, empty where it shows nothing."
        )
        raise CoresetError(msg)
    classes = len(proposer.class_names)
    for part in parts:
        if not isinstance(part, Proposals):
            msg = f"{_name(proposer)} returned a {type(part).__name__} for an image: return Proposals."
            raise CoresetError(msg)
        beyond = part.labels[(part.labels < 0) | (part.labels >= classes)]
        if len(beyond):
            msg = (
                f"{_name(proposer)} proposed class {int(beyond[0])} and names {classes} classes; 0 to {classes - 1} "
                "are accepted: map its labels."
            )
            raise CoresetError(msg)


class _Raw(Dataset[Any]):
    """Positions and raw images of some items."""

    def __init__(self, dataset: Any, positions: Sequence[int]) -> None:
        self._images = RawImages(dataset)
        self._positions = positions

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, place: int) -> tuple[int, Tensor]:
        position = self._positions[place]
        return position, as_tensor(self._images[position]).as_subclass(Tensor)


def _looked_at(
    dataset: Any, positions: Sequence[int], work: _Work, batch_size: int, num_workers: int, bar: Any
) -> Iterator[tuple[int, Proposals]]:
    loader = DataLoader(
        _Raw(dataset, positions),
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=list,
        # Its own, so that starting workers does not draw from the global one.
        generator=torch.Generator().manual_seed(0),
    )
    for batch in loader:
        places, images = [place for place, _ in batch], [image for _, image in batch]
        # As they will be stored, so that a cold and a warm cache give the same.
        yield from zip(places, unpacked(packed(work(places, images))), strict=True)
        if bar is not None:
            bar.update(len(places))


def _shards_of(images: Iterator[tuple[int, Proposals]]) -> Iterator[tuple[list[int], list[Proposals]]]:
    waiting: list[tuple[int, Proposals]] = []
    for image in images:
        waiting.append(image)
        if len(waiting) == _SHARD_IMAGES:
            yield [place for place, _ in waiting], [part for _, part in waiting]
            waiting = []
    if waiting:
        yield [place for place, _ in waiting], [part for _, part in waiting]


def _store(shards: ProposalCache, places: Sequence[int], parts: Sequence[Proposals]) -> None:
    try:
        shards.write(torch.tensor(places), parts)
    except OSError as error:
        warnings.warn(
            f"Proposals are used but could not be written to {shards.folder} ({error}): free some space or give "
            "another cache_dir, or images are looked at again next time.",
            stacklevel=3,
        )


def _gathered(reducer: Reducer, parts: Sequence[Proposals], class_names: list[str]) -> Objects:
    """The parts of all ranks as one table; masks do not travel."""
    columns = packed([replace(part, masks=None) for part in parts])
    if reducer.world_size > 1:
        width = max(gather_json(reducer, columns["features"].shape[1]))
        if len(columns["features"]) == 0:
            columns["features"] = columns["features"].new_empty(0, width)
        names = ("counts", "sizes", "boxes", "labels", "scores", "features")
        columns |= {name: torch.cat(reducer.gather(columns[name])) for name in names}
    counts = columns["counts"]
    features = columns["features"]
    return Objects(
        image=torch.repeat_interleave(torch.arange(len(counts)), counts),
        boxes=columns["boxes"],
        labels=columns["labels"],
        num_images=len(counts),
        scores=columns["scores"],
        features=features if features.shape[1] else None,
        image_sizes=columns["sizes"],
        class_names=class_names,
    )


def _name(proposer: Any) -> str:
    return type(proposer).__name__
