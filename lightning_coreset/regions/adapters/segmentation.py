"""Segmenters: logits of each pixel, in whatever wrapping they come."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_coreset.regions.adapters.adapter import Adapter
from lightning_coreset.regions.views import as_size


def segmentation_adapter(
    segment: Callable[[Tensor], Any],
    *,
    input_size: int | Sequence[int] | None = None,
    key: str | None = None,
    binary: bool = False,
) -> Adapter:
    """A model that gives logits of each pixel.

    Args:
        segment: Crops ``[n, C, h, w]`` to ``[n, classes, h', w']``, or a mapping or object that holds them
            (torchvision's ``"out"``, transformers' ``logits``). A promptable segmenter enters as a callable that
            already knows its prompt.
        input_size: Of the model.
        key: Where the logits are in what comes.
        binary: One logit for each pixel, of belonging to the thing, ``[n, 1, h', w']``: made into two classes.

    Example:
        >>> adapter = segmentation_adapter(lambda crops: {"out": crops}, input_size=8)
        >>> adapter.forward(torch.zeros(1, 3, 8, 8)).shape
        torch.Size([1, 3, 8, 8])
    """

    def forward(crops: Tensor) -> Any:
        logits = _found(segment(crops), key)
        if not isinstance(logits, Tensor) or logits.ndim != 4:
            came = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            msg = f"The segmenter gave {came}: logits [n, classes, h, w] are accepted; name their place with key=."
            raise ValueError(msg)
        return torch.cat([torch.zeros_like(logits), logits], dim=1) if binary else logits

    module = segment if isinstance(segment, nn.Module) else None
    return Adapter(forward, input_size=None if input_size is None else as_size(input_size), module=module)


def _found(output: Any, key: str | None) -> Any:
    if isinstance(output, Mapping):
        return output.get(key if key is not None else "out", output.get("logits"))
    return getattr(output, key if key is not None else "logits", output)
