"""Adapter: how a model is asked, whatever its kind."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Adapter:
    """What `refine` needs of a model.

    Attributes:
        forward: Crops ``[n, C, h, w]`` to logits, (embedding, logits), or logits of each pixel.
        features: Scenes ``[B, C, H, W]`` to a map ``[B, d, h, w]``; with ``head``, or None.
        head: Rows ``[n, d]`` to logits: pooled from the map, or fused embeddings.
        input_size: Height and width of the input.
        cost: Calls of the underlying model for each crop.
        module: Put into evaluation mode meanwhile, and back.
        fidelity: How far windows of the map say what crops say (`map_fidelity`); ``engine="auto"`` searches no map
            below 0.7. None where nobody asked: such a map is trusted.

    Example:
        >>> Adapter(lambda crops: crops.mean((2, 3)), input_size=(32, 32)).cost
        1
    """

    forward: Callable[[Tensor], Any]
    features: Callable[[Tensor], Tensor] | None = None
    head: Callable[[Tensor], Tensor] | None = None
    input_size: tuple[int, int] | None = None
    cost: int = 1
    module: nn.Module | None = None
    fidelity: float | None = None

    def __call__(self, crops: Tensor) -> Any:
        """What the model says of crops."""
        return self.forward(crops)

    def replace(self, **changes: Any) -> "Adapter":
        """The same with other values."""
        return replace(self, **changes)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """A module in evaluation mode; afterwards each of its parts is in its own mode again."""
    training = [part for part in module.modules() if part.training]
    if training:
        module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
