"""Any function that finds objects, as a proposer."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_coreset.data.fingerprint import callable_key, module_key, stable_key
from lightning_coreset.detection.proposals import Proposals, clipped, no_proposals, size_of
from lightning_coreset.detection.targets import objects_from_targets


class CallableProposer:
    """A function from images to detections.

    Args:
        function: Called with a list of images ``[C, H, W]``, as tensors of the dataset's own type; gives for each a
            `Proposals`, or a dict with ``boxes``, ``labels``, ``scores`` and perhaps ``features``.
        class_names: Names of the classes that its labels number from 0.
        key: What the function depends on, for the cache; None takes its code or, of a module, its weights.

    Example:
        >>> def whole(images):
        ...     return [{"boxes": [[0, 0, 4, 4]], "labels": [0], "scores": [0.9]} for _ in images]
        >>> CallableProposer(whole, ["thing"]).propose([torch.zeros(3, 4, 4)])[0].boxes.tolist()
        [[0.0, 0.0, 4.0, 4.0]]
    """

    def __init__(
        self,
        function: Callable[[Sequence[Tensor]], Sequence[Any]],
        class_names: Sequence[str],
        *,
        key: str | None = None,
    ) -> None:
        self.class_names = list(class_names)
        self._function = function
        self._key = key

    def fingerprint(self) -> str:
        """The key that was given, else one of the function."""
        if self._key is not None:
            return stable_key("callable", self._key, self.class_names)
        known = module_key(self._function) if isinstance(self._function, nn.Module) else callable_key(self._function)
        return stable_key("callable", known, self.class_names)

    def module(self) -> nn.Module | None:
        """The function where it is a network."""
        return self._function if isinstance(self._function, nn.Module) else None

    def propose(self, images: Sequence[Tensor]) -> list[Proposals]:
        """What the function finds; boxes are cut at the borders of their image."""
        found = self._function(images)
        if len(found) != len(images):
            # The pass says so, for every kind of proposer.
            return list(found)
        return [as_proposals(one, size_of(image)) for one, image in zip(found, images, strict=True)]


def as_proposals(found: Any, size: tuple[int, int]) -> Proposals:
    """Detections in the form of torchvision as proposals; those without area inside the image are dropped.

    Args:
        found: A `Proposals`, or a dict with ``boxes``, ``labels``, ``scores`` and perhaps ``features``.
        size: Height and width of the image.
    """
    if isinstance(found, Proposals):
        return found
    if len(found["boxes"]) == 0:
        return no_proposals(size)
    # Checked as targets are: tensors, lists and boxes of any format.
    parsed = objects_from_targets([{"boxes": found["boxes"], "labels": found["labels"]}])
    boxes, kept = clipped(parsed.boxes, size)
    features = found.get("features")
    scores = torch.as_tensor(found["scores"]).detach().cpu()[kept]
    features = None if features is None else torch.as_tensor(features).detach().cpu()[kept]
    return Proposals(boxes[kept], parsed.labels[kept], scores, features, size)
