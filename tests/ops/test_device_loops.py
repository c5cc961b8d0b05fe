"""Greedy loops for a GPU never ask the device for a value: on the meta device, which has none, they run through."""

import sys

import torch

from lightning_coreset.ops import graph_cut, k_center
from lightning_coreset.ops.exact_greedy import exact_greedy, greedy_on_device
from lightning_coreset.ops.objective import FacilityLocationObjective
from lightning_coreset.ops.screening import screened_picks
from lightning_coreset.ops.similarity import SimilarityRows

META = torch.device("meta")
N, COUNT = 100, 5


def module_of(function: object) -> object:
    # The packages' names are those of the functions.
    return sys.modules[function.__module__]


def test_graph_cut() -> None:
    ranking = module_of(graph_cut)._greedy(
        torch.empty(N, 8, device=META), None, torch.empty(N, device=META), COUNT, None
    )
    assert ranking.indices.shape == (COUNT,)


def test_k_center() -> None:
    rows = torch.empty(N, 8, device=META)
    module = module_of(k_center)
    ranking = module._greedy(rows, module.NearestCenters(rows, COUNT), None, COUNT, None)
    assert ranking.gains.shape == (COUNT,)


def test_facility_location() -> None:
    rows = SimilarityRows(torch.empty(N, 8, device=META), mode="dense")
    objective = FacilityLocationObjective(rows)
    ranking = greedy_on_device(objective, torch.empty(N, device=META), COUNT, None)
    assert ranking.indices.shape == (COUNT,)


def test_facility_location_with_screening() -> None:
    objective = FacilityLocationObjective(SimilarityRows(torch.empty(N, 8, device=META), mode="streamed"))
    found = screened_picks(objective, torch.empty(N, dtype=torch.bool, device=META), COUNT, None)
    assert found.ranking.indices.shape == (COUNT,)


def test_the_loop_for_devices_gives_the_picks_of_the_estimating_one() -> None:
    features = torch.randn(300, 16, generator=torch.Generator().manual_seed(0))
    by_force, estimating = (FacilityLocationObjective(SimilarityRows(features, mode="dense")) for _ in range(2))
    first = greedy_on_device(by_force, by_force.all_gains(), 40, None)
    second = exact_greedy(estimating, torch.ones(300, dtype=torch.bool), 40, None)
    assert torch.equal(first.indices, second.indices)
    assert torch.equal(first.gains, second.gains)
