"""Mathematics on tensors: no datasets, no Lightning, no printing, no process groups."""

from lightning_coreset.ops.duplicates import duplicate_groups
from lightning_coreset.ops.facility_location import facility_location
from lightning_coreset.ops.graph_cut import graph_cut, graph_cut_bins
from lightning_coreset.ops.herding import herding
from lightning_coreset.ops.k_center import k_center
from lightning_coreset.ops.kmeans import kmeans
from lightning_coreset.ops.neighbors import coverage, knn_radius
from lightning_coreset.ops.reducer import Reducer, SerialReducer
from lightning_coreset.ops.rows import Ranking

__all__ = (
    "Ranking",
    "Reducer",
    "SerialReducer",
    "coverage",
    "duplicate_groups",
    "facility_location",
    "graph_cut",
    "graph_cut_bins",
    "herding",
    "k_center",
    "kmeans",
    "knn_radius",
)
