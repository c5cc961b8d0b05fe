"""From scores to decisions: thresholds found on a labelled reference set, kept in a small file."""

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from lightning_coreset.detection.matching import Matches, match, shared_classes
from lightning_coreset.detection.objects import Objects
from lightning_coreset.detection.units import UnitEstimate, fit_units
from lightning_coreset.errors import CoresetError
from lightning_coreset.storage import read_bytes, write_atomic

RULES = ("precision", "f1")
#: Thresholds that keep fewer detections than this are too few to spoil a rule.
MIN_DETECTIONS = 20
#: Classes with fewer annotated objects get no threshold of their own.
MIN_OBJECTS = 50


@dataclass(frozen=True)
class Calibration:
    """Thresholds, how good proposals above them were on the reference set, and how units follow from scores.

    Attributes:
        threshold: Least score.
        rule: ``"precision"`` or ``"f1"``.
        reference: Name of the labelled set.
        precision: Share of the proposals above the threshold that are right.
        recall: Share of the annotated objects that they found.
        detections: Proposals above the threshold.
        objects: Annotated objects of the set.
        thresholds: Least score of single classes by name, where they have one of their own.
        proposer: Fingerprint of the proposer.
        units: Annotation units from floor-score proposals; None where it was not asked for.

    Example:
        >>> kept = Calibration(0.5, "f1", "a set").keep(
        ...     Objects([0, 0], [[0, 0, 1, 1]] * 2, [0, 0], num_images=1, scores=[0.4, 0.6]))
        >>> kept.scores.tolist() == [torch.tensor(0.6).item()]
        True
    """

    threshold: float
    rule: str
    reference: str
    precision: float = 0.0
    recall: float = 0.0
    detections: int = 0
    objects: int = 0
    thresholds: Mapping[str, float] = field(default_factory=dict)
    proposer: str | None = None
    units: UnitEstimate | None = None

    def keep(self, objects: Objects) -> Objects:
        """The objects that reach the threshold of their class; those that people annotated all do."""
        return objects.where(self.reached(objects))

    def reached(self, objects: Objects) -> Tensor:
        """Which objects reach the threshold of their class ``[M]``."""
        if objects.scores is None:
            return torch.ones(len(objects), dtype=torch.bool)
        least = torch.full((max(objects.num_classes, 1),), self.threshold)
        for label, name in enumerate(objects.class_names or ()):
            least[label] = self.thresholds.get(name, self.threshold)
        return objects.scores >= least[objects.labels]

    def save(self, path: Any) -> None:
        """Write a JSON file, atomically.

        Raises:
            OSError: The place cannot be written.
        """
        write_atomic(path, json.dumps({"format": 1, **asdict(self)}, indent=1).encode())

    @classmethod
    def load(cls, path: Any) -> "Calibration":
        """Read what `save` wrote.

        Raises:
            CoresetError: No such file, or a damaged or foreign one.
        """
        try:
            content = json.loads(read_bytes(path))
            units = content.pop("units")
            if content.pop("format") != 1:
                msg = "another format"
                raise ValueError(msg)
            return cls(units=None if units is None else UnitEstimate(**units), **content)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            msg = f"{path} is no calibration ({error}): calibrate again and save it."
            raise CoresetError(msg) from error


