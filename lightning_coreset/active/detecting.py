"""What the user's detector says of unlabelled images: one pass, shared out over the ranks."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_coreset.active.detections import Detections
from lightning_coreset.data.views import EvaluationView, random_state_kept
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
    own = index_range(len(positions), reducer.rank, reducer.world_size)
    parts: list[Detections] = []
    with together(reducer, "detecting"), random_state_kept(), torch.no_grad():
        view = EvaluationView(dataset, transform)
        modes = [(part, part.training) for part in module.modules()]
        home = next((tensor.device for tensor in [*module.parameters(), *module.buffers()]), torch.device("cpu"))
        module.to(device or home).eval()
        try:
            for start in range(own.start, own.stop, batch_size):
                places = range(start, min(start + batch_size, own.stop))
                found = detect(module, [view[int(positions[place])] for place in places])
                if not isinstance(found, Detections) or found.num_images != len(places):
                    came = f"{found.num_images} images" if isinstance(found, Detections) else type(found).__name__
                    msg = f"detect= gave {came} for {len(places)} items: return Detections of these, in their order."
                    raise CoresetError(msg)
                parts.append(_moved(found, start))
        finally:
            module.to(home)
            for part, training in modes:
                part.training = training
    return _joined(parts, len(positions), reducer)


def _moved(found: Detections, start: int) -> Detections:
    features = None if found.features is None else found.features.float().cpu()
    return Detections(found.image.cpu() + start, found.probabilities.float().cpu(), features, start + found.num_images)


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
