"""Boxes: what a pool's images show, labelled or proposed."""

from lightning_coreset.detection.autolabels import (
    LabelledImages,
    with_human_labels,
    write_autolabels,
    write_label_maps,
)
from lightning_coreset.detection.calibration import Calibration, calibrate
from lightning_coreset.detection.callable_proposer import CallableProposer
from lightning_coreset.detection.class_names import with_classes
from lightning_coreset.detection.ground_truth import GroundTruthProposer
from lightning_coreset.detection.grounding_dino import GroundingDinoProposer
from lightning_coreset.detection.objects import Objects
from lightning_coreset.detection.owlv2 import Owlv2Proposer
from lightning_coreset.detection.precomputed import PrecomputedProposer
from lightning_coreset.detection.proposals import KnownObjects, ObjectEncoder, ObjectProposer, Proposals
from lightning_coreset.detection.proposing import propose_images, propose_objects
from lightning_coreset.detection.reading import read_names, read_objects
from lightning_coreset.detection.resolve import resolve_proposer
from lightning_coreset.detection.sam2 import Sam2PointerEncoder
from lightning_coreset.detection.semantic import semantic_regions
from lightning_coreset.detection.torchvision_proposer import TorchvisionProposer
from lightning_coreset.detection.units import UnitEstimate, fit_units, true_units

__all__ = [
    "Calibration",
    "CallableProposer",
    "GroundTruthProposer",
    "GroundingDinoProposer",
    "KnownObjects",
    "LabelledImages",
    "ObjectEncoder",
    "ObjectProposer",
    "Objects",
    "Owlv2Proposer",
    "PrecomputedProposer",
    "Proposals",
    "Sam2PointerEncoder",
    "TorchvisionProposer",
    "UnitEstimate",
    "calibrate",
    "fit_units",
    "propose_images",
    "propose_objects",
    "read_names",
    "read_objects",
    "resolve_proposer",
    "semantic_regions",
    "true_units",
    "with_classes",
    "with_human_labels",
    "write_autolabels",
    "write_label_maps",
]
