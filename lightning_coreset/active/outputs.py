"""What the user's module says of unlabelled items: one pass over a view, leaving no trace in module and trainer."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_coreset.errors import CoresetError
from lightning_coreset.features import FeatureExtractor, extract_features
from lightning_coreset.ops.reducer import Reducer
from lightning_coreset.selectors.rows import embed_everything
from lightning_coreset.signals.recorder import logits_of

#: From logits ``[B, C, ...]`` and the input of the last layer ``[B, h]`` (or None) to one row an image.
Reduce = Callable[[Tensor, Tensor | None], Tensor]


class ModelOutputs(FeatureExtractor):
    """Rows that are made of a module's outputs, batch by batch.

    Logits are what ``forward`` gives for a batch of images: a tensor, an entry ``logits`` or ``out``, or the first of
    a tuple. Features are the input of the last linear layer whose output they are.

    Args:
        network: The user's module.
        reduce: From logits and features to rows ``[B, d]``.
        view: Image transform; None leaves the dataset's own.
        head: Name of the layer whose input are the features; None finds it.
        batch_size: Rows of every forward pass.
        forward: Called with the module and a batch of images instead of the module.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> outputs = ModelOutputs(network, lambda logits, features: features)
        >>> outputs.extract(torch.ones(2, 1, 2, 2)).shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        network: nn.Module,
        reduce: Reduce,
        *,
        view: Callable[..., Any] | None = None,
        head: str | None = None,
        batch_size: int = 64,
        forward: Callable[[Any, Tensor], Any] | None = None,
    ) -> None:
        self.network = network
        self.reduce = reduce
        self.view = view
        self.head = head
        self.batch_size = batch_size
        self.forward = forward
        known = dict(network.named_modules())
        if head is not None and (head not in known or not head):
            names = [name for name, part in known.items() if isinstance(part, nn.Linear)][-4:]
            msg = (
                f"head={head!r} is no submodule of {type(network).__name__}; a name from named_modules() is accepted"
                f"{f', for example {names}' if names else ''}: give the last layer, whose input are the features."
            )
            raise ValueError(msg)

    @property
    def key(self) -> str:
        """Never kept: the module is going to learn."""
        return f"outputs of {type(self.network).__name__}"

    def module(self) -> nn.Module:
        """The user's module."""
        return self.network

    def transform(self, normalize: bool = True) -> Callable[..., Any] | None:
        """The evaluation transform; None leaves the dataset's own."""
        return self.view

    def extract(self, inputs: Tensor) -> Tensor:
        """Rows of a batch of images."""
        passed: list[tuple[Any, Any]] = []
        listened = [
            part.register_forward_hook(lambda _, given, output: passed.append((given, output)))
            for name, part in self.network.named_modules()
            if (isinstance(part, nn.Linear) if self.head is None else name == self.head)
        ]
        try:
            output = self.network(inputs) if self.forward is None else self.forward(self.network, inputs)
        finally:
            for handle in listened:
                handle.remove()
        logits = output.get("out") if isinstance(output, dict) and "logits" not in output else logits_of(output)
        if not isinstance(logits, Tensor) or logits.ndim < 2 or len(logits) != len(inputs):
            came = f"shape {list(logits.shape)}" if isinstance(logits, Tensor) else type(output).__name__
            msg = (
                f"{type(self.network).__name__}.forward gave {came} for {len(inputs)} images; logits [B, C] or "
                "[B, C, H, W] are accepted (a tensor, an entry 'logits' or 'out', or the first of a tuple): give "
                "forward=, a function of module and images that returns them."
            )
            raise CoresetError(msg)
        return self.reduce(logits.float(), self._features(passed, logits))

    def _features(self, passed: list[tuple[Any, Any]], logits: Tensor) -> Tensor | None:
        for given, output in reversed(passed):
            fits = self.head is not None or (isinstance(output, Tensor) and output.shape == logits.shape)
            if fits and given and isinstance(given[0], Tensor) and len(given[0]) == len(logits):
                return given[0].float().flatten(1)
        return None


def needed(features: Tensor | None) -> Tensor:
    """Features, where a query cannot do without.

    Raises:
        CoresetError: No linear layer gave the logits.
    """
    if features is None:
        msg = (
            "This query looks at the input of the last layer, and no linear layer of the module gave its logits: give "
            "head=, the name of the layer whose input are the features."
        )
        raise CoresetError(msg)
    return features


def look_at(
    dataset: Any,
    positions: Tensor,
    outputs: ModelOutputs,
    *,
    trainer: Any = None,
    source: Any = None,
    num_workers: int = 0,
    reducer: Reducer,
) -> Tensor:
    """Rows of some items on every rank, each rank making its part of them.

    Args:
        dataset: A map-style dataset.
        positions: The items ``[n]``.
        outputs: What makes rows.
        trainer: Gives device, precision and batch transfer.
        source: The datamodule behind the dataset.
        num_workers: Processes that read items.
        reducer: The ranks.

    Returns:
        ``[n, d]``, in the order of the positions, the same on every rank.
    """
    if isinstance(outputs.network, LightningModule) and trainer is not None and trainer.lightning_module is None:
        trainer = None
    return embed_everything(
        len(positions),
        lambda part: extract_features(
            dataset, outputs, positions[part], trainer=trainer, source=source, num_workers=num_workers
        ),
        reducer,
    )


def both(logits: Tensor, features: Tensor | None) -> Tensor:
    """Logits and features side by side, and how many of each."""
    rows = needed(features)
    return torch.cat([torch.full((len(logits), 1), float(logits.shape[1]), device=rows.device), logits, rows], dim=1)


def apart(rows: Tensor) -> tuple[Tensor, Tensor]:
    """What `both` joined."""
    classes = int(rows[0, 0])
    return rows[:, 1 : 1 + classes], rows[:, 1 + classes :]
