"""Queries for detection: how little a detector knows of an image's boxes, and images whose boxes are not alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torchvision.ops import box_iou

from lightning_coreset.active.badge import plus_plus_draws
from lightning_coreset.detection import Objects
from lightning_coreset.ops.random import seeded_generator

_BLOCK_BOXES = 2_048


@dataclass(frozen=True, eq=False)
class Detections:
    """What a detector said of some images: one flat table of boxes.

    Attributes:
        image: Which image each box is of ``[M]``, 0 to ``num_images - 1``.
        probabilities: Class probabilities of each box ``[M, C]``, without the background.
        features: Of each box ``[M, D]``; None where only its classes are looked at.
        num_images: How many images, those without a box included.
        boxes: Corners x1, y1, x2, y2 of each box ``[M, 4]``, in the same pixels as those of targets; with them the
            query ``"ppal"`` sees how hard each class is.
        class_ids: What targets call each class ``[C]``; None counts from 0 (torchvision's detectors count from 1).

    Raises:
        ValueError: Columns that do not fit together.
    """

    image: Tensor
    probabilities: Tensor
    features: Tensor | None
    num_images: int
    boxes: Tensor | None = None
    class_ids: Sequence[int] | None = None

    def __post_init__(self) -> None:
        boxes = len(self.image)
        lengths = [len(self.probabilities), boxes if self.features is None else len(self.features)]
        if self.boxes is not None and self.boxes.shape != (boxes, 4):
            msg = f"Detections hold {boxes} boxes with corners {list(self.boxes.shape)}: give x1, y1, x2, y2, [M, 4]."
            raise ValueError(msg)
        if self.class_ids is not None and (boxes and len(self.class_ids) != self.probabilities.shape[-1]):
            msg = (
                f"class_ids names {len(self.class_ids)} classes and probabilities have "
                f"{self.probabilities.shape[-1]} columns: give what targets call the class of each column."
            )
            raise ValueError(msg)
        inside = boxes == 0 or (int(self.image.min()) >= 0 and int(self.image.max()) < self.num_images)
        if self.probabilities.ndim != 2 or lengths != [boxes, boxes] or not inside:
            msg = (
                f"Detections of {self.num_images} images hold {boxes} image numbers, probabilities "
                f"{list(self.probabilities.shape)} and {lengths[1]} features: give one row a box, [M, C] and [M, D], "
                "and images 0 to num_images - 1."
            )
            raise ValueError(msg)

    @property
    def classes(self) -> Tensor:
        """The likeliest class of each box ``[M]``."""
        return self.probabilities.argmax(dim=1) if len(self.image) else self.image

    @property
    def scores(self) -> Tensor:
        """Its probability ``[M]``."""
        return self.probabilities.amax(dim=1) if len(self.image) else self.probabilities.new_zeros(0)


def box_entropy(probabilities: Tensor, *, independent: bool = True) -> Tensor:
    """Entropy of each box ``[M]``.

    Args:
        probabilities: ``[M, C]``.
        independent: Each class by itself, ``-sum_c p log p + (1 - p) log(1 - p)``, as detectors with sigmoids say it;
            else one distribution, what is missing from 1 being the background.

    Example:
        >>> box_entropy(torch.tensor([[0.5], [1.0]])).tolist()
        [0.6931471805599453, 0.0]
    """
    shares = probabilities.to(torch.float64)
    if independent:
        rest = 1 - shares
        both: Tensor = torch.special.xlogy(shares, shares) + torch.special.xlogy(rest, rest)
        return 0 - both.sum(dim=1)
    background = (1 - shares.sum(dim=1, keepdim=True)).clamp_(min=0)
    whole = torch.cat([shares, background], dim=1)
    entropy: Tensor = -torch.special.xlogy(whole, whole).sum(dim=1)
    return entropy


def detection_uncertainty(
    found: Detections,
    reduce: Literal["sum", "max"] = "sum",
    *,
    class_weights: Tensor | None = None,
    independent: bool = True,
) -> Tensor:
    """Sum or maximum over an image's boxes of their entropy ``[num_images]``; 0 for an image without boxes.

    Args:
        found: What the detector said.
        reduce: ``"sum"`` or ``"max"``.
        class_weights: Weight of boxes by their likeliest class ``[C]``; see `difficulty_weights`.
        independent: See `box_entropy`.

    Raises:
        ValueError: Another word.
    """
    if reduce not in ("sum", "max"):
        msg = f"reduce={reduce!r} is not accepted: give 'sum' or 'max'."
        raise ValueError(msg)
    values = box_entropy(found.probabilities, independent=independent)
    if class_weights is not None:
        values = values * class_weights.to(values)[found.classes]
    totals = values.new_zeros(found.num_images)
    kind = "sum" if reduce == "sum" else "amax"
    return totals.scatter_reduce(0, found.image, values, kind, include_self=True)


def difficulty_weights(difficulty: Tensor, *, alpha: float = 0.3, beta: float = 0.2) -> Tensor:
    """PPAL's weights of classes: ``1 + alpha beta log(1 + (e^(1/alpha) - 1) d_c)``, from 1 for the easiest.

    Args:
        difficulty: How hard each class is ``[C]``, 0 to 1: one minus the mean `object_quality` of its objects.
        alpha: How soon weights grow.
        beta: How much.

    Example:
        >>> difficulty_weights(torch.tensor([0.0, 1.0])).round(decimals=3).tolist()
        [1.0, 1.2]
    """
    steep = torch.expm1(torch.tensor(1 / alpha, dtype=torch.float64))
    return 1 + alpha * beta * torch.log1p(steep * difficulty.to(torch.float64).clamp(0, 1))


def object_quality(found: Detections, truth: Objects) -> Tensor:
    """How well a detector sees each annotated object: the best ``p^0.6 IoU^0.4`` among its image's boxes ``[K]``.

    ``p`` is the probability of the object's class; 0 where the image has no box. Time in the product of an image's
    boxes and objects.

    Args:
        found: What the detector said, with corners.
        truth: The objects of the same images, labels being columns of ``found.probabilities``.

    Example:
        >>> truth = Objects([0, 1], [[0, 0, 2, 2]] * 2, [1, 0], num_images=2)
        >>> found = Detections(torch.tensor([0]), torch.tensor([[0.1, 0.5]]), None, 2, torch.tensor([[0, 0, 2, 2]]))
        >>> object_quality(found, truth).round(decimals=2).tolist()
        [0.66, 0.0]
    """
    assert found.boxes is not None
    best = torch.zeros(len(truth), dtype=torch.float64)
    for image in truth.image.unique().tolist():
        seen, there = (torch.nonzero(column == image).flatten() for column in (found.image, truth.image))
        if len(seen):
            overlap = box_iou(found.boxes[seen].to(torch.float64), truth.boxes[there].to(torch.float64))
            chances = found.probabilities[seen][:, truth.labels[there]].to(torch.float64)
            best[there] = (chances**0.6 * overlap**0.4).amax(dim=0)
    return best


def match_similarity(found: Detections, image: int) -> Tensor:
    """How well the boxes of one image are matched by those of each, class by class ``[num_images]``.

    For each box the best cosine among the other image's boxes of its class (at least 0), averaged with the
    boxes' scores; the mean of both directions. 0 where an image has no box. O(M m D) time for ``m`` boxes of the image.

    Args:
        found: What the detector said, with features.
        image: Which image.

    Example:
        >>> rows = torch.eye(2)[[0, 0, 1]]
        >>> found = Detections(torch.tensor([0, 1, 2]), torch.tensor([[0.9], [0.8], [0.7]]), rows, 4)
        >>> match_similarity(found, 0).tolist()
        [1.0, 1.0, 0.0, 0.0]
    """
    if found.features is None:
        msg = "Detections without features say nothing of how alike boxes are: give features, one row a box."
        raise ValueError(msg)
    rows = torch.nn.functional.normalize(found.features.to(torch.float64), dim=1)
    classes, scores = found.classes, found.scores.to(torch.float64)
    own = torch.nonzero(found.image == image).flatten()
    if not len(own):
        return torch.zeros(found.num_images, dtype=torch.float64)
    cosines = rows @ rows[own].T
    alike = cosines.masked_fill(classes[:, None] != classes[own][None], -torch.inf)
    # From each other image to this one: the best of this one's boxes for each of theirs.
    best = alike.amax(dim=1).clamp_(min=0)
    weights = torch.zeros(found.num_images, dtype=torch.float64).index_add(0, found.image, scores)
    there = torch.zeros(found.num_images, dtype=torch.float64).index_add(0, found.image, scores * best)
    there = there / weights.clamp(min=1e-12)
    # And back: the best of each other image's boxes for each of this one's.
    back = torch.full((found.num_images, len(own)), -torch.inf, dtype=torch.float64)
    back = back.scatter_reduce(0, found.image[:, None].expand(-1, len(own)), alike, "amax").clamp_(min=0)
    return (there + (back * scores[own]).sum(dim=1) / scores[own].sum().clamp(min=1e-12)) / 2


def ppal(
    found: Detections,
    count: int,
    *,
    seed: int = 0,
    multiple: float = 4.0,
    class_weights: Tensor | None = None,
    independent: bool = True,
) -> Tensor:
    """PPAL: the images of whose boxes a detector knows least, and among them those whose boxes are not alike.

    The ``multiple * count`` images with the largest weighted sum of box entropies are kept; k-means++ draws ``count``
    of them, with one minus `match_similarity` as distance, the most uncertain first.

    Args:
        found: What the detector said of the unlabelled images, with features.
        count: How many images.
        seed: Of the draws.
        multiple: How many times ``count`` are drawn from.
        class_weights: See `difficulty_weights`; None weighs all classes alike.
        independent: See `box_entropy`.

    Returns:
        Images in the order picked ``[count]``. O(count M m D) time for ``m`` boxes an image, O(M D) memory.

    Raises:
        ValueError: More images than there are.

    References:
        Yang et al. 2024 (plug and play active learning for object detection).
    """
    if not 1 <= count <= found.num_images or multiple < 1:
        msg = (
            f"{count} of {found.num_images} images with multiple={multiple} are not accepted: give 1 to "
            f"{found.num_images}, and a multiple of at least 1."
        )
        raise ValueError(msg)
    uncertainty = detection_uncertainty(found, "sum", class_weights=class_weights, independent=independent)
    order = torch.argsort(uncertainty, descending=True, stable=True)
    kept = order[: min(found.num_images, max(count, int(multiple * count)))].sort().values
    place = torch.full((found.num_images,), -1, dtype=torch.int64).index_copy(0, kept, torch.arange(len(kept)))
    of_kept = place[found.image] >= 0
    assert found.features is not None or len(found.image) == 0
    part = Detections(
        place[found.image][of_kept],
        found.probabilities[of_kept],
        None if found.features is None else found.features[of_kept],
        len(kept),
    )
    picks = plus_plus_draws(
        uncertainty[kept],
        lambda image: (1 - match_similarity(part, image)).clamp_(min=0).square(),
        count,
        seeded_generator(seed, "ppal"),
    )
    return kept[picks]
