"""Models of transformers with their processors, from a folder or the hub, and errors of one line where they are not."""

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_coreset.data.fingerprint import module_key
from lightning_coreset.errors import CoresetError, WeightsUnavailableError
from lightning_coreset.features.extractor import scaled_tensor
from lightning_coreset.features.networks import ask_the_hub, three_channels

_WAYS_OUT = "give the folder of a model on this machine, another proposer, or a path to COCO results"


def load_pretrained(model_kind: str, processor_kind: str, source: Any) -> tuple[Any, Any]:
    """A model and its processor.

    Args:
        model_kind: Name of the model's class in transformers.
        processor_kind: Name of the processor's.
        source: A folder that holds both, a name on the hub, or the two themselves as a tuple.

    Raises:
        CoresetError: transformers is not installed.
        WeightsUnavailableError: The files are neither on this machine nor at a hub that answers.
    """
    if isinstance(source, tuple):
        model, processor = source
        return model.eval(), processor
    try:
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        msg = f"{model_kind} needs transformers, which is not installed: pip install 'lightning-coreset[vlm]'."
        raise CoresetError(msg) from error
    try:
        if not Path(str(source)).is_dir():
            ask_the_hub(str(source), ("config.json",))
        model = getattr(transformers, model_kind).from_pretrained(str(source)).eval()
        return model, getattr(transformers, processor_kind).from_pretrained(str(source))
    except (OSError, ValueError) as error:
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        msg = f"The model {str(source)!r} could not be loaded ({told}): {_WAYS_OUT}."
        raise WeightsUnavailableError(msg) from error


def source_key(source: Any) -> str:
    """What tells a source from others, without loading it."""
    return module_key(source[0]) if isinstance(source, tuple) else str(source)


def whole_numbers(image: Tensor) -> Tensor:
    """An image as processors of transformers take it: ``[3, H, W]``, 0 to 255."""
    image = three_channels(image)
    return image if image.dtype == torch.uint8 else (scaled_tensor(image) * 255).round().to(torch.uint8)


def corners_of(centered: Tensor, width: float, height: float) -> Tensor:
    """Boxes ``[K, 4]`` as corners in pixels, from centre and size in shares."""
    x, y, w, h = centered.float().cpu().unbind(1)
    corners = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], dim=1)
    return corners * torch.tensor([width, height, width, height])
