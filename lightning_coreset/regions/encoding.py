"""The model's answers to regions: in chunks, counted, checked."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_coreset.ops.rows import accumulator_dtype, normalize_rows
from lightning_coreset.regions.views import Scenes

_ACCEPTED = "logits [n, classes], (embedding, logits), or [n, classes, h, w] in segmentation, are accepted"


@dataclass(frozen=True)
class Encoded:
    """What the model said of regions.

    Attributes:
        embeddings: Unit rows ``[n, d]``; logits take their place where the model gives none.
        logits: ``[n, classes]`` or ``[n, classes, h, w]``, as the model gave them.
        rows: Embeddings as they came ``[n, d]``, for fusion of features; None where the model gives none.
    """

    embeddings: Tensor
    logits: Tensor
    rows: Tensor | None

    @property
    def segments(self) -> bool:
        """Whether each pixel has logits."""
        return self.logits.ndim == 4


class Encoder:
    """Calls the model on regions and counts.

    Args:
        forward: Crops ``[n, C, h, w]`` to logits or (embedding, logits).
        scenes: Where crops come from.
        input_size: Height and width of a crop.
        chunk: Most crops in a call.

    Attributes:
        calls: Calls of the model so far.
    """

    def __init__(
        self, forward: Callable[[Tensor], Any], scenes: Scenes, input_size: tuple[int, int], chunk: int
    ) -> None:
        self.forward = forward
        self.scenes = scenes
        self.input_size = input_size
        self.chunk = chunk
        self.calls = 0

    def __call__(
        self, images: Tensor, boxes: Tensor, change: Callable[[Tensor, slice], Tensor] | None = None
    ) -> Encoded:
        """Encode regions.

        Args:
            images: Scene of each ``[n]``.
            boxes: ``[n, 4]``.
            change: Gets a chunk of crops and which of the regions they are.

        Raises:
            ValueError: What the model gives is no logits, or not finite.
        """
        parts = []
        for start in range(0, len(images), self.chunk):
            part = slice(start, start + self.chunk)
            crops = self.scenes.crops(images[part], boxes[part], self.input_size)
            if change is not None:
                crops = change(crops, part)
            parts.append(parse(self.forward(crops), len(crops)))
            self.calls += 1
        rows = None if parts[0][0] is None else torch.cat([part[0] for part in parts])  # type: ignore[misc]
        logits = torch.cat([part[1] for part in parts])
        return Encoded(unit_rows(rows, logits), logits, rows)


def unit_rows(rows: Tensor | None, logits: Tensor) -> Tensor:
    """Unit embeddings ``[n, d]``, of the logits (averaged over pixels) where there are none."""
    if rows is None:
        rows = logits.flatten(2).mean(dim=2) if logits.ndim == 4 else logits
        # Classes that a model forbids have no finite place among embeddings.
        rows = rows.float().nan_to_num(neginf=torch.finfo(torch.float32).min / 1e6)
    return normalize_rows(rows.flatten(1)).to(accumulator_dtype(rows.device))


def parse(output: Any, rows: int) -> tuple[Tensor | None, Tensor]:
    """Embedding and logits of an output.

    Raises:
        ValueError: Anything but logits of as many rows, or NaN among them.
    """
    embedding, logits = None, output
    if isinstance(output, tuple | list) and len(output) == 2:
        embedding, logits = output
    elif isinstance(output, Mapping):
        logits = output.get("logits", output)
    elif not isinstance(output, Tensor) and hasattr(output, "logits"):
        logits = output.logits
    if not isinstance(logits, Tensor):
        keys = f" with keys {list(logits)}" if isinstance(logits, Mapping) else ""
        msg = f"The model gave a {type(logits).__name__}{keys}: {_ACCEPTED}; wrap it in a function that returns them."
        raise ValueError(msg)
    if logits.ndim not in (2, 4) or len(logits) != rows or not logits.is_floating_point() or not logits.shape[1]:
        msg = f"The model gave {logits.dtype} {list(logits.shape)} for {rows} crops, no logits: {_ACCEPTED}."
        raise ValueError(msg)
    if embedding is not None and (not isinstance(embedding, Tensor) or len(embedding) != rows):
        came = list(embedding.shape) if isinstance(embedding, Tensor) else type(embedding).__name__
        msg = f"The model's embedding is {came} for {rows} crops: one row for each is accepted."
        raise ValueError(msg)
    # Minus infinity is a class that cannot be; anything else that is not finite is a failure.
    broken = torch.isnan(logits) | (logits == torch.inf)
    if bool(broken.any()):
        row = int(broken.flatten(1).any(dim=1).nonzero()[0])
        msg = (
            f"The model's logits are NaN or infinite, first in crop {row} of {rows}: check the images' scale, and "
            "precision (bf16 overflows less than float16)."
        )
        raise ValueError(msg)
    return embedding, logits
