"""Greedy loops for a GPU never ask the device for a value: on the meta device, which has none, they run through."""

import sys

import torch

from lightning_coreset.ops import facility_location, graph_cut, k_center

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
    ranking = module_of(k_center)._greedy(
        torch.empty(N, 8, device=META), torch.empty(N, device=META), None, COUNT, None
    )
    assert ranking.gains.shape == (COUNT,)


def test_facility_location() -> None:
    module = module_of(facility_location)
    rows = module.SimilarityRows(torch.empty(N, 8, device=META), mode="dense")
    objective = module._Objective(rows, torch.empty(N, device=META), None)
    ranking = module._greedy_on_device(objective, torch.empty(N, device=META), COUNT, None)
    assert ranking.indices.shape == (COUNT,)


def test_the_loop_for_devices_gives_the_picks_of_the_lazy_one() -> None:
    module = module_of(facility_location)
    features = torch.randn(300, 16, generator=torch.Generator().manual_seed(0))
    results = []
    for loop in (module._lazy_greedy, module._greedy_on_device):
        objective = module._Objective(module.SimilarityRows(features, mode="dense"), None, None)
        results.append(loop(objective, objective.all_gains(), 40, None))
    assert torch.equal(results[0].indices, results[1].indices)
    assert torch.equal(results[0].gains, results[1].gains)
