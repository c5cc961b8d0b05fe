"""CCS, D2 and ZCore: strata, messages and subspaces as selectors."""

import numpy as np
import pytest
import torch

from lightning_coreset import Pool, Signals, select
from lightning_coreset.selectors.ccs import strata_of
from lightning_coreset.signals.scores import area_under_margin, el2n, forgetting_events
from tests.helpers import references_signals as references
from tests.helpers.examples import clouds, signals_of

FEATURES, LABELS = clouds([40, 25, 31])
SIGNALS = signals_of(FEATURES, LABELS)
POOL = Pool(FEATURES, signals=SIGNALS)
HARDNESS = -area_under_margin(SIGNALS)


@pytest.mark.parametrize(("budget", "strata", "beta"), [(20, 10, 0.1), (60, 10, 0.3), (7, 50, 0.0), (80, 3, 0.1)])
def test_ccs_shares_the_budget_over_strata_as_the_paper_does(budget: int, strata: int, beta: float) -> None:
    found = select(POOL, method="ccs", budget=budget, strata=strata, beta=beta)
    kept = HARDNESS.argsort()[: 96 - int(beta * 96 + 0.5)]
    sizes = torch.bincount(strata_of(HARDNESS[kept], strata), minlength=strata).tolist()
    given = torch.bincount(torch.tensor(found.details["stratum"]), minlength=strata).tolist()
    assert given == references.shared_strata(sizes, budget)


def test_strata_are_equally_wide_ranges_of_the_score() -> None:
    """Not equally many items: the tail would be one stratum of many."""
    assert strata_of(torch.tensor([0.0, 0.1, 0.2, 0.3, 10.0]), 5).tolist() == [0, 0, 0, 0, 4]
    assert strata_of(torch.ones(3), 5).tolist() == [0, 0, 0]


@pytest.mark.parametrize("score", ["aum", "el2n", "forgetting"])
def test_ccs_drops_the_hardest(score: str) -> None:
    hardness = {"aum": HARDNESS, "el2n": el2n(SIGNALS, 10), "forgetting": forgetting_events(SIGNALS)}[score]
    found = select(POOL, method="ccs", budget=77, score=score, beta=0.2)
    dropped = hardness.argsort(stable=True)[-19:]
    assert not set(found.indices.tolist()) & set(dropped.tolist())
    # Beyond what is left they come after all, the easier ones first.
    assert select(POOL, method="ccs", budget=96, score=score, beta=0.2).indices[77:].tolist() == dropped.tolist()


def test_initial_items_count_in_their_stratum() -> None:
    stratum = strata_of(HARDNESS, 4)
    sizes = torch.bincount(stratum, minlength=4)
    crowded = int(sizes.argmax())
    initial = torch.nonzero(stratum == crowded).flatten()[:2]
    found = select(POOL, method="ccs", budget=10, strata=4, beta=0, initial=initial)
    counts = torch.bincount(torch.tensor(found.details["stratum"]), minlength=4)
    counts[crowded] += 2
    assert counts.tolist() == references.shared_strata(sizes.tolist(), 12)


def test_another_seed_draws_others_from_the_same_strata() -> None:
    first, second = (select(POOL, method="ccs", budget=20, strata=5, seed=seed) for seed in (0, 1))
    assert first.details["stratum"] == second.details["stratum"]
    assert first.indices.tolist() != second.indices.tolist()


@pytest.mark.parametrize("neighbors", [3, 1000])
@pytest.mark.parametrize("score", ["aum", "el2n", "forgetting", "uniform"])
def test_d2_is_the_reference(score: str, neighbors: int) -> None:
    events = forgetting_events(SIGNALS)
    worth = {
        "aum": HARDNESS - HARDNESS.min(),
        "el2n": el2n(SIGNALS, 10),
        "forgetting": events.nan_to_num(posinf=float(events[events.isfinite()].max()) + 1),
        "uniform": torch.ones(96),
    }[score]
    found = select(POOL, method="d2", budget=40, score=score, neighbors=neighbors)
    picks, gains = references.message_passing(
        worth.double().numpy(), FEATURES.numpy(), min(neighbors, 95), 40, forward=1.0, reverse=1.0
    )
    assert found.indices.tolist() == picks
    assert found.gains is not None
    assert np.allclose(found.gains, gains, atol=1e-4)


def test_d2_of_a_uniform_score_asks_for_no_signals() -> None:
    assert len(select(FEATURES, method="d2", score="uniform", budget=5)) == 5
    with pytest.raises(ValueError, match="'d2' needs training signals"):
        select(FEATURES, method="d2", budget=5)
    with pytest.raises(ValueError, match="'d2' needs features and the pool has none"):
        select(Pool(signals=SIGNALS), method="d2", budget=5)


def test_d2_spreads_what_is_hard() -> None:
    """The ten hardest items lie in one tight cloud; a score alone would take nothing else."""
    features, cloud = clouds([10, 40, 40], spread=0.02)
    logits = torch.stack([torch.where(cloud == 0, -3.0, 0.1 * torch.arange(90) / 90), torch.zeros(90)], dim=1)
    pool = Pool(features, signals=Signals.from_logits(logits, [0] * 90))
    hardest = select(pool, method="aum", budget=9).indices
    spread = select(pool, method="d2", score="aum", budget=9).indices
    assert set(cloud[hardest].tolist()) == {0}
    assert len(set(cloud[spread].tolist())) > 1


def test_zcore_resolves_its_points_and_looks_at_no_label() -> None:
    found = select(FEATURES, LABELS, method="zcore", budget=10)
    assert found.manifest["resolved"]["samples"] == [10_000]
    assert torch.equal(found.indices, select(FEATURES, method="zcore", budget=10).indices)
    fewer = select(FEATURES, method="zcore", budget=10, samples=300)
    assert fewer.manifest["resolved"]["samples"] == [300]


def test_zcore_takes_no_duplicate_before_others() -> None:
    twice = torch.cat([FEATURES, FEATURES])
    picks = select(twice, method="zcore", budget=40, samples=3_000, neighbors=5).indices
    assert len(set((picks % 96).tolist())) == 40


@pytest.mark.parametrize("method", ["ccs", "zcore"])
def test_the_seed_decides(method: str) -> None:
    first, again, other = (select(POOL, method=method, budget=30, seed=seed).indices for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("ccs", {"score": "loss"}, "score='loss' is not accepted: give one of 'aum', 'el2n', 'forgetting'"),
        ("ccs", {"beta": 1}, r"beta=1 is not accepted: give a share in \[0, 1\)"),
        ("ccs", {"strata": 0}, "strata=0 is not accepted"),
        ("d2", {"score": "loss"}, "score='loss' is not accepted"),
        ("d2", {"neighbors": 0}, "neighbors=0 is not accepted"),
        ("d2", {"gamma_reverse": -0.1}, "gamma_reverse=-0.1 is not accepted"),
        ("zcore", {"samples": 0}, "samples=0 is not accepted"),
        ("zcore", {"dimensions": 0}, "dimensions=0 is not accepted"),
    ],
)
def test_arguments_out_of_range(method: str, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select(POOL, method=method, budget=3, **arguments)  # type: ignore[arg-type]
