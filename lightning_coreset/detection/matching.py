"""Which proposals are right: greedy matching with annotations, best score first."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_iou

from lightning_coreset.detection.class_names import with_classes
from lightning_coreset.detection.objects import Objects


@dataclass(frozen=True)
class Matches:
    """How the proposals of a reference set fared, those on crowds left out.

    Attributes:
        scores: Of each proposal that counts ``[P]``, descending; ties in the order of rows.
        hits: Whether it found an annotated object ``[P]``.
        labels: Its class ``[P]``.
        objects: Annotated objects of each class ``[C]``, crowds not counted.
        class_names: Names of the ``C`` classes that both sides know; None where neither has names.
    """

    scores: Tensor
    hits: Tensor
    labels: Tensor
    objects: Tensor
    class_names: list[str] | None

    def of_class(self, label: int) -> "Matches":
        """The part of one class."""
        here = self.labels == label
        objects = torch.zeros_like(self.objects)
        objects[label] = self.objects[label]
        return Matches(self.scores[here], self.hits[here], self.labels[here], objects, self.class_names)


def match(proposals: Objects, truth: Objects, *, overlap: float = 0.5) -> Matches:
    """Match the proposals of each image with its annotations, class by class.

    In descending score each proposal takes the object of its class, not yet taken, with which it overlaps most, if that
    is at least ``overlap``. One that finds none but lies on a crowd (by its own area) is left out. Classes are those
    that both sides know, by name where there are names: of others nobody can say what is right.

    Args:
        proposals: With scores.
        truth: The annotated objects of the same images.
        overlap: Least intersection over union of a hit.

    Returns:
        Matches; time for each image and class in the product of its proposals and objects.

    Raises:
        ValueError: Other images, no scores, or no class in common.

    Example:
        >>> truth = Objects([0], [[0, 0, 4, 4]], [0], num_images=1)
        >>> found = Objects([0, 0], [[0, 0, 4, 3], [0, 0, 4, 4]], [0, 0], num_images=1, scores=[0.5, 0.9])
        >>> match(found, truth).hits.tolist()
        [True, False]
    """
    proposals, truth = shared_classes(proposals, truth)
    assert proposals.scores is not None
    classes = max(proposals.num_classes, truth.num_classes)
    crowd = torch.zeros(len(truth), dtype=torch.bool) if truth.crowd is None else truth.crowd
    cells = proposals.image * classes + proposals.labels
    # By image and class, the best score first.
    order = torch.argsort(proposals.scores, descending=True, stable=True)
    order = order[torch.argsort(cells[order], stable=True)]
    cells, counts = torch.unique_consecutive(cells[order], return_counts=True)
    true_cells = truth.image * classes + truth.labels
    true_order = torch.argsort(true_cells, stable=True)
    lower = torch.searchsorted(true_cells[true_order], cells)
    upper = torch.searchsorted(true_cells[true_order], cells, right=True)
    hits = torch.zeros(len(proposals), dtype=torch.bool)
    ignored = torch.zeros(len(proposals), dtype=torch.bool)
    for rows, start, stop in zip(order.split(counts.tolist()), lower.tolist(), upper.tolist(), strict=True):
        if start == stop:
            continue
        there = true_order[start:stop]
        hits[rows], ignored[rows] = _greedy(proposals.boxes[rows], truth.boxes[there], crowd[there], overlap)
    kept = torch.nonzero(~ignored).flatten()
    kept = kept[torch.argsort(proposals.scores[kept], descending=True, stable=True)]
    objects = torch.bincount(truth.labels[~crowd], minlength=classes)
    names = None if proposals.class_names is None else list(proposals.class_names)
    return Matches(proposals.scores[kept], hits[kept], proposals.labels[kept], objects, names)


def _greedy(boxes: Tensor, objects: Tensor, crowd: Tensor, overlap: float) -> tuple[Tensor, Tensor]:
    """Which of some proposals, best first, hit an object, and which are to be left out ``[K]``."""
    shared = box_iou(boxes, objects[~crowd])
    hits = torch.zeros(len(boxes), dtype=torch.bool)
    if shared.shape[1]:
        for row in range(len(boxes)):
            best = int(shared[row].argmax())
            if shared[row, best] >= overlap:
                hits[row] = True
                # Taken.
                shared[:, best] = -1
    on_crowd = _share_inside(boxes, objects[crowd]) >= overlap if bool(crowd.any()) else torch.zeros_like(hits)
    return hits, on_crowd & ~hits


def _share_inside(boxes: Tensor, crowds: Tensor) -> Tensor:
    """Largest share of each box that lies in one crowd ``[K]``."""
    low = torch.maximum(boxes[:, None, :2], crowds[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], crowds[None, :, 2:])
    inside = (high - low).clamp(min=0).prod(dim=2)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    return (inside / areas.clamp(min=1e-9)[:, None]).amax(dim=1)


def shared_classes(proposals: Objects, truth: Objects) -> tuple[Objects, Objects]:
    """Proposals and annotations with the classes that both know, numbered alike.

    Raises:
        ValueError: Other images, no scores, or no class in common.
    """
    if proposals.num_images != truth.num_images:
        msg = (
            f"proposals are of {proposals.num_images} images and annotations of {truth.num_images}: give both of the "
            "same images in the same order."
        )
        raise ValueError(msg)
    if proposals.scores is None:
        msg = "proposals have no scores, so no threshold can be found: give those of a detector, not annotations."
        raise ValueError(msg)
    if proposals.class_names is None or truth.class_names is None:
        return proposals, truth
    shared = [name for name in proposals.class_names if name in truth.class_names]
    if not shared:
        msg = (
            f"proposals know {', '.join(proposals.class_names[:5])} and annotations "
            f"{', '.join(truth.class_names[:5])}, which is no class in common: map names to each other."
        )
        raise ValueError(msg)
    return with_classes(proposals, shared), with_classes(truth, shared)
