"""Whether faiss is there, and whether it is there in one piece."""

import importlib.util
from importlib.metadata import PackageNotFoundError, distribution
from types import ModuleType

from lightning_coreset.errors import CoresetError

DISTRIBUTIONS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs", "faiss-gpu-cu12", "faiss-gpu-cu11")


def load_faiss() -> ModuleType | None:
    """The faiss module, or None where it is not installed.

    Raises:
        CoresetError: Two distributions of faiss at once. They share one import name, and the later one silently takes
            the GPU classes of the earlier one away.
    """
    installed = [name for name in DISTRIBUTIONS if _is_installed(name)]
    if len(installed) > 1:
        msg = (
            f"{' and '.join(installed)} are installed at once and overwrite each other; one faiss is accepted: run "
            f"`pip uninstall -y {' '.join(installed)}`, then `pip install faiss-gpu` or `pip install faiss-cpu`."
        )
        raise CoresetError(msg)
    if importlib.util.find_spec("faiss") is None:
        return None
    import faiss

    if any("gpu" in name for name in installed) and not hasattr(faiss, "StandardGpuResources"):
        msg = (
            f"{installed[0]} is installed but its GPU classes are gone (another faiss was installed over it): run "
            f"`pip uninstall -y {' '.join(DISTRIBUTIONS)}`, then `pip install faiss-gpu`."
        )
        raise CoresetError(msg)
    module: ModuleType = faiss
    return module


def has_gpus(faiss: ModuleType) -> bool:
    """Whether this faiss can use a GPU here."""
    return hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
