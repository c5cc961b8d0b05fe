"""Coreset selection for PyTorch Lightning: train on the part of the data that matters.

Every selector is imported here, so that ``LightningCLI`` finds them by their bare class names.
"""

from lightning_coreset.active import ActiveLearningDataModule
from lightning_coreset.api import select
from lightning_coreset.augmentation import SDADataset
from lightning_coreset.callbacks import (
    ActiveLearningRounds,
    ActiveLearningWarmStart,
    RegionRefinement,
    TrainingDynamics,
)
from lightning_coreset.coreset import Coreset
from lightning_coreset.datamodule import CoresetDataModule
from lightning_coreset.errors import CoresetError
from lightning_coreset.features import FeatureExtractor
from lightning_coreset.pool import Pool
from lightning_coreset.registry import list_selectors
from lightning_coreset.selectors import (
    AUM,
    CAL,
    CCS,
    CSOD,
    D2,
    EL2N,
    OFDS,
    ClassBalance,
    Craig,
    DeepFool,
    DQv2,
    FacilityLocation,
    Forgetting,
    FreeSel,
    Glister,
    GradMatch,
    GraNd,
    GraphCut,
    HaCON,
    Herding,
    KCenter,
    Moderate,
    Prototypes,
    Random,
    SelectionContext,
    Selector,
    SubZeroCore,
    TextRetrieval,
    TypiClust,
    Uncertainty,
    Uniform,
    ZCore,
)
from lightning_coreset.selectors.cost import CostEstimate, estimate_cost
from lightning_coreset.signals import Proxy, Signals

__version__ = "0.1.0.dev0"

__all__ = (
    "AUM",
    "ActiveLearningDataModule",
    "ActiveLearningRounds",
    "ActiveLearningWarmStart",
    "CAL",
    "CCS",
    "CSOD",
    "Coreset",
    "CoresetDataModule",
    "CoresetError",
    "CostEstimate",
    "Craig",
    "TextRetrieval",
    "HaCON",
    "FreeSel",
    "ClassBalance",
    "D2",
    "DQv2",
    "DeepFool",
    "EL2N",
    "FacilityLocation",
    "FeatureExtractor",
    "Forgetting",
    "Glister",
    "GraNd",
    "GradMatch",
    "GraphCut",
    "Herding",
    "KCenter",
    "Moderate",
    "OFDS",
    "Pool",
    "Prototypes",
    "Proxy",
    "Random",
    "RegionRefinement",
    "SDADataset",
    "SelectionContext",
    "Selector",
    "Signals",
    "SubZeroCore",
    "TrainingDynamics",
    "TypiClust",
    "Uncertainty",
    "Uniform",
    "ZCore",
    "estimate_cost",
    "list_selectors",
    "select",
)
