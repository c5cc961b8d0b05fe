"""What a selection will take, before it starts: operations and memory by the formulas of each method."""

import logging
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from lightning_coreset.detection import Objects
from lightning_coreset.ops.facility_location import Plan
from lightning_coreset.ops.memory import resolve_memory_limit
from lightning_coreset.registry import build_selector

if TYPE_CHECKING:
    from lightning_coreset.selectors.base import Selector

_LOGGER = logging.getLogger("lightning_coreset")

_FLOAT, _LONG = 4, 8
# Host time of one step of a greedy loop, in which some ten small tensors are made.
_STEP_SECONDS = 1e-4
_PROBE_ROWS = 768
_BLOCK_VALUES = 2**25
_SCRATCH_ROWS = 64
_PART_ITEMS, _LARGEST_MERGE = 4_096, 24_576
_KEYED_ROWS = 4_096
_MOVED_ROWS = 8_192
# As in COCO, to whole numbers: objects of an image, pairs of them of one class, classes, share of the largest class.
_SHOWN_OBJECTS, _SHOWN_ALIKE, _SHOWN_CLASSES, _SHOWN_LARGEST = 7, 2, 80, 0.3


class Work(NamedTuple):
    """What one group takes.

    Attributes:
        operations: Floating-point operations of its products.
        bytes: Memory beside the group's own embeddings.
        steps: Steps of its greedy loop.
        mode: How it will run, where there is a choice.
    """

    operations: float
    bytes: int
    steps: int = 0
    mode: str | None = None


