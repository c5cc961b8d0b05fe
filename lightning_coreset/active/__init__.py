"""Active learning: what is labelled, what to ask for next, and the way to the annotator and back."""

from lightning_coreset.active.datamodule import ActiveLearningDataModule
from lightning_coreset.active.detections import Detections
from lightning_coreset.active.handover import ExportToLabel
from lightning_coreset.active.loop import ActiveLearningLoop
from lightning_coreset.active.oracles import Answer, CallableOracle, Cost, DatasetOracle, Oracle, Request
from lightning_coreset.active.pool import LabelledPool
from lightning_coreset.active.queries import QueryContext
from lightning_coreset.active.returned import Ingested

__all__ = (
    "ActiveLearningDataModule",
    "ActiveLearningLoop",
    "Answer",
    "CallableOracle",
    "Cost",
    "DatasetOracle",
    "Detections",
    "ExportToLabel",
    "Ingested",
    "LabelledPool",
    "Oracle",
    "QueryContext",
    "Request",
)
