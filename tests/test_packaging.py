"""What a stranger gets: extras and floors with their reasons, commands that exist, type hints that are shipped."""

import ast
import configparser
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import lightning_coreset

ROOT = Path(__file__).parents[1]
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PROJECT = tomllib.loads(PYPROJECT)["project"]
EXTRAS = PROJECT["optional-dependencies"]
# Where the name to import is not the name to install.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "faiss": "faiss-cpu",
    "huggingface_hub": "huggingface-hub",
    "open_clip": "open_clip_torch",
    "yaml": "pyyaml",
}


def name_of(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0]


def without_reason(text: str, requirements: list[str]) -> list[str]:
    """Requirements that have no comment of at least two words behind them on their line."""
    bare = []
    for requirement in requirements:
        behind = [line.split(f'"{requirement}"')[1] for line in text.splitlines() if f'"{requirement}"' in line]
        if not behind or any(len(rest.partition("#")[2].split()) < 2 for rest in behind):
            bare.append(requirement)
    return bare


def test_every_floor_has_its_reason() -> None:
    requirements = [*PROJECT["dependencies"], *(one for extra in EXTRAS.values() for one in extra)]
    assert without_reason(PYPROJECT, requirements) == []
    assert [one for one in requirements if ">=" not in one and "[" not in one] == []


@pytest.mark.parametrize(
    "line", ['"torch>=2.6",', '"torch>=2.6", #', '"torch>=2.6", # yes', '"numpy>=2.0", # a good reason']
)
def test_a_floor_without_reason_is_seen(line: str) -> None:
    assert without_reason(line, ["torch>=2.6"]) == ["torch>=2.6"]


def test_extras() -> None:
    assert set(EXTRAS) == {
        *("cpu", "gpu", "submodlib", "cli", "vlm", "detection", "plots", "wide", "oracles", "test", "docs", "all")
    }
    # Two faiss distributions overwrite each other.
    assert "gpu" not in re.split(r"[\[\],]", EXTRAS["all"][0])


def test_what_is_imported_is_required() -> None:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "lightning_coreset").rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    tops = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - {"lightning_coreset"}
    optional = {name_of(one) for extra in ("cpu", "cli", "vlm", "detection", "plots", "wide") for one in EXTRAS[extra]}
    required = {name_of(one) for one in PROJECT["dependencies"]}
    assert {"torch", "numpy"} <= tops
    assert {DISTRIBUTIONS.get(top, top) for top in tops} <= required | optional


def test_the_version_is_that_of_the_installed_distribution() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+)?", lightning_coreset.__version__)
    assert installed().version == lightning_coreset.__version__


def test_type_hints_are_shipped() -> None:
    assert (ROOT / "lightning_coreset" / "py.typed").is_file()
    shipped = {str(path) for path in installed().files or () if path.suffix != ".pyc"}
    if not any(path.startswith("lightning_coreset/") for path in shipped):
        pytest.skip("lightning-coreset is installed in editable form, which ships nothing")
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "lightning_coreset").rglob("*.py")}
    assert {"lightning_coreset/py.typed", *modules} <= shipped
    assert not {path for path in shipped if path.startswith(("tests", "examples", "benchmarks"))}


def installed() -> metadata.Distribution:
    try:
        return metadata.distribution("lightning-coreset")
    except metadata.PackageNotFoundError:
        pytest.skip("lightning-coreset is not installed, only on the path")


@pytest.mark.parametrize("mark", ["demo-command", "test-command"])
def test_commands_of_the_readme_name_environments_that_exist(mark: str) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(rf"^<!-- {mark} -->\n```bash\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    assert block is not None, f"README.md has no fenced bash block below <!-- {mark} -->"
    named = re.fullmatch(r"pip install tox-uv && tox run -e ([\w,-]+)\n", block[1])
    assert named is not None, f"this is not the form of command that .ci/run expects: {block[1]}"
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini", encoding="utf-8")
    listed = re.split(r"[,\s]+", tox["tox"]["env_list"])
    existing = {section.removeprefix("testenv:") for section in tox.sections()} | {"py"}
    assert set(named[1].split(",")) <= existing
    assert set(listed) <= existing
    if mark == "test-command":
        assert named[1].split(",") == listed
