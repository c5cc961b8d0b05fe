"""Grids from the zoom, the forwards they cost, and what is refused."""

import pytest

from lightning_coreset.regions import HCSConfig
from lightning_coreset.regions.levels import forwards_of, is_gated, plan_levels, zoom_of

TABLE = [
    (1.5, [(2, 2)], 5),
    (2.9, [(2, 2)], 5),
    (3.0, [(4, 6)], 17),
    (5.9, [(4, 6)], 17),
    (6.0, [(4, 6), (8, 8)], 41),
    (8.0, [(4, 6), (8, 8)], 41),
    (11.9, [(4, 6), (8, 8)], 41),
    (12.0, [(4, 6), (8, 8), (16, 8)], 73),
    (24.0, [(4, 6), (8, 8), (16, 8), (32, 8)], 105),
    (1e6, [(4, 6), (8, 8), (16, 8), (32, 8), (64, 8), (128, 8)], 169),
]


@pytest.mark.parametrize(("zoom", "expected", "forwards"), TABLE)
def test_automatic_levels(zoom: float, expected: list[tuple[int, int]], forwards: int) -> None:
    levels = plan_levels(zoom, (10**6, 10**6), HCSConfig())
    assert [(level.grid.rows, level.keep) for level in levels] == expected
    assert forwards_of(levels) == forwards
    assert forwards_of(levels, doubled=True) == 2 * forwards - 1


def test_the_zoom_is_that_of_the_side_that_is_magnified_less() -> None:
    assert zoom_of((256, 96), (32, 32)) == 3
    assert zoom_of((256, 96), (32, 16)) == 6


@pytest.mark.parametrize(("zoom", "gated"), [(1.0, True), (1.49, True), (1.5, False)])
def test_the_gate(zoom: float, gated: bool) -> None:
    assert is_gated(zoom, HCSConfig()) == gated
    assert is_gated(zoom, HCSConfig(min_zoom=1)) == (zoom < 1)


@pytest.mark.parametrize("most", [2, 5, 17, 20, 30, 41, 1000])
@pytest.mark.parametrize("doubled", [False, True])
def test_max_forwards_is_held(most: int, doubled: bool) -> None:
    config = HCSConfig(levels=((2, 4), (4, 6), (8, 8)), max_forwards=most, w_ro=0.65 if doubled else 0)
    if most < forwards_of(plan_levels(8, (64, 64), HCSConfig(levels=((2, 1),))), doubled):
        with pytest.raises(ValueError, match="max_forwards=.* is not enough: the first level needs"):
            plan_levels(8, (64, 64), config)
        return
    levels = plan_levels(8, (64, 64), config)
    assert forwards_of(levels, doubled) <= most
    if most >= 1000:
        assert len(levels) == 3


def test_exhaustive_is_the_finest_grid_alone() -> None:
    levels = plan_levels(8, (256, 256), HCSConfig(exhaustive=True))
    assert [(level.grid.rows, level.keep) for level in levels] == [(8, 8)]
    assert forwards_of(levels) == 65


def test_crops_that_are_magnified_too_much_are_warned_of() -> None:
    with pytest.warns(UserWarning, match="Cells of the 16 x 16 grid are magnified 2.0 times"):
        plan_levels(8, (256, 256), HCSConfig(levels=((8, 8), (16, 8))))


REFUSED = [
    ({"levels": ((4, 17),)}, "17 regions are to be kept of the 16 at grid 4 x 4"),
    ({"levels": ((4, 2), (8, 9))}, "9 regions are to be kept of the 8 at grid 8 x 8"),
    ({"levels": ((4, 2), (6, 2))}, "must be a multiple"),
    ({"levels": ((128, 2),)}, "128 x 128 cells is finer than the pixels of a scene of 64 x 64"),
    ({"levels": (((1, 65), 2),)}, "1 x 65 cells is finer than the pixels"),
    ({"levels": ()}, r"levels=\(\) is not accepted"),
    ({"levels": "fine"}, "levels='fine' is not accepted"),
    ({"levels": (4, 8)}, r"because of 4: give 'auto', or pairs"),
    ({"levels": ((4, 0),)}, r"because of \(4, 0\)"),
    ({"levels": ((0, 4),)}, r"because of \(0, 4\)"),
    ({"max_levels": 0}, "max_levels=0 is not accepted: give at least 1"),
    ({"max_forwards": 1}, "max_forwards=1 is not accepted"),
    ({"chunk": 0}, "chunk=0 is not accepted"),
    ({"tau": 0.0}, "tau=0.0 is not accepted: give more than 0"),
    ({"overlap": 2.0}, "overlap=2.0 is not accepted: give a share"),
    ({"engine": "slow"}, "engine='slow' is not accepted: give one of 'auto', 'scan'"),
    ({"search": "slow"}, "search='slow' is not accepted"),
    ({"utility": "pair"}, "utility='pair' is not accepted"),
    ({"synergy": "improve"}, "synergy='improve' is not accepted"),
    ({"select": "best"}, "select='best' is not accepted"),
    ({"fuse": "sum"}, "fuse='sum' is not accepted"),
    ({"normalize": "z"}, "normalize='z' is not accepted"),
    ({"loss": "mse"}, "loss='mse' is not accepted: give one of 'entropy'.*or a callable"),
]


@pytest.mark.filterwarnings("ignore:Cells of the")
@pytest.mark.parametrize(("choices", "message"), REFUSED, ids=str)
def test_refused_before_any_work(choices: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        plan_levels(4, (64, 64), HCSConfig(**choices))
    assert "\n" not in str(caught.value)
