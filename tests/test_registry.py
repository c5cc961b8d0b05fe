"""Names of methods, and the classes behind them."""

import subprocess
import sys
from pathlib import Path

import pytest

from lightning_coreset import FacilityLocation, Selector, SubZeroCore, list_selectors, registry
from lightning_coreset.registry import build_selector, register, selector_class
from lightning_coreset.selectors.group import Group, Picks
from tests.helpers.examples import METHODS


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> dict[str, type[Selector]]:
    """The registry as it was, whatever a test adds to it."""
    selectors = dict(registry._SELECTORS)
    monkeypatch.setattr(registry, "_SELECTORS", selectors)
    return selectors


def test_every_method_of_this_stage_is_listed_in_alphabetical_order() -> None:
    listed = list_selectors()
    assert listed == sorted(listed)
    assert set(METHODS) <= set(listed)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*core", ["subzerocore", "zcore"]),
        ("*core*", ["subzerocore", "zcore"]),
        ("k_*", ["k_center"]),
        ("h?rding", ["herding"]),
        ("nothing*", []),
    ],
)
def test_listing_by_wildcard(pattern: str, found: list[str]) -> None:
    assert list_selectors(pattern) == found


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("subzerocor", "subzerocore"),
        ("SubZeroCore", "subzerocore"),
        ("kcenter", "k_center"),
        ("facility", "facility_location"),
    ],
)
def test_an_unknown_method_names_the_closest(typo: str, meant: str) -> None:
    with pytest.raises(
        ValueError, match=rf"^Unknown method '{typo}'; accepted are .*did you mean .*'{meant}'"
    ) as raised:
        selector_class(typo)
    assert "\n" not in str(raised.value)


def test_an_unknown_method_unlike_any_other_lists_all() -> None:
    with pytest.raises(ValueError, match=r"accepted are .*subzerocore.*: see list_selectors"):
        selector_class("zzzzqqqq")


def test_an_unknown_argument_lists_the_accepted_ones() -> None:
    with pytest.raises(
        TypeError, match=r"'subzerocore' got the unknown argument 'gamma'; accepted are .*coverage, neighbors.*"
    ):
        build_selector("subzerocore", {"gamma": 0.6})
    with pytest.raises(TypeError, match=r"'random' got the unknown argument 'mode'; accepted are per_class"):
        build_selector("random", {"mode": "dense"})


def test_arguments_reach_the_constructor() -> None:
    selector = build_selector("subzerocore", {"coverage": 0.8, "per_class": False})
    assert isinstance(selector, SubZeroCore)
    assert (selector.coverage, selector.per_class) == (0.8, False)


@pytest.mark.usefixtures("own_registry")
def test_a_subclass_with_a_name_is_registered() -> None:
    class Last(Selector, name="last"):
        def select_group(self, group: Group) -> Picks:
            raise NotImplementedError

    assert selector_class("last") is Last
    assert "last" in list_selectors()


@pytest.mark.usefixtures("own_registry")
def test_a_name_taken_twice_gives_a_warning() -> None:
    with pytest.warns(UserWarning, match="'herding' was Herding and is now FacilityLocation"):
        register("herding", FacilityLocation)
    assert selector_class("herding") is FacilityLocation


def test_a_selector_of_another_distribution_is_found_by_its_entry_point(tmp_path: Path) -> None:
    (tmp_path / "first_plugin.py").write_text(
        "import torch\n"
        "from lightning_coreset import Selector\n"
        "from lightning_coreset.selectors.group import Picks\n"
        "class First(Selector, name='first'):\n"
        "    def select_group(self, group):\n"
        "        return Picks(torch.nonzero(group.candidates).flatten()[: group.count])\n"
    )
    metadata = tmp_path / "first_plugin-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: first-plugin\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[lightning_coreset.selectors]\nfirst = first_plugin:First\n")
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import warnings; warnings.filterwarnings('error', 'The method')\n"
        "import torch, lightning_coreset as lc\n"
        "assert 'first' in lc.list_selectors()\n"
        "print(lc.select(torch.eye(4), method='first', budget=2, forbidden=[0]).indices.tolist())\n"
    )
    root = Path(registry.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[1, 2]"
