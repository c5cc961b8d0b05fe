"""The search for enough clean clusters against its definition."""

import pytest
import torch

from lightning_coreset.ops import clean_clusters as module
from lightning_coreset.ops.clean_clusters import clean_clusters
from tests.helpers.examples import clouds, normal_rows


def masks(size: int, share: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    taken = torch.rand(size, generator=torch.Generator().manual_seed(seed)) < share
    return taken, ~taken


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3])
@pytest.mark.parametrize("wanted", [1, 5, 30])
@pytest.mark.parametrize("search", ["gallop", "linear"])
def test_clusters_are_clean_whole_and_enough(share: float, wanted: int, search: str) -> None:
    rows, _ = clouds([60, 40, 30])
    taken, usable = masks(130, share)
    found = clean_clusters(rows, taken, usable, wanted, search=search)  # type: ignore[arg-type]
    assert len(found.members) == wanted
    members = torch.cat(found.members)
    assert len(members.unique()) == len(members)
    assert not bool(taken[members].any())
    sizes = [len(part) for part in found.members]
    assert sizes == sorted(sizes, reverse=True)
    for part in found.members:
        away = (rows[part].double() - rows[part].double().mean(dim=0)).square().sum(dim=1)
        assert bool((away[1:] >= away[:-1] - 1e-9).all())


def test_linear_search_stops_at_the_first_place_that_succeeds() -> None:
    rows, _ = clouds([60, 40, 30])
    taken, usable = masks(130, 0.2)
    found = clean_clusters(rows, taken, usable, 20, search="linear")
    fits = module._Fits(rows, taken, usable, 0)
    ladder = module._ladder(20, 130)
    place = ladder.index(found.clusters)
    assert fits.succeeds(ladder[place], 20)
    assert not any(fits.succeeds(number, 20) for number in ladder[:place])
    # Where more clusters always help, galloping ends at the same place with fewer clusterings.
    gallop = clean_clusters(rows, taken, usable, 20)
    assert fits.succeeds(gallop.clusters, 20)
    assert gallop.fits <= found.fits + 1


def test_the_ladder() -> None:
    assert module._ladder(18, 26) == [18, 19, 20, 21, 23, 25, 26]
    assert module._ladder(100, 120) == [100, 105, 111, 117, 120]
    assert module._ladder(5, 5) == [5]


def test_any_place_of_a_monotone_row_is_found() -> None:
    for last in range(1, 40):
        for first in range(last + 1):
            tried: list[int] = []

            def succeeds(place: int, first: int = first, tried: list[int] = tried) -> bool:
                tried.append(place)
                return place >= first

            assert module._first_success(succeeds, last, "gallop") == first
            assert len(tried) == len(set(tried))
            assert module._first_success(succeeds, last, "linear") == first


def test_places_are_tried_with_doubling_steps_and_then_halved() -> None:
    tried: list[int] = []
    module._first_success(lambda place: tried.append(place) or place >= 23, 60, "gallop")  # type: ignore[func-returns-value]
    assert tried == [0, 1, 3, 7, 15, 31, 23, 19, 21, 22]


@pytest.mark.parametrize("many", [0.6, 2.0])
def test_rounds_that_look_at_what_moved_are_plain_rounds(many: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lloyd's rounds in double precision over all centres give the same clusters."""
    monkeypatch.setattr(module, "_MANY", many)
    for seed in range(5):
        rows, _ = clouds([80, 60, 50], seed=seed)
        fits = module._Fits(rows, *masks(190, 0.1), seed)
        for centers, nearest, away in fits._starts.first(12):
            found, inertia = fits._run(centers, nearest, away)
            points, middle = rows.double(), centers.double()
            before = float(torch.cdist(points, middle).amin(dim=1).square().sum())
            labels = torch.cdist(points, middle).argmin(dim=1)
            for _ in range(10):
                middle = torch.stack([points[labels == label].mean(dim=0) for label in range(12)])
                labels = torch.cdist(points, middle).argmin(dim=1)
                after = float(torch.cdist(points, middle).amin(dim=1).square().sum())
                if after >= before * 0.99:
                    break
                before = after
            assert torch.equal(found, labels)
            assert inertia == pytest.approx(after, rel=1e-4)


def test_centres_of_fewer_clusters_are_the_first_of_more() -> None:
    rows = normal_rows(80)
    squares = (rows * rows).sum(dim=1)
    at_once, slowly = module._Starts(rows, squares, 3), module._Starts(rows, squares, 3)
    for count in (2, 9, 30):
        slowly.first(count)
    for one, other in zip(at_once.first(30), slowly.first(30), strict=True):
        assert all(torch.equal(first, second) for first, second in zip(one, other, strict=True))
        centers, nearest, away = one
        assert len(centers.unique(dim=0)) == 30
        distances = torch.cdist(rows.double(), centers.double())
        assert torch.equal(distances.argmin(dim=1), nearest)
        assert torch.allclose(distances.amin(dim=1).square().float(), away, atol=1e-3)


def test_what_no_clustering_can_part() -> None:
    rows = torch.ones(9, 3)
    taken = torch.zeros(9, dtype=torch.bool)
    assert [part.tolist() for part in clean_clusters(rows, taken, ~taken, 4).members] == [list(range(9))]
    taken[0] = True
    assert clean_clusters(rows, taken, ~taken, 4).members == []
    single = torch.tensor([[1.0]])
    assert [part.tolist() for part in clean_clusters(single, taken[1:2], ~taken[1:2], 1).members] == [[0]]


def test_a_clustering_leaves_no_row_nearer_to_another_centre() -> None:
    rows, _ = clouds([60, 40, 30], spread=0.2)
    taken, usable = masks(130, 0.0)
    assignment = module._Fits(rows, taken, usable, 0).assignment(3)
    centers = torch.stack([rows[assignment == label].mean(dim=0) for label in range(3)])
    assert torch.equal(torch.cdist(rows, centers).argmin(dim=1), assignment)
