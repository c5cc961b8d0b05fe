"""The feature pass: every wanted item through the extractor once, leaving no trace in the trainer."""

import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader, Dataset, default_collate

from lightning_coreset.data.cache import EmbeddingCache
from lightning_coreset.data.views import EvaluationView, as_tensor, image_of, random_state_kept, with_image
from lightning_coreset.errors import CoresetError
from lightning_coreset.features.extractor import FeatureExtractor

_SHARD_ROWS = 2_048
_TRANSFER_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


def extract_features(
    dataset: Any,
    extractor: FeatureExtractor,
    positions: Tensor,
    *,
    transform: Callable[..., Any] | None = None,
    trainer: Any = None,
    source: LightningDataModule | None = None,
    device: torch.device | None = None,
    num_workers: int = 0,
    cache: EmbeddingCache | None = None,
    progress: Callable[[int, str], AbstractContextManager[Any]] | None = None,
) -> Tensor:
    """Embed some items of a dataset.

    Items are read through an evaluation view, collated with their index (never with the user's collation, where
    mixing augmentations live) and sent through the trainer's batch transfer and precision. Every forward pass has
    ``extractor.batch_size`` rows, the last one filled up, so that an embedding does not depend on where a pass was
    interrupted or on the number of ranks. On CUDA reading, transfer and forward overlap: batches lie in pinned memory,
    convolutions see the channels of a pixel together, and rows come back while the next batch is computed.

    Args:
        dataset: A map-style dataset.
        extractor: What embeds.
        positions: Items to embed ``[n]``.
        transform: Image transform, instead of the extractor's own.
        trainer: Gives device, precision and batch transfer.
        source: The datamodule behind the dataset; where it overrides a batch-transfer hook, its normalisation counts.
        device: Where to embed without a trainer; None is the CPU.
        num_workers: Processes that read items.
        cache: Items in it are not embedded again; others are added in shards of 2,048.
        progress: Called as ``progress(total, description)``, gives a context manager around a bar.

    Returns:
        Embeddings in the order of ``positions`` ``[n, d]``, float32 on the CPU. One read and one forward pass an
        item; O(n d) memory.

    Raises:
        CoresetError: Items that cannot be batched, or an embedding that is not finite.
        WeightsUnavailableError: The extractor's weights cannot be had.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> from lightning_coreset.features import PixelsExtractor
        >>> extract_features(TensorDataset(torch.ones(5, 1, 2, 2)), PixelsExtractor(), torch.tensor([0, 3])).shape
        torch.Size([2, 4])
    """
    if len(positions) == 0:
        return torch.empty(0, 0)
    rows, found = (None, torch.zeros(len(positions), dtype=torch.bool)) if cache is None else cache.read(positions)
    missing = torch.nonzero(~found).flatten()
    if len(missing):
        normalize = not transfer_hooks(source)
        view = EvaluationView(dataset, transform or extractor.transform(normalize))
        if transform is not None:
            _warn_if_random(view, int(positions[missing[0]]))
        sized = extractor.resizes and transform is None and view.replaced
        blocks = _embed(
            view, extractor, positions[missing], trainer, source, device, num_workers, cache, progress, sized
        )
        # Closed at once where something fails: the trainer's stage must not wait for the garbage collector.
        with closing(blocks):
            for start, block in blocks:
                if rows is None:
                    rows = torch.empty(len(positions), block.shape[1])
                elif block.shape[1] != rows.shape[1]:
                    msg = (
                        f"The cache holds rows of width {rows.shape[1]}, {extractor.key} gives {block.shape[1]}: give "
                        "another cache_dir."
                    )
                    raise CoresetError(msg)
                rows[missing[start : start + len(block)]] = block
    assert rows is not None
    return rows


def transfer_hooks(source: LightningDataModule | None) -> list[str]:
    """The batch-transfer hooks that a source overrides, each with its class: embeddings depend on them."""
    kind = type(source)
    return [f"{kind.__module__}.{kind.__qualname__}.{hook}" for hook in _TRANSFER_HOOKS if _overrides(source, hook)]


def _embed(
    view: EvaluationView,
    extractor: FeatureExtractor,
    positions: Tensor,
    trainer: Any,
    source: LightningDataModule | None,
    device: torch.device | None,
    num_workers: int,
    cache: EmbeddingCache | None,
    progress: Callable[[int, str], AbstractContextManager[Any]] | None,
    sized: bool,
) -> Generator[tuple[int, Tensor], None, None]:
    """Blocks of embeddings, each stored before it is given out: ``(start, [b, d])``."""
    device = device or torch.device("cpu") if trainer is None else trainer.strategy.root_device
    shard: list[Tensor] = []
    done = 0
    with ExitStack() as stack:
        # Reading may draw random numbers, and ranks whose states differ train on overlapping shards.
        stack.enter_context(random_state_kept())
        stack.enter_context(_predicting(trainer))
        stack.enter_context(module_ready(extractor.module(), device))
        stack.enter_context(torch.no_grad())
        bar = None if progress is None else stack.enter_context(progress(len(positions), "Embedding"))
        loader = _loader(view, positions, extractor.batch_size, num_workers, device)
        under_way = _forward(loader, extractor, device, trainer, source, sized)
        for indices, rows in _late(under_way, _batches_late(device)):
            _check_finite(rows, indices, extractor)
            shard.append(rows)
            if bar is not None:
                bar.update(len(indices))
            waiting = sum(map(len, shard))
            if waiting >= _SHARD_ROWS or done + waiting == len(positions):
                block = torch.cat(shard)
                if cache is not None:
                    _store(cache, positions[done : done + waiting], block)
                yield done, block
                done += waiting
                shard = []


