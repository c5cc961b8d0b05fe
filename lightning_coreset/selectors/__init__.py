"""One method, one file: a pool and a budget in, a coreset out."""

from lightning_coreset.selectors.aum import AUM
from lightning_coreset.selectors.base import Selector
from lightning_coreset.selectors.cal import CAL
from lightning_coreset.selectors.ccs import CCS
from lightning_coreset.selectors.class_balance import ClassBalance
from lightning_coreset.selectors.context import SelectionContext
from lightning_coreset.selectors.craig import Craig
from lightning_coreset.selectors.csod import CSOD
from lightning_coreset.selectors.d2 import D2
from lightning_coreset.selectors.deepfool import DeepFool
from lightning_coreset.selectors.dq_v2 import DQv2
from lightning_coreset.selectors.el2n import EL2N
from lightning_coreset.selectors.facility_location import FacilityLocation
from lightning_coreset.selectors.forgetting import Forgetting
from lightning_coreset.selectors.freesel import FreeSel
from lightning_coreset.selectors.glister import Glister
from lightning_coreset.selectors.grad_match import GradMatch
from lightning_coreset.selectors.grand import GraNd
from lightning_coreset.selectors.graph_cut import GraphCut
from lightning_coreset.selectors.hacon import HaCON
from lightning_coreset.selectors.herding import Herding
from lightning_coreset.selectors.k_center import KCenter
from lightning_coreset.selectors.moderate import Moderate
from lightning_coreset.selectors.ofds import OFDS
from lightning_coreset.selectors.prototypes import Prototypes
from lightning_coreset.selectors.random import Random
from lightning_coreset.selectors.subzerocore import SubZeroCore
from lightning_coreset.selectors.text_retrieval import TextRetrieval
from lightning_coreset.selectors.typiclust import TypiClust
from lightning_coreset.selectors.uncertainty import Uncertainty
from lightning_coreset.selectors.uniform import Uniform
from lightning_coreset.selectors.zcore import ZCore

__all__ = (
    "AUM",
    "CAL",
    "CCS",
    "CSOD",
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
    "Forgetting",
    "Glister",
    "GraNd",
    "GradMatch",
    "GraphCut",
    "Herding",
    "KCenter",
    "Moderate",
    "OFDS",
    "Prototypes",
    "Random",
    "SelectionContext",
    "Selector",
    "SubZeroCore",
    "TypiClust",
    "Uncertainty",
    "Uniform",
    "ZCore",
)
