"""The objects of a train dataset as one selection sees them: labelled or proposed, with embeddings and true units."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch

from lightning_coreset.data import stable_key
from lightning_coreset.data.fingerprint import tensor_key
from lightning_coreset.data.views import random_state_kept
from lightning_coreset.detection import (
    GroundTruthProposer,
    ObjectEncoder,
    ObjectProposer,
    Objects,
    TorchvisionProposer,
    propose_objects,
    read_names,
    read_objects,
    resolve_proposer,
    true_units,
    with_classes,
)
from lightning_coreset.ops.reducer import Reducer
from lightning_coreset.selectors.base import Selector

_ENCODER = "fasterrcnn_resnet50_fpn"


class PoolObjects:
    """What the images of a train dataset show, by its annotations, a proposer, or both.

    Annotations count where there is no proposer, where the proposer is ``"ground_truth"``, and, for methods that choose
    among labelled objects, where the proposer can embed them. Otherwise the proposer's objects count, and annotations,
    where the dataset tells them, are the true units of each image.

    Args:
        dataset: The train dataset of ``N`` images.
        proposer: What finds objects; None leaves it to the annotations.
        selector: Whose selection it is.
        annotated: False where nobody has labelled the images yet, whatever the dataset tells: only
            ``proposer="ground_truth"`` looks then.

    Raises:
        ValueError: Neither a proposer nor annotations, or nothing that embeds what people annotated.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> from lightning_coreset import CSOD
        >>> images = TensorDataset(torch.zeros(1, 3, 8, 8))
        >>> images.targets = [{"boxes": [[0, 0, 4, 4]], "labels": [0]}]
        >>> len(PoolObjects(images, None, CSOD()).truth)
        1
    """

    def __init__(
        self, dataset: Any, proposer: ObjectProposer | str | None, selector: Selector, *, annotated: bool = True
    ) -> None:
        self._dataset = dataset
        self._proposer = None if proposer is None else resolve_proposer(proposer)
        asked = isinstance(self._proposer, GroundTruthProposer)
        with random_state_kept():
            #: What people annotated; None where the dataset does not tell it.
            self.truth: Objects | None = (
                self._proposer.known_objects(dataset)
                if isinstance(self._proposer, GroundTruthProposer)
                else read_objects(dataset, decode=self._proposer is None)
                if annotated
                else None
            )
        if self.truth is None and self._proposer is None:
            msg = (
                f"{selector.name!r} is to choose by what images show, and {type(dataset).__name__} tells no "
                "boxes: give proposer='torchvision/<name>', a path to COCO results, or an ObjectProposer."
            )
            raise ValueError(msg)
        self._by_truth = self.truth is not None and (
            asked
            or self._proposer is None
            or (getattr(selector, "labelled_objects", False) and isinstance(self._proposer, ObjectEncoder))
        )
        self._encoder = self._encoder_for(selector)

    @property
    def key(self) -> str:
        """What the objects depend on, known before they are found."""
        truth = [] if self.truth is None else [self.truth.image, self.truth.boxes, self.truth.labels]
        models = [None if model is None else model.fingerprint() for model in (self._proposer, self._encoder)]
        return stable_key(*models, self._by_truth, *map(tensor_key, truth))

    @property
    def told(self) -> dict[str, Any]:
        """For the manifest: what found the objects, what embedded them, and whether people had labelled them."""
        names = [None if model is None else type(model).__name__ for model in (self._proposer, self._encoder)]
        return {"proposer": names[0] or "annotations", "encoder": names[1], "labelled": self._by_truth}

    @property
    def ids(self) -> list[str] | None:
        """File names of the images where each has its own: what orders them, whichever place they have."""
        names = read_names(self._dataset)
        return names if names is not None and len(set(names)) == len(self._dataset) else None

    def find(
        self,
        *,
        reducer: Reducer,
        device: torch.device,
        num_workers: int,
        cache: str | None,
        dataset_key: str,
        progress: Callable[[int, str], AbstractContextManager[Any]],
    ) -> Objects:
        """The objects, found now or by an earlier pass; called on all ranks, each looks at its part of the images."""
        source = GroundTruthProposer(self.truth) if self._by_truth else self._proposer
        assert source is not None
        found = propose_objects(
            self._dataset,
            source,
            encoder=self._encoder,
            reducer=reducer,
            device=device,
            num_workers=num_workers,
            cache=cache,
            dataset_key=dataset_key,
            progress=progress,
        )
        if self.truth is None or self._by_truth:
            return found
        if _all_known(self.truth.class_names, found.class_names):
            assert self.truth.class_names is not None
            found = with_classes(found, self.truth.class_names)
        return replace(found, units=true_units(self.truth))

    def _encoder_for(self, selector: Selector) -> ObjectEncoder | None:
        if not self._by_truth or not getattr(selector, "embeds_objects", False):
            return None
        assert self.truth is not None
        if self.truth.features is not None:
            return None
        if self._proposer is None:
            return TorchvisionProposer(_ENCODER)
        if isinstance(self._proposer, ObjectEncoder):
            return self._proposer
        msg = (
            f"{selector.name!r} compares objects by their embeddings and annotations have none: give "
            "proposer='torchvision/<name>', whose pyramid embeds them, or a method such as 'class_balance'."
        )
        raise ValueError(msg)


def _all_known(names: Sequence[str] | None, known: Sequence[str] | None) -> bool:
    return names is not None and known is not None and set(names) <= set(known)