def _forward(
    loader: "DataLoader[Any]",
    extractor: FeatureExtractor,
    device: torch.device,
    trainer: Any,
    source: LightningDataModule | None,
    sized: bool,
) -> Iterator[tuple[list[int], "_RowsOnTheirWay"]]:
    """Embeddings of each batch with its indices, on their way to the host."""
    for indices, batch in loader:
        size = image_of(batch).shape[-2:]
        inputs = extractor.inputs(_to_device(batch, device, trainer, source))
        if sized and inputs.ndim == 4 and inputs.shape[-2:] != size:
            inputs = nn.functional.interpolate(inputs, size, mode="bilinear", antialias=True)
        with trainer.precision_plugin.forward_context() if trainer is not None else ExitStack():
            output = extractor.extract(_filled_up(inputs, extractor.batch_size))
        _check_shape(inputs, output, len(indices), extractor)
        yield indices, _RowsOnTheirWay(output[: len(indices)].float())


class _RowsOnTheirWay:
    """A copy of rows on the host; on CUDA nothing waits for it before it is asked for."""

    def __init__(self, rows: Tensor) -> None:
        on_cuda = rows.device.type == "cuda"
        # Into pinned memory, which torch takes for such copies; elsewhere only a copy that blocks is safe to read.
        self._rows = rows.to("cpu", non_blocking=on_cuda)
        self._copied = torch.cuda.current_stream(rows.device).record_event() if on_cuda else None

    def arrived(self) -> Tensor:
        """The rows, complete ``[b, d]``."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._rows


def _late(batches: Iterator[tuple[list[int], _RowsOnTheirWay]], behind: int) -> Iterator[tuple[list[int], Tensor]]:
    """The same batches in the same order, each asked for when ``behind`` more are under way."""
    waiting: deque[tuple[list[int], _RowsOnTheirWay]] = deque()
    for batch in batches:
        waiting.append(batch)
        if len(waiting) > behind:
            indices, rows = waiting.popleft()
            yield indices, rows.arrived()
    for indices, rows in waiting:
        yield indices, rows.arrived()


def _batches_late(device: torch.device) -> int:
    """With one more batch queued a GPU never waits for the host; a CPU would only wait longer for its errors."""
    return 1 if device.type == "cuda" else 0


class _Indexed(Dataset[Any]):
    def __init__(self, view: EvaluationView, positions: Tensor) -> None:
        self.view = view
        self.positions = positions.tolist()

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, place: int) -> Any:
        index = self.positions[place]
        return index, self.view[index]


def _loader(
    view: EvaluationView, positions: Tensor, batch_size: int, num_workers: int, device: torch.device
) -> "DataLoader[Any]":
    return DataLoader(
        _Indexed(view, positions),
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=_collate,
        # Lightning's transfer does not block from pinned memory.
        pin_memory=device.type == "cuda",
        # Its own, so that starting workers does not draw from the global one.
        generator=torch.Generator().manual_seed(0),
    )


def _collate(items: list[tuple[int, Any]]) -> tuple[list[int], Any]:
    """Items of one form as a batch of that form: images stacked, the rest as far as it can be."""
    indices = [index for index, _ in items]
    images = [as_tensor(image_of(item)) for _, item in items]
    shapes = {tuple(image.shape) for image in images}
    if len(shapes) > 1:
        msg = (
            f"Images of different sizes ({', '.join(map(str, sorted(shapes)[:3]))}) cannot be embedded together: "
            "give a "
            "features_transform that resizes them."
        )
        raise CoresetError(msg)
    first = items[0][1]
    stacked = torch.stack(images)
    if isinstance(first, dict):
        batch: Any = {key: _collated([item[key] for _, item in items]) for key in first}
    elif isinstance(first, list | tuple):
        batch = [_collated([item[place] for _, item in items]) for place in range(len(first))]
    else:
        return indices, stacked
    batch = _exchange(batch, first, stacked)
    # As torch collates: tuples become lists, named tuples keep their names for the source's hooks.
    return indices, type(first)(*batch) if hasattr(first, "_fields") else batch


def _exchange(batch: Any, item: Any, stacked: Tensor) -> Any:
    """The batch with the stacked images where the item has its image."""
    marker = torch.empty(0)
    marked = with_image(item, marker)
    places = marked.items() if isinstance(marked, dict) else enumerate(marked)
    place = next(key for key, value in places if value is marker)
    batch[place] = stacked
    return batch


def _collated(values: list[Any]) -> Any:
    try:
        return default_collate(values)
    except (TypeError, RuntimeError):
        # Boxes, strings and other things of different sizes stay a list: only images are needed here.
        return values


def _to_device(batch: Any, device: torch.device, trainer: Any, source: LightningDataModule | None) -> Any:
    if trainer is not None:
        # Lightning's loops call this hook themselves, and the strategy the two others.
        owner = source if _overrides(source, "on_before_batch_transfer") else trainer.lightning_module
        batch = batch if owner is None else owner.on_before_batch_transfer(batch, 0)
        return trainer.strategy.batch_to_device(batch, device, 0)
    for hook in ("on_before_batch_transfer", "on_after_batch_transfer"):
        if _overrides(source, hook):
            batch = getattr(source, hook)(batch, 0)
    return move_data_to_device(batch, device)


def _filled_up(inputs: Tensor, size: int) -> Tensor:
    if len(inputs) >= size:
        return inputs
    return torch.cat([inputs, inputs[-1:].expand(size - len(inputs), *inputs.shape[1:])])


def _check_shape(inputs: Tensor, output: Tensor, count: int, extractor: FeatureExtractor) -> None:
    if len(inputs) != count:
        msg = (
            f"A batch of {count} items became {len(inputs)} images; one image per item is accepted: leave the batch's "
            "size alone in batch-transfer hooks, or give a FeatureExtractor whose inputs() finds one image per item."
        )
        raise CoresetError(msg)
    if output.ndim != 2 or len(output) != max(count, extractor.batch_size):
        msg = (
            f"{extractor.key} gave {list(output.shape)} for {max(count, extractor.batch_size)} images; one row per "
            "image is accepted, [B, d]."
        )
        raise CoresetError(msg)


def _check_finite(rows: Tensor, indices: list[int], extractor: FeatureExtractor) -> None:
    finite = torch.isfinite(rows).all(dim=1)
    if not bool(finite.all()):
        item = indices[int(torch.nonzero(~finite)[0])]
        msg = (
            f"The embedding of item {item} by {extractor.key} holds NaN or infinite values: look at that image, or "
            "embed in a higher precision."
        )
        raise CoresetError(msg)


def _store(cache: EmbeddingCache, positions: Tensor, rows: Tensor) -> None:
    try:
        cache.write(positions, rows)
    except OSError as error:
        warnings.warn(
            f"Embeddings are used but could not be written to {cache.folder} ({error}): free some space or give "
            "another cache_dir, or they are made again next time.",
            stacklevel=2,
        )


def _overrides(source: LightningDataModule | None, hook: str) -> bool:
    return source is not None and is_overridden(hook, source, parent=LightningDataModule)


def _warn_if_random(view: EvaluationView, index: int) -> None:
    with random_state_kept():
        first, second = (as_tensor(image_of(view[index])) for _ in range(2))
    if first.shape != second.shape or not torch.equal(first, second):
        warnings.warn(
            "Two reads of one item through features_transform differ, so embeddings are of augmented images: give a "
            "transform without randomness.",
            stacklevel=4,
        )


@contextmanager
def _predicting(trainer: Any) -> Iterator[None]:
    """Hooks of datamodules that augment by ``trainer.training`` must see another stage meanwhile."""
    if trainer is None:
        yield
        return
    stage = trainer.state.stage
    trainer.predicting = True
    try:
        yield
    finally:
        trainer.state.stage = stage


@contextmanager
def module_ready(module: nn.Module | None, device: torch.device) -> Iterator[None]:
    """A module on the device and in evaluation mode, then back where and as it was, submodule by submodule."""
    if module is None:
        yield
        return
    modes = [(part, part.training) for part in module.modules()]
    home = next((tensor.device for tensor in [*module.parameters(), *module.buffers()]), device)
    module.to(device).eval()
    kernels = _kernels_in_rows(module) if device.type == "cuda" else {}
    for kernel, rows in kernels.items():
        kernel.data = rows.contiguous(memory_format=torch.channels_last)
    try:
        yield
    finally:
        for kernel, rows in kernels.items():
            kernel.data = rows
        module.to(home)
        for part, training in modes:
            part.training = training


def _kernels_in_rows(module: nn.Module) -> dict[nn.Parameter, Tensor]:
    """Kernels of 2-d convolutions that tensor cores would read faster with the channels of a pixel together."""
    weights = [part.weight for part in module.modules() if isinstance(part, nn.Conv2d)]
    return {
        weight: weight.data
        for weight in weights
        if isinstance(weight, nn.Parameter) and not is_lazy(weight) and weight.is_contiguous()
    }
