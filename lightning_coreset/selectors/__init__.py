"""One method, one file: a pool and a budget in, a coreset out."""

from lightning_coreset.selectors.base import Selector
from lightning_coreset.selectors.context import SelectionContext
from lightning_coreset.selectors.dq_v2 import DQv2
from lightning_coreset.selectors.facility_location import FacilityLocation
from lightning_coreset.selectors.graph_cut import GraphCut
from lightning_coreset.selectors.herding import Herding
from lightning_coreset.selectors.k_center import KCenter
from lightning_coreset.selectors.moderate import Moderate
from lightning_coreset.selectors.prototypes import Prototypes
from lightning_coreset.selectors.random import Random
from lightning_coreset.selectors.subzerocore import SubZeroCore
from lightning_coreset.selectors.typiclust import TypiClust
from lightning_coreset.selectors.uniform import Uniform

__all__ = (
    "DQv2",
    "FacilityLocation",
    "GraphCut",
    "Herding",
    "KCenter",
    "Moderate",
    "Prototypes",
    "Random",
    "SelectionContext",
    "Selector",
    "SubZeroCore",
    "TypiClust",
    "Uniform",
)
