"""Annotations in the place of proposals: for labelled pools and simulations."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lightning_coreset.data.fingerprint import stable_key, tensor_key
from lightning_coreset.detection.class_names import ClassNames, names_in_order
from lightning_coreset.detection.objects import Objects
from lightning_coreset.detection.proposals import Proposals
from lightning_coreset.detection.reading import read_objects
from lightning_coreset.errors import CoresetError


class GroundTruthProposer:
    """The objects that people annotated, without scores; crowd and difficult ones are marked.

    Images are never looked at here; an encoder may do so for the embeddings.

    Args:
        targets: Targets of the pool's images in any form, a callable that gets the dataset, or None to read them from
            the dataset.
        class_names: Names of the classes, or names by category id.

    Raises:
        CoresetError: On use, where the dataset does not tell its objects.

    Example:
        >>> proposer = GroundTruthProposer([{"boxes": [[0, 0, 4, 2]], "labels": [0]}], class_names=["cat"])
        >>> proposer.known_objects(range(1)).boxes.tolist()
        [[0.0, 0.0, 4.0, 2.0]]
    """

    def __init__(self, targets: Any = None, class_names: ClassNames = None) -> None:
        self._targets = targets
        self._names = class_names
        self._objects: Objects | None = None
        self._dataset: Any = None

    @property
    def class_names(self) -> Sequence[str]:
        """Names of the classes, known once a dataset was read or where they were given."""
        named = None if self._objects is None else self._objects.class_names
        if named is not None:
            return named
        if self._objects is not None:
            return [str(label) for label in range(self._objects.num_classes)]
        return [] if self._names is None else names_in_order(self._names)

    def known_objects(self, dataset: Any) -> Objects:
        """The annotated objects of a dataset.

        Raises:
            CoresetError: The dataset does not tell its objects.
        """
        if self._objects is None or self._dataset is not dataset:
            found = read_objects(dataset, self._targets, class_names=self._names, decode=True)
            if found is None:
                msg = (
                    f"No boxes were found in {type(dataset).__name__}; CocoDetection, VOCDetection, targets with boxes "
                    "and labels, and masks are understood: give GroundTruthProposer(targets) or another proposer."
                )
                raise CoresetError(msg)
            self._objects, self._dataset = found, dataset
        return self._objects

    def fingerprint(self) -> str:
        """A key of the annotations."""
        if self._objects is None:
            return stable_key("ground truth", repr(self._names))
        columns = (self._objects.image, self._objects.boxes, self._objects.labels)
        return stable_key("ground truth", *(tensor_key(column) for column in columns), list(self.class_names))

    def propose(self, images: Sequence[Tensor]) -> list[Proposals]:
        """Annotations belong to a dataset; an image alone does not tell them.

        Raises:
            CoresetError: Always.
        """
        msg = "GroundTruthProposer knows datasets, not single images: use propose_objects(dataset, proposer)."
        raise CoresetError(msg)
