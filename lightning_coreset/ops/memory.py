"""How much memory a kernel may use."""

import os
from pathlib import Path

import torch


def available_bytes(device: torch.device | str = "cpu") -> int:
    """Bytes that are free now on a device (CPU: what the system says can be had without swapping)."""
    device = torch.device(device)
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return 4 * 1024**3


def resolve_memory_limit(limit: int | str | None, device: torch.device | str = "cpu") -> int:
    """A limit in bytes; ``"auto"`` and None mean half of what is free.

    Raises:
        ValueError: Neither ``"auto"`` nor a positive number of bytes.

    Example:
        >>> resolve_memory_limit(1_000_000)
        1000000
    """
    if limit is None or limit == "auto":
        return available_bytes(device) // 2
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        msg = (
            f"memory_limit={limit!r} is not accepted: give a positive number of bytes, or 'auto' for half of what "
            "is free."
        )
        raise ValueError(msg)
    return limit
