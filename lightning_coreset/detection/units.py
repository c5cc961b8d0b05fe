"""What labelling an image costs, in boxes or masks: counted where annotations exist, else estimated from scores."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_coreset.detection.objects import Objects


@dataclass(frozen=True)
class UnitEstimate:
    """Annotation units of an image as ``per_image + per_score`` times the sum of its floor-score proposals' scores.

    Counts of proposals overshoot, because most proposals are wrong; the sum of their scores knows that.

    Args:
        per_image: Units of an image without proposals.
        per_score: Units for each point of score.

    Example:
        >>> found = Objects([1, 1], [[0, 0, 1, 1]] * 2, [0, 0], num_images=2, scores=[0.5, 0.25])
        >>> UnitEstimate(0.5, 2.0).of(found).tolist()
        [0.5, 2.0]
    """

    per_image: float
    per_score: float

    def of(self, objects: Objects) -> Tensor:
        """Estimated units of each image ``[N]``, float64, never negative.

        Args:
            objects: All floor-score proposals of the pool, no threshold applied.
        """
        return (self.per_image + self.per_score * score_sums(objects)).clamp(min=0)


def fit_units(proposals: Objects, truth: Objects, *, count_crowd: bool = True) -> UnitEstimate:
    """Fit units to sums of scores on a labelled set of the same domain, by least squares over its images.

    Args:
        proposals: Floor-score proposals.
        truth: Annotated objects of the same images.
        count_crowd: Whether boxes of crowds cost labelling too.

    Raises:
        ValueError: Other images.

    Example:
        >>> truth = Objects([0, 0, 1], [[0, 0, 1, 1]] * 3, [0, 0, 0], num_images=2)
        >>> found = Objects([0, 1], [[0, 0, 1, 1]] * 2, [0, 0], num_images=2, scores=[1.0, 0.5])
        >>> fit_units(found, truth)
        UnitEstimate(per_image=0.0, per_score=2.0)
    """
    if proposals.num_images != truth.num_images:
        msg = (
            f"proposals are of {proposals.num_images} images and annotations of {truth.num_images}: give both of the "
            "same images in the same order."
        )
        raise ValueError(msg)
    sums, units = score_sums(proposals), true_units(truth, count_crowd=count_crowd)
    spread = sums - sums.mean()
    power = float((spread * spread).sum())
    slope = float((spread * units).sum()) / power if power > 0 else 0.0
    return UnitEstimate(per_image=float(units.mean()) - slope * float(sums.mean()), per_score=slope)


def true_units(objects: Objects, *, count_crowd: bool = True) -> Tensor:
    """Annotated boxes of each image ``[N]``, float64.

    Example:
        >>> true_units(Objects([1], [[0, 0, 1, 1]], [0], num_images=2)).tolist()
        [0.0, 1.0]
    """
    image = objects.image if count_crowd or objects.crowd is None else objects.image[~objects.crowd]
    return torch.bincount(image, minlength=objects.num_images).to(torch.float64)


def score_sums(objects: Objects) -> Tensor:
    """Sum of the scores of each image's objects ``[N]``, float64; without scores each counts 1."""
    scores = torch.ones(len(objects)) if objects.scores is None else objects.scores
    sums = torch.zeros(objects.num_images, dtype=torch.float64)
    return sums.index_add_(0, objects.image, scores.to(torch.float64))
