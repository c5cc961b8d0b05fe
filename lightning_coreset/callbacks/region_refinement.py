"""RegionRefinement: a frozen module sees wide scenes through a few regions while it is tested or predicts."""

import difflib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor, nn

from lightning_coreset.regions import Adapter, HCSConfig, Refinement, from_module
from lightning_coreset.regions.adapters.feature_map import known_input_size
from lightning_coreset.regions.config import Levels
from lightning_coreset.regions.refine import refine_with
from lightning_coreset.regions.views import as_size

_STAGES = ("validate", "test", "predict")
_LABELS = ("label", "labels", "target", "targets", "y")
_ATTACHED = ("logits_whole", "boxes", "weights", "area")


class RegionRefinement(Callback):
    """Refines, coarse to fine, where a frozen classifier, CLIP-like model or segmenter looks.

    While a stage runs, one callable of the module is replaced by one that gives images to `refine`; the module's own
    steps, metrics and predictions see refined logits in the form in which the callable gives its own (a tensor, a
    tuple of embedding and logits, a mapping with ``logits``). Afterwards, or after an exception, everything is as it
    was. Batches must hold images at **native resolution**, normalised as the model takes them; what is already resized
    to the model's input is left alone, with one warning. Scenes of different sizes need a batch each.

    Under DDP each rank refines its own batches; the answer does not depend on ranks. Precision is the trainer's.

    After each stage ``summary`` holds the means over its images of ``area``, ``forwards``, ``pixels``, ``calls``,
    ``gated``, and where batches show labels ``accuracy_whole`` and ``accuracy``; during ``test`` and ``validate`` they
    are logged as ``regions/<name>``. ``last`` is the newest `Refinement`.

    Args:
        config: The choices; None is the defaults.
        levels: In place of ``config.levels``.
        target: Name of what is replaced: ``"forward"``, another method, or a part of the module such as ``"net"`` or
            ``"net.head"``. A part that is a timm or torchvision classifier shows its feature map, and ``scan`` runs.
        stages: Of ``"validate"``, ``"test"`` and ``"predict"``.
        attach: Add ``regions/boxes``, ``regions/weights``, ``regions/area`` and ``regions/logits_whole`` to
            predictions that are dicts.
        input_size: Side of the model's input, or (height, width); None asks the module's ``example_input_array`` or
            its timm configuration.
        adapter: Callable that gets the target's own callable and its module and returns the `Adapter` to use; for
            example ``lambda call, module: from_module(module, call=call, probe=True)``.

    Raises:
        ValueError: Arguments that are not accepted; at the start of a stage an unknown target, or no input size.

    Example:
        >>> RegionRefinement(levels=((4, 6), (8, 8)), input_size=32).config.levels
        ((4, 6), (8, 8))
    """

    def __init__(
        self,
        config: HCSConfig | None = None,
        *,
        levels: Levels | None = None,
        target: str = "forward",
        stages: Sequence[str] = ("test", "predict"),
        attach: bool = False,
        input_size: int | Sequence[int] | None = None,
        adapter: Callable[[Callable[..., Any], nn.Module], Adapter] | None = None,
    ) -> None:
        config = HCSConfig() if config is None else config
        self.config = config if levels is None else replace(config, levels=levels)
        unknown = [stage for stage in stages if stage not in _STAGES]
        if unknown or isinstance(stages, str) or not stages:
            msg = f"stages={stages!r} is not accepted: give some of {', '.join(map(repr, _STAGES))}, as a tuple."
            raise ValueError(msg)
        if self.config.analysis:
            msg = "analysis=True is not accepted in a callback: its answers know the truth; call refine() instead."
            raise ValueError(msg)
        self.target = target
        self.stages = tuple(stages)
        self.attach = attach
        self.input_size = None if input_size is None else as_size(input_size)
        self.adapter = adapter
        self.last: Refinement | None = None
        self.summary: dict[str, float] = {}
        self._swap: _Swap | None = None
        self._of_batch: list[Refinement] = []
        self._sums: dict[str, float] = {}
        self._warned: set[str] = set()
        self._inside = False

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace the target. The sanity check and validation of a fit are stages of training, and left alone."""
        if not getattr(trainer, "sanity_checking", False) and trainer.state.fn != "fit":
            self._start("validate", pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace the target."""
        self._start("test", pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace the target."""
        self._start("predict", pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the target back."""
        self._end()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the target back."""
        self._end()

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the target back."""
        self._end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Put the target back."""
        self._end()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put the target back."""
        self._end()

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Forget the batch before."""
        self._of_batch.clear()

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Forget the batch before."""
        self._of_batch.clear()

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Forget the batch before."""
        self._of_batch.clear()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Log what the batch took."""
        self._log(pl_module, batch)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Log what the batch took."""
        self._log(pl_module, batch)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count what the batch took, and attach it."""
        self._note(batch)
        if self.attach and isinstance(outputs, dict) and self._of_batch:
            found = self._of_batch[-1]
            outputs.update({f"regions/{name}": getattr(found, name) for name in _ATTACHED})

    def _start(self, stage: str, pl_module: LightningModule) -> None:
        # Left from a stage that ended in a way that no hook tells of.
        self._end()
        if stage not in self.stages:
            return
        self.summary, self._sums, self._warned = {}, {}, set()
        self._of_batch.clear()
        place = _place_of(pl_module, self.target)
        size = self.input_size or known_input_size(place.module) or known_input_size(pl_module)
        if size is None and self.adapter is None:
            msg = (
                f"input_size is not known: {type(pl_module).__name__} has neither example_input_array nor a timm "
                "configuration; give RegionRefinement(input_size=...), the side of the model's input."
            )
            raise ValueError(msg)
        adapter = self._adapt(place, size)
        self._swap = _Swap(place, self._refining(place.call, adapter))

    def _adapt(self, place: "_Place", size: tuple[int, int] | None) -> Adapter:
        if self.adapter is not None:
            adapter = self.adapter(place.call, place.module)
        elif place.is_module:
            adapter = from_module(place.module, input_size=size, call=place.call)
        else:
            adapter = Adapter(place.call)
        # The trainer decides on modes.
        changes: dict[str, Any] = {"module": None}
        return adapter.replace(**(changes if adapter.input_size is not None else {**changes, "input_size": size}))

    def _end(self) -> None:
        if self._swap is not None:
            self._swap.undo()
            self._swap = None
        images = self._sums.pop("images", 0.0)
        if images:
            self.summary = {name: total / images for name, total in self._sums.items()}
            self._sums = {}
        self._inside = False

    def _refining(self, call: Callable[..., Any], adapter: Adapter) -> Callable[..., Any]:
        """What stands in the target's place."""

        def refined(images: Any, *args: Any, **kwargs: Any) -> Any:
            # The model's own calls of what was replaced, and what are no images, go by.
            if self._inside or not isinstance(images, Tensor) or images.ndim != 4:
                return call(images, *args, **kwargs)
            newest: list[Any] = []

            def forward(crops: Tensor) -> Any:
                output = call(crops, *args, **kwargs) if adapter.forward is call else adapter.forward(crops)
                newest[:] = [output]
                return output

            self._inside = True
            try:
                found = refine_with(images, adapter.replace(forward=forward), self.config, warn=self._warn)
            finally:
                self._inside = False
            self.last = found
            self._of_batch.append(found)
            if found.gated:
                return newest[0]
            # What reads a map alone never asks for an output.
            return _in_the_form_of(newest[0], found) if newest else found.logits

        refined.refines = True  # type: ignore[attr-defined]
        # Not imported for this alone: it takes seconds.
        return torch.compiler.disable(refined) if "torch._dynamo" in sys.modules else refined

    def _warn(self, message: str) -> None:
        """Warn once in a stage of each kind of thing."""
        kind = message.split()[0]
        if kind not in self._warned:
            self._warned.add(kind)
            rank_zero_warn(message, stacklevel=6)

    def _note(self, batch: Any) -> dict[str, float]:
        """What the batch took, added to the stage's sums."""
        if not self._of_batch:
            return {}
        images = sum(len(found.area) for found in self._of_batch)
        noted = {
            "area": sum(float(found.area.sum()) for found in self._of_batch) / images,
            "forwards": sum(found.n_forwards * len(found.area) for found in self._of_batch) / images,
            "pixels": sum(found.n_pixels * len(found.area) for found in self._of_batch) / images,
            "calls": float(sum(found.n_calls for found in self._of_batch)),
            "gated": sum(found.gated * len(found.area) for found in self._of_batch) / images,
        }
        labels = _labels_of(batch)
        found = self._of_batch[-1]
        if labels is not None and found.logits.ndim == 2 and labels.shape == found.logits.shape[:1]:
            noted["accuracy_whole"], noted["accuracy"] = found.accuracy(labels)
        for name, value in noted.items():
            self._sums[name] = self._sums.get(name, 0.0) + value * images
        self._sums["images"] = self._sums.get("images", 0.0) + images
        return noted

    def _log(self, pl_module: LightningModule, batch: Any) -> None:
        noted = self._note(batch)
        if noted:
            images = sum(len(found.area) for found in self._of_batch)
            values: Mapping[str, Any] = {f"regions/{name}": value for name, value in noted.items()}
            pl_module.log_dict(values, on_step=False, on_epoch=True, batch_size=images, sync_dist=True)


class _Place(NamedTuple):
    """Where a callable sits: an attribute of an object."""

    owner: Any
    name: str
    call: Callable[..., Any]
    module: nn.Module
    is_module: bool


def _place_of(pl_module: LightningModule, target: str) -> _Place:
    """The target's place; a part of the module is replaced by its forward.

    Raises:
        ValueError: There is no such callable.
    """
    owner: Any = pl_module
    *path, name = target.split(".")
    for step in path:
        owner = getattr(owner, step, None)
    found = getattr(owner, name, None) if owner is not None else None
    part = found if isinstance(found, nn.Module) else None
    found = found if part is None else part.forward
    if getattr(found, "refines", False):
        msg = f"target={target!r} is replaced by another RegionRefinement already: give each its own target."
        raise ValueError(msg)
    if not callable(found) or owner is None:
        parts = [part for part, _ in pl_module.named_modules() if part]
        close = difflib.get_close_matches(target, ["forward", *parts], n=3, cutoff=0.4)
        msg = (
            f"target={target!r} is no callable of {type(pl_module).__name__}: give 'forward', a method, or one of its "
            f"parts, such as {close or ['forward', *parts[:2]]}."
        )
        raise ValueError(msg)
    if part is not None:
        return _Place(part, "forward", found, part, True)
    return _Place(owner, name, found, owner if isinstance(owner, nn.Module) else pl_module, False)


class _Swap:
    """A callable replaced on its object, and how it is put back: to the bit, also where the object had none itself."""

    def __init__(self, place: _Place, replacement: Callable[..., Any]) -> None:
        # Not by setattr: modules and compiled modules have ideas of their own about attributes.
        self._owner, self._name = vars(place.owner), place.name
        self._had = self._name in self._owner
        self._before = self._owner.get(self._name)
        self._owner[self._name] = replacement

    def undo(self) -> None:
        """Put back what was there."""
        if self._had:
            self._owner[self._name] = self._before
        else:
            self._owner.pop(self._name, None)


def _in_the_form_of(output: Any, found: Refinement) -> Any:
    """Refined logits wrapped as the model wraps its own; what else it gives was of crops, and is left out."""
    if isinstance(output, Tensor):
        return found.logits
    if type(output) in (tuple, list):
        return type(output)((found.embedding, found.logits))
    return type(output)(logits=found.logits)


def _labels_of(batch: Any) -> Tensor | None:
    """Class numbers of a batch, where it shows any ``[B]``."""
    if isinstance(batch, Mapping):
        found = next((batch[name] for name in _LABELS if name in batch), None)
    else:
        found = batch[1] if isinstance(batch, tuple | list) and len(batch) > 1 else None
    whole = isinstance(found, Tensor) and found.ndim == 1 and not found.is_floating_point()
    return found if whole else None