def calibrate(
    proposals: Objects,
    truth: Objects,
    rule: str = "precision",
    *,
    reference: str = "",
    per_class: bool = False,
    false_positives: float = 0.05,
    overlap: float = 0.5,
    proposer: str | None = None,
) -> Calibration:
    """Find thresholds on a labelled reference set with related classes.

    Args:
        proposals: Floor-score proposals of the set.
        truth: Its annotated objects.
        rule: ``"precision"``, for selection: the lowest threshold such that FP / (TP + FP) is at most
            ``false_positives`` there and at every stricter one that keeps 20 detections; where no threshold that
            keeps 20 does so, the one with the best precision, with a warning. ``"f1"``, for autolabels: the highest
            micro F1, ties to the higher threshold.
        reference: Name of the set, kept with the result.
        per_class: Give classes with 50 annotated objects or more a threshold of their own.
        false_positives: Share of wrong proposals that ``"precision"`` allows.
        overlap: Least intersection over union of a right proposal; see `match`.
        proposer: Fingerprint of the proposer, kept with the result.

    Returns:
        The calibration, with the units estimated from scores.

    Raises:
        ValueError: An unknown rule, sides that do not fit together, no proposal or no object to judge by.

    Example:
        >>> truth = Objects([0, 1], [[0, 0, 4, 4]] * 2, [0, 0], num_images=2)
        >>> found = Objects([0, 1, 1], [[0, 0, 4, 4], [0, 0, 4, 4], [5, 5, 9, 9]], [0] * 3, num_images=2,
        ...     scores=[0.875, 0.75, 0.5])
        >>> calibrate(found, truth, reference="two images").threshold
        0.75
    """
    if rule not in RULES:
        msg = f"rule={rule!r} is not accepted: give one of {', '.join(map(repr, RULES))}."
        raise ValueError(msg)
    matches = match(proposals, truth, overlap=overlap)
    if not len(matches.scores) or not int(matches.objects.sum()):
        msg = (
            f"{len(matches.scores)} proposals and {int(matches.objects.sum())} objects of the classes in common are "
            "nothing to calibrate by: give a reference set that shows them, or lower the floor score."
        )
        raise ValueError(msg)
    threshold = _threshold(matches, rule, false_positives, reference)
    thresholds: dict[str, float] = {}
    if per_class:
        for label, name in enumerate(matches.class_names or map(str, range(len(matches.objects)))):
            part = matches.of_class(label)
            if matches.objects[label] >= MIN_OBJECTS and len(part.scores):
                thresholds[name] = _threshold(part, rule, false_positives, f"{reference}, class {name}")
    names = matches.class_names or [str(label) for label in range(len(matches.objects))]
    least = torch.tensor([thresholds.get(name, threshold) for name in names])
    kept = matches.scores >= least[matches.labels]
    hits, total = int((matches.hits & kept).sum()), int(matches.objects.sum())
    return Calibration(
        threshold=threshold,
        rule=rule,
        reference=reference,
        precision=hits / max(int(kept.sum()), 1),
        recall=hits / total,
        detections=int(kept.sum()),
        objects=total,
        thresholds=thresholds,
        proposer=proposer,
        units=fit_units(*shared_classes(proposals, truth)),
    )


def curve(matches: Matches) -> tuple[Tensor, Tensor, Tensor]:
    """Each distinct threshold, descending, with the detections it keeps and the right ones among them ``[T]``."""
    thresholds, counts = torch.unique_consecutive(matches.scores, return_counts=True)
    kept = counts.cumsum(0)
    return thresholds, kept, matches.hits.to(torch.int64).cumsum(0)[kept - 1]


def _threshold(matches: Matches, rule: str, false_positives: float, name: str) -> float:
    thresholds, kept, right = curve(matches)
    if rule == "f1":
        # The first of equal ones is the highest threshold.
        score = 2 * right.double() / (kept + matches.objects.sum())
        return float(thresholds[int(torch.nonzero(score == score.max())[0])])
    wrong = (kept - right).double() / kept
    holds = wrong <= false_positives
    # Broken at a threshold that keeps enough, the rule is broken at all lower ones.
    enough = kept >= MIN_DETECTIONS
    broken = (~holds & enough).to(torch.int64).cumsum(0) > 0
    # A handful of lucky ones is no threshold where there are more to judge by.
    counted = enough if bool(enough.any()) else torch.ones_like(enough)
    possible = torch.nonzero(holds & ~broken & counted).flatten()
    if len(possible):
        return float(thresholds[int(possible[-1])])
    best = int(torch.nonzero(counted & (wrong == wrong[counted].min()))[-1])
    warnings.warn(
        f"No threshold keeps false positives at {false_positives:.0%} from there up on {name or 'the reference set'}; "
        f"the best has {float(wrong[best]):.0%} and is taken: use a better proposer, or raise false_positives=.",
        stacklevel=3,
    )
    return float(thresholds[best])
