"""The page on scale holds what its model says."""

from pathlib import Path

import pytest

from benchmarks.scale_model import tables

PAGE = (Path(__file__).parents[1] / "docs" / "scale.md").read_text(encoding="utf-8")
TABLES = tables()


def test_the_page_has_a_place_for_each_table() -> None:
    marked = [line for line in PAGE.splitlines() if line.startswith("<!-- table: ")]
    assert marked == [f"<!-- table: {name} -->" for name in TABLES]


@pytest.mark.parametrize("name", TABLES)
def test_the_page_holds_what_the_model_says(name: str) -> None:
    below = PAGE.split(f"<!-- table: {name} -->\n\n")[1].split("\n\n")[0]
    assert below == TABLES[name], "python -m benchmarks.scale_model prints what belongs here"
