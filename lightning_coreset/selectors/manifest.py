"""The manifest of a coreset: what was run on what, in JSON types only."""

import hashlib
import importlib.metadata
import platform
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lightning_coreset.pool import Pool

if TYPE_CHECKING:
    from lightning_coreset.selectors.base import Selector

_FINGERPRINT_ROWS = 4_096


def build_manifest(
    selector: "Selector",
    pool: Pool,
    total: int,
    *,
    seed: int,
    per_class: bool,
    resolved: dict[str, Any],
    seconds: float,
) -> dict[str, Any]:
    """All that is needed to understand a coreset and to make it again."""
    return {
        "method": selector.name or type(selector).__qualname__,
        "arguments": {name: _plain(value) for name, value in selector.arguments.items()},
        "resolved": resolved,
        "seed": seed,
        "budget": total,
        "pool_size": pool.size,
        "pool_class_counts": None if pool.class_counts is None else pool.class_counts.tolist(),
        "per_class": per_class,
        "ranks": selector.ranks,
        "weight_scale": pool.size / total,
        "fingerprint": pool_fingerprint(pool),
        "versions": versions(),
        "seconds": round(seconds, 4),
        "peak_bytes": peak_bytes(),
    }


def merge_resolved(groups: dict[int, dict[str, Any]], num_classes: int | None) -> dict[str, Any]:
    """One list per name with an entry for each class (None: nothing was picked there); one entry without classes.

    The mode and its reason are one text where all classes ran in the same.
    """
    labels = range(num_classes) if num_classes is not None else list(groups)
    names = dict.fromkeys(name for found in groups.values() for name in found)
    merged: dict[str, Any] = {name: [groups.get(label, {}).get(name) for label in labels] for name in names}
    for name in ("mode", "mode_reason"):
        words = sorted({word for word in merged.get(name, []) if word is not None})
        if len(words) == 1:
            merged[name] = words[0]
    return merged


def pool_fingerprint(pool: Pool) -> str:
    """A key of the labels, the objects, and of up to 4,096 evenly spread rows of the features."""
    digest = hashlib.sha256(str(pool.size).encode())
    shown = () if pool.objects is None else (pool.objects.image, pool.objects.labels, pool.objects.boxes)
    for column in (pool.labels, pool.features, *shown):
        if column is None:
            digest.update(b"none")
            continue
        step = max(1, len(column) // _FINGERPRINT_ROWS)
        part = column if column.ndim == 1 else column[::step]
        digest.update(f"{column.dtype}{list(column.shape)}".encode())
        digest.update(_bytes(part))
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions of what decides the picks."""
    return {
        "lightning_coreset": importlib.metadata.version("lightning-coreset") if _is_installed() else "source",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def peak_bytes() -> int | None:
    """Largest memory this process has held: on the GPU where one was used, else in RAM; None where it is not told."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def _is_installed() -> bool:
    try:
        importlib.metadata.version("lightning-coreset")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _plain(value: Any) -> Any:
    """Numbers of numpy and torch as Python's, so that JSON takes them."""
    return value.item() if isinstance(value, np.generic | Tensor) and value.ndim == 0 else value


def _bytes(column: Tensor) -> bytes:
    return column.detach().cpu().contiguous().numpy().tobytes()
