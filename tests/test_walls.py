"""The walls of the house: which room may import which, who may speak Lightning, and what the bare package needs.

A room is a module or folder directly in the package. Imports for type checking only are free: they cannot make a cycle.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "lightning_coreset"
ROOT = Path(__file__).parents[1] / PACKAGE
LONGEST_MODULE = 450

LEAVES = ("errors", "storage", "budget", "pool", "coreset", "registry")
# A room imports leaves and what stands on its left; only rooms in one bracket of SHARED also see each other.
STOREYS = (
    ("ops",),
    ("distributed",),
    ("data",),
    ("features",),
    # Above features, because a proxy run trains a small network on images or embeddings.
    ("signals",),
    ("selectors", "augmentation", "detection"),
    ("api", "compat", "pool_objects"),
    ("selection", "recording", "wrapping"),
    ("reselection",),
    ("datamodule",),
    ("active",),
    ("callbacks",),
    ("demo",),
    ("cli",),
)
SHARED = ("selectors", "augmentation", "detection")
# Rooms that see less than their place would allow.
NARROW = {
    "ops": ("errors",),
    "distributed": ("errors", "ops"),
    "regions": ("errors", "ops"),
    "reports": ("errors", "coreset"),
}
LIGHTNING_ROOMS = (
    *("datamodule", "callbacks", "active", "cli", "compat", "demo", "features.extraction", "recording", "reports"),
    "wrapping",
)
EXTRAS = {
    *("apricot", "coreax", "faiss", "faster_coco_eval", "fpsample", "hypothesis", "jax", "jsonargparse", "matplotlib"),
    *("open_clip", "pytest", "rasterio", "skactiveml", "sklearn", "submodlib", "tifffile", "transformers"),
}


def may_import(room: str) -> set[str]:
    """The rooms of the package that a room may import."""
    if room in NARROW:
        return set(NARROW[room])
    if room in LEAVES:
        return set(LEAVES)
    place = next(place for place, storey in enumerate(STOREYS) if room in storey)
    allowed = {*LEAVES, *(left for storey in STOREYS[:place] for left in storey)}
    if room in ("callbacks", "active", "cli"):
        allowed |= {"regions", "reports"}
    return allowed | set(SHARED) if room in SHARED else allowed


def imports(tree: ast.Module) -> Iterator[tuple[str, bool]]:
    """Every imported name with its dots, and whether importing the module imports it too."""

    def walk(node: ast.AST, at_import: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                yield from ((alias.name, at_import) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                start = "." * child.level + (child.module or "")
                yield from ((f"{start}.{alias.name}", at_import) for alias in child.names)
            else:
                inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from walk(child, at_import and not inside)

    return walk(tree, True)


def is_part(name: str, whole: str) -> bool:
    return name == whole or name.startswith(f"{whole}.")


def breaches(module: str, source: str) -> list[str]:
    """What a module does that the walls forbid; its name is relative to the package, such as ``ops.rows``."""
    room = module.split(".")[0]
    found = []
    if len(source.splitlines()) > LONGEST_MODULE:
        found.append(f"{module} has {len(source.splitlines())} lines, more than {LONGEST_MODULE}")
    for name, at_import in imports(ast.parse(source)):
        top = name.split(".")[0]
        if name.startswith("."):
            found.append(f"{module} imports {name}: write the absolute name")
        elif top == "pytorch_lightning":
            found.append(f"{module} imports {name}: its classes are not those of lightning.pytorch")
        elif top == "lightning" and not any(is_part(module, free) for free in LIGHTNING_ROOMS):
            found.append(f"{module} imports {name}: only {', '.join(LIGHTNING_ROOMS)} speak Lightning")
        elif is_part(name, "torch.distributed") and room != "distributed":
            found.append(f"{module} imports {name}: only distributed speaks to process groups")
        elif at_import and top in EXTRAS:
            found.append(f"{module} imports {name} on import, but the base does not bring it")
        elif top == PACKAGE and room != "__init__":
            target = name.split(".")[1] if "." in name else "the package itself"
            if target != room and target not in may_import(room):
                found.append(f"{module} imports {target}: {room} sees {', '.join(sorted(may_import(room)))}")
    return found


def modules() -> dict[str, Path]:
    """The modules of the package by their name relative to it; a folder goes by the name of the folder."""
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sorted(ROOT.rglob("*.py"))}
    return {name.removesuffix(".__init__"): path for path, name in names.items()}


@pytest.mark.parametrize(("module", "path"), modules().items(), ids=modules())
def test_walls(module: str, path: Path) -> None:
    assert breaches(module, path.read_text(encoding="utf-8")) == []


def test_every_room_has_its_place() -> None:
    known = {"__init__", *LEAVES, *NARROW, *(room for storey in STOREYS for room in storey)}
    assert {module.split(".")[0] for module in modules()} <= known


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("ops.rows", "from lightning_coreset.selectors import Random"),
        ("ops.rows", "from lightning_coreset import select"),
        ("ops.rows", "import lightning_coreset.pool"),
        ("ops.rows", "from torch import distributed"),
        ("ops.rows", "import torch.distributed as dist"),
        ("distributed.gather", "from lightning_coreset.data.cache import EmbeddingCache"),
        ("data.cache", "def late():\n    from lightning_coreset.features import FeatureExtractor"),
        ("features.pixels", "from lightning_coreset.signals import Signals"),
        ("features.pixels", "import lightning.pytorch as pl"),
        ("selectors.random", "from lightning.pytorch.utilities.seed import isolate_rng"),
        ("pool", "from lightning_coreset.ops import kmeans"),
        ("regions.search", "from lightning_coreset.data import read_labels"),
        ("reports.table", "from lightning_coreset.pool import Pool"),
        ("datamodule", "from lightning_coreset.callbacks import CoresetReport"),
        ("datamodule", "from pytorch_lightning import LightningDataModule"),
        ("selectors.random", "from .base import Selector"),
        ("ops.kmeans", "import faiss"),
        ("ops.kmeans", "try:\n    import faiss\nexcept ImportError:\n    pass"),
        ("reports.plot", "class Plot:\n    from matplotlib import pyplot"),
        ("data.views", "\n" * (LONGEST_MODULE + 1)),
    ],
)
def test_a_breach_is_seen(module: str, source: str) -> None:
    assert len(breaches(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("ops.kmeans", "def search():\n    import faiss"),
        ("ops.rows", "from lightning_coreset.ops.random import seeded_generator\nimport torch"),
        ("distributed.gather", "import torch.distributed as dist"),
        ("features.extraction", "from lightning.pytorch import LightningDataModule"),
        (
            "registry",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from lightning_coreset.selectors import Random",
        ),
        ("augmentation.masks", "from lightning_coreset.selectors import Selector"),
        ("cli", "from lightning_coreset.reports import table\nfrom lightning_coreset.api import select"),
        ("data.views", "\n" * LONGEST_MODULE),
    ],
)
def test_what_is_allowed_passes(module: str, source: str) -> None:
    assert breaches(module, source) == []


_WITHOUT_EXTRAS = """
import importlib.machinery, importlib.metadata, sys
extras = set(sys.argv[1].split())
finder = importlib.machinery.PathFinder
find_spec = finder.find_spec
finder.find_spec = lambda name, *rest, **named: (
    None if name.split(".")[0] in extras else find_spec(name, *rest, **named)
)
# Some libraries of the base ask for versions before they import what they could do without.
distribution = importlib.metadata.Distribution.from_name.__func__
def from_name(cls, name):
    if name.lower().replace("-", "_") in extras:
        raise importlib.metadata.PackageNotFoundError(name)
    return distribution(cls, name)
importlib.metadata.Distribution.from_name = classmethod(from_name)
import lightning_coreset
for method in ("subzerocore", "prototypes"):
    lightning_coreset.select([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], method=method, budget=2)
"""


def test_the_package_works_without_any_extra() -> None:
    command = [sys.executable, "-W", "ignore", "-c", _WITHOUT_EXTRAS, " ".join(EXTRAS)]
    done = subprocess.run(command, cwd=ROOT.parent, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
