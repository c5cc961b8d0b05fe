"""Levels from the zoom, and the gate below which a scene is left alone."""

import itertools
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

from lightning_coreset.regions.config import HCSConfig
from lightning_coreset.regions.grid import Grid, check_nested

#: Crops magnified more than 1 / 0.75 show the model nothing that it knows.
LEAST_ZOOM_OF_A_CELL = 0.75
_FIRST_GRID, _FIRST_KEEP, _KEEP = 4, 6, 8
_SMALL_ZOOM, _SMALL_GRID, _SMALL_KEEP = 3.0, 2, 2


class Level(NamedTuple):
    """A grid and how many of its regions are kept."""

    grid: Grid
    keep: int


def zoom_of(size: tuple[int, int], input_size: tuple[int, int]) -> float:
    """How many times a scene (height, width) is as large as the input, by the side where that is less.

    Example:
        >>> zoom_of((256, 512), (32, 32))
        8.0
    """
    return min(size[0] / input_size[0], size[1] / input_size[1])


def is_gated(zoom: float, config: HCSConfig) -> bool:
    """Whether a scene is left to the model as it is."""
    return zoom < config.min_zoom


def plan_levels(
    zoom: float, size: tuple[int, int], config: HCSConfig, warn: Callable[[str], object] = warnings.warn
) -> tuple[Level, ...]:
    """The levels of a search, coarse to fine.

    ``"auto"``: grids are the powers of two g with zoom / g >= 0.75, from 4 on; 6 regions are kept at grid 4 and 8 at
    finer ones. Below zoom 3 there is one grid of 2, of which 2 regions are kept.

    Args:
        zoom: Of the scene.
        size: Its height and width.
        config: The choices.
        warn: Called with what is worth a warning.

    Raises:
        ValueError: More regions kept than there are, a grid finer than pixels or no multiple of the one before.

    Example:
        >>> [(level.grid.rows, level.keep) for level in plan_levels(8.0, (256, 256), HCSConfig())]
        [(4, 6), (8, 8)]
    """
    if config.levels == "auto":
        levels = automatic(zoom, config.max_levels)
    else:
        levels = tuple(Level(Grid.of(grid), keep) for grid, keep in config.levels)
        _check(levels, size, config.exhaustive)
        _warn_of_magnified(levels[-1].grid, zoom, warn)
    if config.exhaustive:
        levels = levels[-1:]
    return levels if config.max_forwards is None else within(levels, config.max_forwards, config.w_ro > 0)


def automatic(zoom: float, max_levels: int) -> tuple[Level, ...]:
    """The levels of ``"auto"``."""
    if zoom < _SMALL_ZOOM:
        return (Level(Grid.of(_SMALL_GRID), _SMALL_KEEP),)
    levels = [Level(Grid.of(_FIRST_GRID), _FIRST_KEEP)]
    while len(levels) < max_levels and zoom / (2 * levels[-1].grid.rows) >= LEAST_ZOOM_OF_A_CELL:
        levels.append(Level(Grid.of(2 * levels[-1].grid.rows), _KEEP))
    return tuple(levels)


def forwards_of(levels: Sequence[Level], doubled: bool = False) -> int:
    """Forwards of the whole view and all candidates; with Eq. 5 each candidate is encoded twice.

    Example:
        >>> forwards_of(automatic(8.0, 6)), forwards_of(automatic(8.0, 6), doubled=True)
        (41, 81)
    """
    return 1 + (1 + doubled) * sum(candidates_of(levels))


def candidates_of(levels: Sequence[Level]) -> list[int]:
    """How many candidates each level has."""
    counts = [levels[0].grid.cells]
    for before, level in itertools.pairwise(levels):
        counts.append(before.keep * (level.grid.cells // before.grid.cells))
    return counts


def within(levels: tuple[Level, ...], most: int, doubled: bool) -> tuple[Level, ...]:
    """Levels that need no more forwards: fewer regions are kept where it suffices, else the finest level goes.

    Raises:
        ValueError: Even the first level needs more.
    """
    while forwards_of(levels, doubled) > most:
        widest = max(range(len(levels) - 1), key=lambda place: levels[place].keep, default=None)
        if widest is not None and levels[widest].keep > 1:
            fewer = levels[widest]._replace(keep=levels[widest].keep - 1)
            levels = (*levels[:widest], fewer, *levels[widest + 1 :])
            candidates = candidates_of(levels)
            levels = tuple(
                level._replace(keep=min(level.keep, count)) for level, count in zip(levels, candidates, strict=True)
            )
        elif len(levels) > 1:
            levels = levels[:-1]
        else:
            needed = forwards_of(levels, doubled)
            msg = f"max_forwards={most} is not enough: the first level needs {needed}; give that, or a coarser grid."
            raise ValueError(msg)
    return levels


def _check(levels: Sequence[Level], size: tuple[int, int], exhaustive: bool) -> None:
    for before, level in itertools.pairwise(levels):
        check_nested(before.grid, level.grid)
    for level in levels:
        if level.grid.rows > size[0] or level.grid.columns > size[1]:
            msg = (
                f"A grid of {level.grid.rows} x {level.grid.columns} cells is finer than the pixels of a scene of "
                f"{size[0]} x {size[1]}: give coarser levels."
            )
            raise ValueError(msg)
    candidates = [levels[-1].grid.cells] if exhaustive else candidates_of(levels)
    for level, count in zip(levels[-len(candidates) :], candidates, strict=True):
        if level.keep > count:
            msg = (
                f"{level.keep} regions are to be kept of the {count} at grid {level.grid.rows} x "
                f"{level.grid.columns}: keep 1 to {count}."
            )
            raise ValueError(msg)


def _warn_of_magnified(finest: Grid, zoom: float, warn: Callable[[str], object]) -> None:
    if zoom / max(finest) < LEAST_ZOOM_OF_A_CELL:
        warn(
            f"Cells of the {finest.rows} x {finest.columns} grid are magnified {max(finest) / zoom:.1f} times to the "
            "model's input; below object scale accuracy collapses: give coarser levels, or levels='auto'."
        )