class Shown(NamedTuple):
    """What the images of a pool show, as far as time and memory go by it.

    Attributes:
        objects: ``M``.
        pairs: Of an image and a class that it shows.
        classes: ``C``.
        largest: Objects of the class with the most.

    Example:
        >>> Shown.of(Objects([0, 0, 2], [[0, 0, 5, 5]] * 3, [0, 0, 1], num_images=3))
        Shown(objects=3, pairs=2, classes=2, largest=2)
    """

    objects: int
    pairs: int
    classes: int
    largest: int

    @classmethod
    def of(cls, objects: Objects) -> "Shown":
        """Counted; O(M log M) time."""
        classes = max(1, objects.num_classes)
        pairs = len(torch.unique(objects.image * classes + objects.labels))
        most = int(torch.bincount(objects.labels, minlength=1).max())
        return cls(len(objects), pairs, classes, most)

    @classmethod
    def assumed(cls, images: int, objects: int | None = None, classes: int | None = None) -> "Shown":
        """What is not known is as in COCO: 7 objects an image, two of each class that it shows, 80 classes."""
        classes = classes or _SHOWN_CLASSES
        objects = _SHOWN_OBJECTS * images if objects is None else objects
        pairs = min(objects, classes * images, max(images, objects // _SHOWN_ALIKE))
        return cls(objects, pairs, classes, max(-(-objects // classes), int(_SHOWN_LARGEST * objects)))


class CostEstimate(NamedTuple):
    """What a selection will take.

    Attributes:
        seconds: Time of the selection, features at hand.
        peak_bytes: Largest memory at a time, embeddings of the pool included.
        extra_bytes: The part of it that comes on top of the embeddings.
        mode: How the largest group will run, where there is a choice.
    """

    seconds: float
    peak_bytes: int
    extra_bytes: int
    mode: str | None


def estimate_cost(
    method: str,
    n: int,
    d: int,
    k: int,
    *,
    num_classes: int | None = None,
    objects: int | None = None,
    ranks: int = 1,
    device: torch.device | str = "cpu",
    memory_limit: int | str = "auto",
    **method_args: Any,
) -> CostEstimate:
    """Time and memory of a selection before it starts.

    Memory follows from the formulas of the method; time from its operations and a product of 768 rows that is timed
    once in each process and device.

    Args:
        method: Name of a method.
        n: Items of the pool.
        d: Width of the embeddings; of those of objects for methods that compare objects.
        k: Number of picks.
        num_classes: Equal classes that share the picks; None is one group of all items. Methods that choose images by
            what they show never part a pool: for them these are the classes shown, None is 80.
        objects: What all images together show, for methods that look at it; None is 7 for each image.
        ranks: Ranks that share the classes.
        device: Where it will run.
        memory_limit: As for ``select``.
        **method_args: Arguments of the method.

    Raises:
        ValueError: An unknown method, or sizes that do not fit.
        TypeError: An argument that the method does not know.

    Example:
        >>> cost = estimate_cost("facility_location", 10_000, 64, 100, memory_limit=10**9)
        >>> cost.mode, cost.extra_bytes > 4 * 10_000**2
        ('dense', True)
    """
    selector = build_selector(method, method_args)
    selector.check()
    groups = num_classes or 1
    shows = 1 if objects is None else objects
    if min(n, d, k, groups, shows, ranks) < 1 or k > n or (groups > n and not selector.shows_classes):
        msg = (
            f"n={n}, d={d}, k={k}, num_classes={num_classes}, objects={objects}, ranks={ranks} are not accepted: give "
            "whole numbers of at least 1, with k and num_classes at most n."
        )
        raise ValueError(msg)
    limit = resolve_memory_limit(memory_limit, device)
    shown = Shown.assumed(n, objects, num_classes)
    if selector.shows_classes:
        groups = 1
    return _estimate(
        selector, selector.widened(n), d, k, groups=groups, ranks=ranks, device=device, limit=limit, shown=shown
    )


def log_estimate(
    selector: "Selector",
    n: int,
    d: int,
    k: int,
    *,
    groups: int,
    ranks: int,
    device: torch.device,
    limit: int,
    objects: Objects | None = None,
    classes: int | None = None,
) -> None:
    """Say what lies ahead, at the level of information."""
    # Asking takes a few products, which nobody should wait for who does not listen.
    if _LOGGER.isEnabledFor(logging.INFO):
        shown = Shown.assumed(n, None, classes) if objects is None else Shown.of(objects)
        cost = _estimate(selector, n, d, k, groups=groups, ranks=ranks, device=device, limit=limit, shown=shown)
        told = f" ({cost.mode})" if cost.mode else ""
        among = f", {shown.objects} objects" if "objects" in selector.needs else ""
        _LOGGER.info(
            "%s%s: %d of %d items%s in %d group(s), about %.1f s and %.0f MB beside the embeddings.",
            *(selector.name, told, k, n, among, groups, cost.seconds, cost.extra_bytes / 1e6),
        )


def _estimate(
    selector: "Selector",
    n: int,
    d: int,
    k: int,
    *,
    groups: int,
    ranks: int,
    device: torch.device | str,
    limit: int,
    shown: Shown,
) -> CostEstimate:
    size, count = -(-n // groups), max(1, round(k / groups))
    work = selector.work_shown(size, d, count, limit, shown)
    # Rows of one class are copied out of the pool's.
    copied = _FLOAT * size * d if groups > 1 else 0
    by_objects = "objects" in selector.needs
    extra = work.bytes + copied + _bookkeeping(n, 0 if by_objects else d, k)
    seconds = work.operations / _operations_a_second(str(device), torch.get_num_threads()) + work.steps * _STEP_SECONDS
    features = _FLOAT * n * d if "features" in selector.needs else 0
    if by_objects and getattr(selector, "embeds_objects", False):
        features = _FLOAT * shown.objects * d
    return CostEstimate(seconds * -(-groups // ranks), features + extra, extra, work.mode)


def greedy_work(size: int, width: int, count: int, *, copies: int = 1) -> Work:
    """One matrix-vector product for each pick over so many copies of the rows: graph cut, herding."""
    memory = copies * _FLOAT * size * width + _hashing(size, width) + 6 * _LONG * size
    # Products with vectors read all rows from memory each time, which takes some ten times as long as counting says.
    return Work(20.0 * count * size * width, memory, count)


def bins_work(size: int, width: int) -> Work:
    """Graph cuts until nothing is left: a product with a vector for each item over half of the rows on average."""
    block = _FLOAT * min(size, _MOVED_ROWS) * width
    return Work(10.0 * size * size * width, greedy_work(size, width, size).bytes + block, size)


def center_work(size: int, width: int, count: int) -> Work:
    """Distances to each pick of at most all rows; up to half of them are gathered first."""
    memory = 1.5 * _FLOAT * size * width + _FLOAT * count * width + 6 * _LONG * size
    return Work(20.0 * count * size * width, int(memory), count)


def _hashing(size: int, width: int) -> int:
    """Of looking for equal rows."""
    return _LONG * min(size, 2_048) * width


def neighbor_work(size: int, width: int, neighbors: int) -> Work:
    """Exact neighbour lists in a set order; counting the places of the largest values takes long whole numbers."""
    block = 8 * _FLOAT * size * min(256, max(_SCRATCH_ROWS, _BLOCK_VALUES // size))
    memory = 2 * _FLOAT * size * width + block + (_FLOAT + _LONG) * size * neighbors
    # Looking for the largest values reads each row of similarities some five times.
    return Work(5.5 * size * size * width, memory)


def gradient_work(size: int, width: int, count: int, *, copies: int) -> Work:
    """Products of last-layer gradients with a direction for each pick, with so many matrices of the inputs' size."""
    return Work(20.0 * size * width * count, copies * _FLOAT * size * width + 64 * size, count)


def clustering_work(size: int, width: int, clusters: int) -> Work:
    """Seeded centres and 25 rounds of k-means over unit rows."""
    block = 3 * _FLOAT * min(size, 4_096) * max(clusters, width)
    memory = _FLOAT * size * width + block + 2 * _FLOAT * clusters * width + 6 * _LONG * size
    return Work(54.0 * size * clusters * width, memory, clusters)


def facility_work(plan: Plan, size: int, width: int, count: int) -> Work:
    """Facility location in any mode, with who represents whom."""
    rows = _FLOAT * size * width
    product = 2.0 * size * size * width
    block = _FLOAT * size * min(256, max(_SCRATCH_ROWS, _BLOCK_VALUES // size), size)
    scratch = 2 * _FLOAT * _SCRATCH_ROWS * size + 10 * _LONG * size
    passes = 2 + int(count).bit_length()
    if plan.mode == "dense":
        return Work(
            0.6 * product + 4.0 * passes * size * size, rows + _FLOAT * size * size + block + scratch, count, "dense"
        )
    if plan.mode == "streamed":
        return Work(0.75 * passes * product, rows + 3 * block + scratch, count, "streamed")
    represent = 2.0 * size * count * width
    if plan.mode == "stochastic":
        return Work(2.5 * product + represent, rows + 3 * block + scratch, count, "stochastic")
    if plan.mode == "neighbours":
        edges = min(max(2 * size // count, 32), 128, size) + 1
        return Work(0.2 * product + represent, 2 * rows + 40 * size * edges + 3 * block, count, "neighbours")
    merged = min(_LARGEST_MERGE, 2 * count * max(1, size // 65_536))
    part = _FLOAT * _PART_ITEMS * min(size, _PART_ITEMS) + 3 * _FLOAT * min(size, 65_536) * width
    second = _FLOAT * merged * (merged + width) * (1 if merged > count else 0)
    operations = 2.0 * size * min(size, _PART_ITEMS) * width + 2.0 * merged * merged * width + represent
    return Work(operations, rows + max(part, second) + 3 * block, 2 * count, "partitioned")


def _bookkeeping(size: int, width: int, count: int) -> int:
    """Keys of some rows at a time, positions, masks, classes and columns of the answer."""
    return 2 * _FLOAT * min(size, _KEYED_ROWS) * width + 6 * _LONG * size + 8 * _LONG * count


@lru_cache
def _operations_a_second(device: str, threads: int) -> float:  # noqa: ARG001 (threads are a part of the key)
    """Of a float32 product, best of three."""
    rows = torch.ones(_PROBE_ROWS, _PROBE_ROWS, device=device)
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        float((rows @ rows)[0, 0])
        best = min(best, time.perf_counter() - started)
    return 2.0 * _PROBE_ROWS**3 / best
