"""Method names and the selector classes behind them."""

import difflib
import fnmatch
import inspect
import warnings
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_coreset.selectors.base import Selector

ENTRY_POINT_GROUP = "lightning_coreset.selectors"

_SELECTORS: dict[str, "type[Selector]"] = {}


def register(name: str, selector: "type[Selector]") -> None:
    """Give a selector class the name by which ``method=`` finds it; a name taken twice gives a warning."""
    known = _SELECTORS.get(name)
    if known is not None and known.__qualname__ != selector.__qualname__:
        warnings.warn(f"The method {name!r} was {known.__qualname__} and is now {selector.__qualname__}.", stacklevel=3)
    _SELECTORS[name] = selector


def list_selectors(pattern: str = "*") -> list[str]:
    """Names of the methods that match a wildcard pattern, in alphabetical order.

    Example:
        >>> list_selectors("*core")
        ['subzerocore', 'zcore']
    """
    _load_entry_points()
    return fnmatch.filter(sorted(_SELECTORS), pattern)


def selector_class(name: str) -> "type[Selector]":
    """The selector class of a method.

    Raises:
        ValueError: An unknown name; the message holds the closest ones.
    """
    if name not in _SELECTORS:
        _load_entry_points()
    if name not in _SELECTORS:
        close = difflib.get_close_matches(str(name).lower(), _SELECTORS, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else "see list_selectors()."
        msg = f"Unknown method {name!r}; accepted are {', '.join(sorted(_SELECTORS))}: {hint}"
        raise ValueError(msg)
    return _SELECTORS[name]


def build_selector(name: str, arguments: Mapping[str, Any]) -> "Selector":
    """A selector by the name of its method.

    Raises:
        ValueError: An unknown name.
        TypeError: An argument that the method does not accept; the message lists the accepted ones.
    """
    found = selector_class(name)
    accepted = [parameter for parameter in inspect.signature(found).parameters if parameter != "self"]
    unknown = [argument for argument in arguments if argument not in accepted]
    if unknown:
        msg = f"The method {name!r} got the unknown argument {unknown[0]!r}; accepted are {', '.join(accepted)}."
        raise TypeError(msg)
    return found(**arguments)


def choose_selector(
    selector: "Selector | None", method: str | None, method_args: dict[str, Any] | None, per_class: bool | None
) -> "Selector":
    """The selector that was given, or that of a method by its name (``"subzerocore"`` where none is named).

    Raises:
        ValueError: A selector beside a method or its arguments, or an unknown name.
        TypeError: An argument that the method does not accept.
    """
    if selector is None:
        arguments = dict(method_args or {})
        if per_class is not None:
            arguments["per_class"] = per_class
        return build_selector(method or "subzerocore", arguments)
    given = {"method": method, "method_args": method_args, "per_class": per_class}
    beside = [name for name, value in given.items() if value is not None]
    if beside:
        msg = (
            f"selector={type(selector).__name__} beside {beside[0]}={given[beside[0]]!r} is not accepted: give one of "
            f"them (from the shell, --data.{beside[0]}=null clears it)."
        )
        raise ValueError(msg)
    return selector


def _load_entry_points() -> None:
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        if entry.name not in _SELECTORS:
            register(entry.name, entry.load())
