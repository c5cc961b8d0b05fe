"""Screening in bfloat16 decides nothing: picks and gains are those of float32, and what is not proven is made again."""

import pytest
import torch
from torch import Tensor

from lightning_coreset.ops import screening
from lightning_coreset.ops.facility_location import facility_location_greedy
from lightning_coreset.ops.objective import FacilityLocationObjective
from lightning_coreset.ops.rows import Ranking, normalize_rows
from lightning_coreset.ops.screening import RoundedRows, screened_greedy, screened_picks, upper_bounds, worth_screening
from lightning_coreset.ops.similarity import SimilarityRows
from tests.helpers.examples import clouds, normal_rows, tied_rows

SIZE, COUNT = 600, 40


def duplicated(size: int) -> Tensor:
    rows = normal_rows(size // 3, 24, seed=2)
    return rows[torch.randint(len(rows), (size,), generator=torch.Generator().manual_seed(2))]


POOLS = {
    "random": normal_rows(SIZE, 48, seed=0),
    "clustered": clouds([SIZE // 6] * 6, 32, seed=1, spread=0.3)[0],
    "duplicates": duplicated(SIZE),
    "ties": tied_rows(SIZE, seed=3),
    "positive": normal_rows(SIZE, 64, seed=4).abs(),
    "zeros": torch.cat([torch.zeros(5, 16), normal_rows(SIZE - 5, 16, seed=5)]),
}


def weights(seed: int) -> Tensor:
    """From a hundredth to a hundred, as of densities, zero among them."""
    drawn = 10 ** (4 * torch.rand(SIZE, generator=torch.Generator().manual_seed(seed)) - 2)
    return drawn.masked_fill(drawn < 0.02, 0.0)


GIVEN = {
    "plain": {},
    "candidate weights": {"candidate_weights": weights(0)},
    "all weights": {"candidate_weights": weights(1), "item_weights": weights(2)},
    "initial and forbidden": {"initial": torch.arange(0, 60, 7), "forbidden": torch.arange(100, 300)},
}


@pytest.fixture
def float32_passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one for each pass over all similarities in float32."""
    passes: list[int] = []
    whole = FacilityLocationObjective.all_gains

    def counted(self: FacilityLocationObjective) -> Tensor:
        passes.append(1)
        return whole(self)

    monkeypatch.setattr(FacilityLocationObjective, "all_gains", counted)
    return passes


def assert_same(found: Ranking, expected: Ranking) -> None:
    assert torch.equal(found.indices, expected.indices)
    assert torch.equal(found.gains, expected.gains)


def screened(rows: SimilarityRows, count: int, looked_at: int, **given: Tensor) -> Ranking:
    initial, forbidden = (given.pop(name, torch.empty(0, dtype=torch.int64)) for name in ("initial", "forbidden"))
    objective = FacilityLocationObjective(rows, **given)
    if len(initial):
        objective.cover(objective.values(initial))
    candidates = torch.ones(rows.size, dtype=torch.bool).index_fill_(0, torch.cat([initial, forbidden]), False)
    return screened_greedy(objective, candidates, count, None, looked_at)


@pytest.mark.parametrize("looked_at", [1, 30])
@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("kind", ["cosine", "shifted"])
@pytest.mark.parametrize("pool", POOLS)
def test_the_picks_and_gains_of_float32(pool: str, kind: str, given: str, looked_at: int) -> None:
    rows = SimilarityRows(POOLS[pool], kind=kind, mode="streamed")
    expected = facility_location_greedy(rows, COUNT, **GIVEN[given])
    assert_same(screened(rows, COUNT, looked_at, **GIVEN[given]), expected)
    # As many as are looked at unless it is said how many.
    assert_same(facility_location_greedy(rows, COUNT, screen=True, **GIVEN[given]), expected)


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("kind", ["cosine", "shifted"])
@pytest.mark.parametrize("pool", POOLS)
def test_no_gain_is_above_its_bound(pool: str, kind: str, given: str) -> None:
    rows = SimilarityRows(POOLS[pool], kind=kind, mode="streamed")
    taken = {name: value for name, value in GIVEN[given].items() if name.endswith("weights")}
    objective = FacilityLocationObjective(rows, **taken)
    rounded = RoundedRows(rows.features)
    for step in range(4):
        assert bool((objective.all_gains() <= upper_bounds(objective, rounded)).all())
        objective.cover(objective.values(torch.arange(step * 20, step * 20 + 20)))


def test_no_similarity_is_off_by_more_than_its_doubt_and_one_is_nearly() -> None:
    # All entries lie as far from a bfloat16 as they can, and on the same side.
    rows = normalize_rows(1 + 2**-8 + 2**-10 * torch.rand(70, 64, generator=torch.Generator().manual_seed(0)))
    for unit in (rows, normalize_rows(normal_rows(200, 40))):
        rounded = RoundedRows(unit)
        exact = unit.double() @ unit.double().T
        off = (rounded.products(slice(0, len(unit))).double() - exact).abs()
        doubt = rounded.row_doubt[:, None] + rounded.column_doubt
        assert bool((off <= doubt).all())
    unit = torch.full((64, 64), 1 / 8 * (1 + 2**-8 - 2**-12))
    rounded = RoundedRows(unit)
    off = float((rounded.products(slice(0, 64)) - unit @ unit.T).abs().max())
    assert off > 0.9 * float(rounded.row_doubt[0] + rounded.column_doubt[0])


def test_proven_picks_need_no_pass_in_float32(float32_passes: list[int]) -> None:
    rows = SimilarityRows(POOLS["random"], mode="streamed")
    facility_location_greedy(rows, COUNT, screen=True)
    assert float32_passes == []


def test_from_the_first_pick_that_is_not_proven_on_float32_alone(float32_passes: list[int]) -> None:
    rows = SimilarityRows(POOLS["clustered"], mode="streamed")
    objectives = [FacilityLocationObjective(rows) for _ in range(3)]
    everything = torch.ones(SIZE, dtype=torch.bool)
    expected = screened_greedy(objectives[0], everything, COUNT, None)
    partly = screened_picks(objectives[1], everything, COUNT, None, looked_at=30)
    proven = int(partly.proven)
    assert 0 < proven < COUNT
    assert torch.equal(partly.ranking.indices[:proven], expected.indices[:proven])
    assert torch.equal(partly.covered, objectives[1].values(expected.indices[:proven]).amax(dim=0).clamp(min=0))
    assert float32_passes == []
    told: list[int] = []
    found = screened_greedy(objectives[2], everything, COUNT, told.append, looked_at=30)
    assert len(float32_passes) > 0
    assert sum(told) == COUNT
    assert_same(found, expected)


def test_an_equal_one_that_was_not_looked_at_may_come_first() -> None:
    rows = SimilarityRows(torch.ones(100, 4), mode="streamed")
    objective = FacilityLocationObjective(rows)
    partly = screened_picks(objective, torch.ones(100, dtype=torch.bool), 1, None, looked_at=10)
    assert int(partly.proven) == 0
    assert facility_location_greedy(rows, 3, screen=True).indices.tolist() == [0, 1, 2]


def test_where_nothing_is_left_to_gain_the_rest_comes_in_order_and_in_one_pass(float32_passes: list[int]) -> None:
    corners = torch.eye(3)[torch.arange(SIZE) % 3]
    rows = SimilarityRows(corners, mode="streamed")
    found = facility_location_greedy(rows, 50, screen=True)
    assert found.indices.tolist() == list(range(50))
    # Exact ties: the first pick is not proven.
    once = len(float32_passes)
    float32_passes.clear()
    facility_location_greedy(rows, 50, screen=False)
    assert once == len(float32_passes)


def test_the_loop_asks_the_device_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = SimilarityRows(POOLS["random"], mode="streamed")
    objective = FacilityLocationObjective(rows, weights(0), weights(1))
    everything = torch.ones(SIZE, dtype=torch.bool)

    def asked(*_: object) -> None:
        raise AssertionError

    for name in ("__bool__", "__int__", "__float__", "__index__", "item", "tolist", "nonzero", "cpu"):
        monkeypatch.setattr(Tensor, name, asked)
    monkeypatch.setattr(torch, "nonzero", asked)
    screened_picks(objective, everything, 5, None)


def test_only_where_it_must_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    class Streamed:
        mode = "streamed"
        size = 50_000

        def __init__(self, width: int, device: str = "cuda") -> None:
            self.features = type("Rows", (), {"device": torch.device(device), "shape": (self.size, width)})()

    card = [(9, 0)]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: card[0])
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    assert [worth_screening(Streamed(512), count) for count in (1, 3, 4, 500)] == [True, True, False, False]
    assert [worth_screening(Streamed(2_048), count) for count in (7, 8)] == [True, False]
    assert not worth_screening(Streamed(512, "cpu"), 1)
    small, held = Streamed(512), Streamed(512)
    small.size, held.mode = 5_000, "dense"
    assert not worth_screening(small, 1)
    assert not worth_screening(held, 1)
    card[0] = (8, 9)
    assert not worth_screening(Streamed(512), 1)
    card[0] = (9, 0)
    monkeypatch.setattr(screening, "_in_tf32", lambda: True)
    assert not worth_screening(Streamed(512), 1)
