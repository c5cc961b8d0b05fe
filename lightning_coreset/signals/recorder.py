"""What a network said of each item of an epoch, taken from its forward passes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_coreset.errors import CoresetError

# Rows wait on the device until this many numbers are there: one copy to the CPU, and one wait for it.
_PENDING_NUMBERS = 4_194_304


@dataclass(frozen=True, eq=False)
class EpochRecord:
    """Logits of the items that one rank trained on in one epoch, in the order they came.

    Attributes:
        positions: Which item ``[n]``, int64; an item may come twice.
        logits: ``[n, C]``, float32.
        feature_norms: ``||[h, 1]||`` of the last layer's input ``[n]``, or None.
        embeddings: The last layer's input ``[n, h]``, or None.
    """

    positions: Tensor
    logits: Tensor
    feature_norms: Tensor | None = None
    embeddings: Tensor | None = None


class Recorder:
    """Takes the logits of each batch from one module's forward pass.

    Where the module runs several times in a step, the first run counts whose rows are those of the batch. Nothing is
    recorded outside of `begin` and `end`, so that validation goes by unseen.

    Args:
        module: Name of the submodule whose output are the logits; None is the network itself. The input of a named one
            gives feature norms.
        embeddings: Keep that input.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> recorder = Recorder("1", embeddings=True)
        >>> recorder.attach(network)
        >>> recorder.begin(torch.tensor([8, 5]))
        >>> _ = network(torch.ones(2, 2, 2))
        >>> recorder.end()
        >>> record = recorder.finish()
        >>> record.positions.tolist(), list(record.logits.shape), record.feature_norms.square().tolist()
        ([8, 5], [2, 3], [5.0, 5.0])
    """

    def __init__(self, module: str | None = None, embeddings: bool = False) -> None:
        self._module = module
        self._embeddings = embeddings
        self._handle: Any = None
        self._positions: Tensor | None = None
        self._found: dict[str, Tensor] | None = None
        self._shapes: list[str] = []
        self.reset()

    def attach(self, network: nn.Module) -> None:
        """Listen to a network.

        Raises:
            ValueError: It has no submodule of that name.
        """
        self.detach()
        listened = network
        if self._module is not None:
            known = dict(network.named_modules())
            if self._module not in known or not self._module:
                names = [name for name, part in known.items() if isinstance(part, nn.Linear)][-4:]
                msg = (
                    f"module={self._module!r} is no submodule of {type(network).__name__}; a name from named_modules() "
                    f"is accepted{f', for example {names}' if names else ''}: give the one whose output are the logits."
                )
                raise ValueError(msg)
            listened = known[self._module]
        self._handle = listened.register_forward_hook(self._listen)

    def detach(self) -> None:
        """Listen no more."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def reset(self) -> None:
        """Forget the epoch so far."""
        self._pending: list[dict[str, Tensor]] = []
        self._numbers = 0
        self._parts: list[dict[str, Tensor]] = []
        self._positions = None

    def begin(self, positions: Tensor) -> None:
        """A batch of these items ``[b]`` is going to be trained on."""
        self._positions, self._found, self._shapes = positions, None, []

    def end(self) -> None:
        """The batch is done.

        Raises:
            CoresetError: No forward pass gave logits for its rows.
        """
        positions, found = self._positions, self._found
        self._positions = self._found = None
        assert positions is not None
        if found is None:
            raise CoresetError(self._missing(len(positions)))
        found["positions"] = positions
        self._pending.append(found)
        self._numbers += sum(value.numel() for value in found.values())
        if self._numbers > _PENDING_NUMBERS:
            self._collect()

    def finish(self) -> EpochRecord | None:
        """All of the epoch, None where nothing was trained on; then the next one begins."""
        self._collect()
        parts = self._parts
        self.reset()
        if not parts:
            return None
        return EpochRecord(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]})

    def _collect(self) -> None:
        if self._pending:
            joined = {name: torch.cat([rows[name] for rows in self._pending]) for name in self._pending[0]}
            self._parts.append({name: value.cpu() for name, value in joined.items()})
        self._pending, self._numbers = [], 0

    def _listen(self, _module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if self._positions is None or self._found is not None:
            return
        logits = logits_of(output)
        if logits is None or logits.ndim != 2 or len(logits) != len(self._positions) or logits.shape[1] < 2:
            self._shapes.append(type(output).__name__ if logits is None else str(list(logits.shape)))
            return
        # Copies, because a loss may change its input in place. Without gradients even inside torch's autograd.
        with torch.no_grad():
            self._found = {"logits": logits.detach().to(torch.float32, copy=True)}
            if self._module is None:
                return
            rows = _rows_of(inputs, len(logits))
            if rows is None:
                return
            self._found["feature_norms"] = (rows.square().sum(dim=1) + 1).sqrt()
            if self._embeddings:
                self._found["embeddings"] = rows

    def _missing(self, count: int) -> str:
        name = "forward" if self._module is None else f"module {self._module!r}"
        if not self._shapes:
            return (
                f"No output of {name} was seen in a training step; one with the logits [{count}, C] of the batch is "
                "accepted: give module= the name of the part that training_step calls for them."
            )
        return (
            f"{name} gave {', '.join(self._shapes[:3])} for a batch of {count} items; logits [{count}, C] are "
            "accepted, one row for each item of the batch in its order: give module= the name of the part whose "
            "output they are (a collation or step that adds or drops rows cannot be recorded)."
        )


def logits_of(output: Any) -> Tensor | None:
    """The logits in what a module returned: a tensor, an entry ``logits``, or the first of a tuple."""
    if isinstance(output, Mapping):
        output = output.get("logits")
    elif isinstance(output, tuple | list) and len(output):
        output = output[0]
    output = getattr(output, "logits", output)
    return output if isinstance(output, Tensor) and output.is_floating_point() else None


def _rows_of(inputs: tuple[Any, ...], count: int) -> Tensor | None:
    """The input of the last layer as rows ``[b, h]``, float32; None where it is another thing."""
    first = inputs[0] if inputs else None
    if not isinstance(first, Tensor) or len(first) != count or first.ndim < 2:
        return None
    return first.detach().flatten(1).to(torch.float32, copy=True)
