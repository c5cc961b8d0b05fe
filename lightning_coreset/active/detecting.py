"""What the user's detector says of unlabelled images: one pass, shared out over the ranks."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_coreset.active.detections import Detections, object_quality
from lightning_coreset.data.views import EvaluationView, random_state_kept, target_of
from lightning_coreset.detection import Objects
from lightning_coreset.distributed import index_range, together
from lightning_coreset.errors import CoresetError
from lightning_coreset.ops.reducer import Reducer

#: From the module and a list of items to what it says of their images, numbered in their order.
Detect = Callable[[Any, list[Any]], Detections]


def detect_all(
    module: nn.Module,
    detect: Detect,
    dataset: Any,
    positions: Tensor,
    *,
    transform: Callable[..., Any] | None = None,
    device: torch.device | None = None,
    batch_size: int = 8,
    reducer: Reducer,
) -> Detections:
    """Boxes of some images on every rank, each rank looking at its part of them.

    Args:
        module: The detector; in evaluation mode meanwhile, and then as it was.
        detect: Called with the module and a list of items.
        dataset: A map-style dataset.
        positions: The images ``[n]``.
        transform: Image transform; None leaves the dataset's own.
        device: Where the module runs; None is where it is.
        batch_size: Items at once.
        reducer: The ranks.

    Returns:
        Their boxes, images numbered in the order of ``positions``, the same on every rank.

    Raises:
        CoresetError: ``detect`` gave something else, or of another number of images; or another rank failed.
    """
    with together(reducer, "detecting"):
        looks = _looks(module, detect, dataset, positions, transform, device, batch_size, reducer)
        parts = [_moved(found, start) for start, _, found in looks]
    return _joined(parts, len(positions), reducer)


def class_difficulty(
    module: nn.Module,
    detect: Detect,
    dataset: Any,
    *,
    transform: Callable[..., Any] | None = None,
    device: torch.device | None = None,
    batch_size: int = 8,
    reducer: Reducer,
) -> Tensor | None:
    """How hard each class is for a detector: one minus the mean `object_quality` of its objects ``[C]``.

    1 for a class without objects: nothing is known of it. Crowds are left out.

    Args:
        module: The detector, as in `detect_all`.
        detect: As in `detect_all`.
        dataset: Labelled items; image and target are those of one read.
        transform: As in `detect_all`.
        device: As in `detect_all`.
        batch_size: Items at once.
        reducer: The ranks.

    Returns:
        The same on every rank; None where ``detect`` gives no corners, or nothing is labelled.

    Raises:
        CoresetError: Targets with a class that ``detect`` does not know; or another rank failed.
    """
    rows, shape = [torch.zeros(0, 2, dtype=torch.float64)], torch.zeros(1, 2, dtype=torch.int64)
    with together(reducer, "looking at labelled images"):
        everything = torch.arange(len(dataset))
        for _, items, found in _looks(module, detect, dataset, everything, transform, device, batch_size, reducer):
            if found.boxes is not None:
                truth = _in_columns(Objects.from_targets([target_of(item) for item in items]), found)
                rows.append(torch.stack([truth.labels.to(torch.float64), object_quality(found, truth)], dim=1))
                shape = torch.tensor([[1, found.probabilities.shape[1]]]).maximum(shape)
    told, classes = torch.stack(reducer.gather(shape)).amax(dim=0)[0].tolist()
    labels, quality = torch.cat(reducer.gather(torch.cat(rows))).unbind(1)
    if not told:
        return None
    total, count = (
        torch.zeros(classes, dtype=torch.float64).index_add(0, labels.long(), values)
        for values in (quality, torch.ones_like(quality))
    )
    return 1 - total / count.clamp(min=1)


def _looks(
    module: nn.Module,
    detect: Detect,
    dataset: Any,
    positions: Tensor,
    transform: Callable[..., Any] | None,
    device: torch.device | None,
    batch_size: int,
    reducer: Reducer,
) -> Iterator[tuple[int, list[Any], Detections]]:
    """This rank's part of some images: place of the first, items and boxes of each batch."""
    own = index_range(len(positions), reducer.rank, reducer.world_size)
    with random_state_kept(), torch.no_grad():
        view = EvaluationView(dataset, transform)
        modes = [(part, part.training) for part in module.modules()]
        home = next((tensor.device for tensor in [*module.parameters(), *module.buffers()]), torch.device("cpu"))
        module.to(device or home).eval()
        try:
            for start in range(own.start, own.stop, batch_size):
                places = range(start, min(start + batch_size, own.stop))
                items = [view[int(positions[place])] for place in places]
                found = detect(module, items)
                if not isinstance(found, Detections) or found.num_images != len(places):
                    came = f"{found.num_images} images" if isinstance(found, Detections) else type(found).__name__
                    msg = f"detect= gave {came} for {len(places)} items: return Detections of these, in their order."
                    raise CoresetError(msg)
                yield start, items, _on_cpu(found)
        finally:
            module.to(home)
            for part, training in modes:
                part.training = training


def _on_cpu(found: Detections) -> Detections:
    features, boxes = (None if column is None else column.float().cpu() for column in (found.features, found.boxes))
    columns = found.image.cpu(), found.probabilities.float().cpu(), features, found.num_images, boxes
    return Detections(*columns, found.class_ids)


def _in_columns(truth: Objects, found: Detections) -> Objects:
    """Objects to learn from, their labels as columns of the probabilities."""
    truth = truth if truth.crowd is None else truth.where(~truth.crowd)
    ids = torch.arange(found.probabilities.shape[1]) if found.class_ids is None else torch.tensor(found.class_ids)
    same = truth.labels[:, None] == ids
    foreign = truth.labels[~same.any(dim=1)].unique().tolist()
    if foreign:
        msg = (
            f"Labelled images show classes {foreign[:10]} and detect= knows {ids.tolist()[:10]}: give Detections "
            "class_ids=, what targets call the class of each column."
        )
        raise CoresetError(msg)
    return replace(truth, labels=same.int().argmax(dim=1), class_names=None)


def _moved(found: Detections, start: int) -> Detections:
    return replace(found, image=found.image + start, num_images=start + found.num_images, boxes=None, class_ids=None)


def _joined(parts: list[Detections], images: int, reducer: Reducer) -> Detections:
    # A rank without images does not know how wide the columns are that it shares with others.
    own = [
        max((part.probabilities.shape[1] for part in parts), default=0),
        max((0 if part.features is None else part.features.shape[1] for part in parts), default=0),
    ]
    classes, width = torch.stack(reducer.gather(torch.tensor([own]))).amax(dim=0)[0].tolist()
    image = torch.cat([torch.zeros(0, dtype=torch.int64), *(part.image for part in parts)])
    probabilities = torch.cat([torch.zeros(0, classes), *(part.probabilities for part in parts if len(part.image))])
    features = torch.cat(
        [torch.zeros(0, width), *(part.features for part in parts if len(part.image) and part.features is not None)]
    )
    columns = [torch.cat(reducer.gather(column)) for column in (image, probabilities, features)]
    return Detections(columns[0], columns[1], columns[2] if width else None, images)
