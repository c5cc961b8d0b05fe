"""Which class an id or a name means: one mapping for all forms of targets and proposals."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lightning_coreset.detection.objects import Objects

#: Names in the order of classes, or names by category id, or None: ids are classes.
ClassNames = Sequence[str] | Mapping[int, str] | None
_BY_ID = "give class_names={id: name} with every id that occurs"


def classes_of_names(names: Sequence[str], class_names: ClassNames) -> tuple[list[int], list[str]]:
    """Classes of names, and the names of all classes; without a list those found, in alphabetical order.

    Raises:
        ValueError: A name that is not listed.

    Example:
        >>> classes_of_names(["cat", "ant"], None)
        ([1, 0], ['ant', 'cat'])
    """
    listed = sorted(set(names)) if class_names is None else names_in_order(class_names)
    place = {name: position for position, name in enumerate(listed)}
    unknown = next((name for name in names if name not in place), None)
    if unknown is not None:
        raise ValueError(_unknown(unknown, listed, "a target"))
    return [place[name] for name in names], listed


def classes_of_ids(ids: Tensor, class_names: ClassNames, *, categories: bool) -> tuple[Tensor, list[str] | None]:
    """Classes of ids ``[M]``, and the names of all classes where there are any.

    Args:
        ids: Category ids or class numbers.
        class_names: A list for class numbers 0 to C-1; a mapping by id where ids begin elsewhere or have gaps.
        categories: Whether the ids are COCO's, which begin at 1 more often than not: with a list they must tell
            themselves which of its names they mean.

    Raises:
        ValueError: An id without a name, or ids that a list leaves open.

    Example:
        >>> classes_of_ids(torch.tensor([7, 3]), {3: "cat", 7: "dog"}, categories=True)
        (tensor([1, 0]), ['cat', 'dog'])
    """
    ids = ids.to(torch.int64)
    if class_names is None:
        return ids, None
    known: Sequence[int] = sorted(class_names) if isinstance(class_names, Mapping) else range(len(class_names))
    names = names_in_order(class_names)
    if categories and not isinstance(class_names, Mapping):
        known = _categories_of_list(torch.unique(ids).tolist(), names)
    place = {category: position for position, category in enumerate(known)}
    unknown = next((number for number in ids.tolist() if number not in place), None)
    if unknown is not None:
        shown = f"{min(place)} to {max(place)}" if place else "none"
        msg = (
            f"label {unknown} is beyond the class list ({len(names)} classes, ids {shown}): {_BY_ID}, or mend the "
            "labels."
        )
        raise ValueError(msg)
    return torch.tensor([place[number] for number in ids.tolist()], dtype=torch.int64), names


def with_classes(objects: Objects, class_names: Sequence[str]) -> Objects:
    """The objects of some classes, numbered by another list of names; others are left out.

    Args:
        objects: Objects with class names.
        class_names: The classes that count, in their order.

    Raises:
        ValueError: A name that the objects' class list lacks.

    Example:
        >>> objects = Objects([0, 0], [[0, 0, 1, 1]] * 2, [0, 1], num_images=1, class_names=["ant", "bee"])
        >>> with_classes(objects, ["bee"]).labels.tolist()
        [0]
    """
    if objects.class_names is None:
        msg = "objects have no class names, so classes cannot be matched by name: give Objects(class_names=...)."
        raise ValueError(msg)
    place = torch.full((objects.num_classes + 1,), -1, dtype=torch.int64)
    for position, name in enumerate(class_names):
        if name not in objects.class_names:
            raise ValueError(_unknown(name, objects.class_names, "class_names"))
        place[list(objects.class_names).index(name)] = position
    labels = place[objects.labels]
    kept = objects.where(labels >= 0)
    return replace(kept, labels=labels[labels >= 0], class_names=list(class_names))


def names_in_order(class_names: Sequence[str] | Mapping[int, str]) -> list[str]:
    """Names of classes 0 to C-1.

    Raises:
        ValueError: A name that stands twice.
    """
    ordered = class_names
    if isinstance(class_names, Mapping):
        ordered = [class_names[category] for category in sorted(class_names)]
    names = [str(name) for name in ordered]
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        msg = f"class_names hold {twice!r} twice: give every class a name of its own."
        raise ValueError(msg)
    return names


def _categories_of_list(found: Sequence[int], names: Sequence[str]) -> Sequence[int]:
    """The category ids that a list of names stands for; a guess would be a silent shift by one."""
    if len(found) == len(names):
        return found
    if not found or (0 in found and max(found) < len(names)):
        return range(len(names))
    if max(found) == len(names):
        return range(1, len(names) + 1)
    msg = (
        f"COCO category ids {', '.join(map(str, found[:5]))}{', ...' * (len(found) > 5)} do not tell which of the "
        f"{len(names)} class_names they mean: {_BY_ID}."
    )
    raise ValueError(msg)


def _unknown(name: str, known: Sequence[str], where: str) -> str:
    close = difflib.get_close_matches(name, known, n=3) or list(known)[:5]
    return (
        f"{where} names the class {name!r}, which is not among the {len(known)} known ones: did you mean "
        f"{' or '.join(map(repr, close))}? Correct the name or the class list."
    )
