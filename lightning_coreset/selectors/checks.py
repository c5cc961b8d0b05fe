"""Refusals that several methods share."""

from numbers import Integral


def check_whole(**given: object) -> None:
    """Refuse what is no whole number of at least 1.

    Raises:
        ValueError: Names the argument and what came.
    """
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            msg = f"{name}={value!r} is not accepted: give a whole number of at least 1."
            raise ValueError(msg)


def check_least(least: float, **given: object) -> None:
    """Refuse what is no number or below the least that is accepted.

    Raises:
        ValueError: Names the argument, what came and what is accepted.
    """
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= least:
            msg = f"{name}={value!r} is not accepted: give a number of at least {least:g}."
            raise ValueError(msg)
