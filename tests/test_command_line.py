"""``lightning-coreset``: what a shell sees."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lightning_coreset import Coreset, list_selectors, select
from lightning_coreset.active import LabelledPool
from lightning_coreset.cli import main
from tests.helpers.examples import clouds


@pytest.fixture
def embeddings(tmp_path: Path) -> Path:
    features, labels = clouds([20, 15, 5])
    np.save(tmp_path / "features.npy", features.numpy())
    np.save(tmp_path / "labels.npy", labels.numpy())
    return tmp_path / "features.npy"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    for place in range(12):
        path = folder / ("even" if place % 2 == 0 else "odd, or so") / f"image {place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 7), (place * 20, 255 - place * 20, place % 3 * 90)).save(path)
    (folder / "notes.txt").write_text("no image")
    return folder


def run(*arguments: Any) -> int:
    return main([str(argument) for argument in arguments])


def test_it_is_installed_as_a_command() -> None:
    command = [sys.executable, "-m", "lightning_coreset.cli", "list", "sub*"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "subzerocore\n", done.stderr


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list") == 0
    assert capsys.readouterr().out.split() == list_selectors()
    assert run("list", "grand", "--long") == 0
    assert "needs" in capsys.readouterr().out


def test_select_is_the_function(embeddings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "coreset.json"
    words = ["--labels", tmp_path / "labels.npy", "--method", "subzerocore", "--method-args", '{"coverage": 0.5}']
    assert run("select", embeddings, output, *words, "--budget", 6) == 0
    assert f"Written to {output}" in capsys.readouterr().out
    found = Coreset.load(output)
    features, labels = clouds([20, 15, 5])
    expected = select(features, labels, method="subzerocore", budget=6, coverage=0.5)
    assert found.indices.tolist() == expected.indices.tolist()


def test_report_and_compare(embeddings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for method in ("herding", "random"):
        words = ["--labels", tmp_path / "labels.npy", "--method", method, "--ratio", 0.25]
        run("select", embeddings, tmp_path / f"{method}.json", *words)
    capsys.readouterr()
    assert run("report", tmp_path / "herding.json") == 0
    told = capsys.readouterr().out
    assert "10 of 40" in told
    assert "class 0: " in told
    assert run("compare", tmp_path / "herding.json", tmp_path / "random.json") == 0
    one, other = (set(Coreset.load(tmp_path / f"{name}.json").indices.tolist()) for name in ("herding", "random"))
    assert f"shared: {len(one & other)} items" in capsys.readouterr().out


def test_labels_there_and_back(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "to_label"
    words = ["--images", images, "--features", "pixels", "--class-names", "cat,dog", "--formats", "csv"]
    assert run("label", "request", folder, *words, "--budget", 4, "--method", "k_center") == 0
    assert "Round 0: 4 of 12 items asked for" in capsys.readouterr().out
    asked = json.loads((folder / "round_0" / "request.json").read_text())["items"]
    assert all((images / item["id"]).exists() for item in asked)

    assert run("label", "request", folder, *words, "--budget", 4) == 2
    assert "4 items wait for their labels: take them in first" in capsys.readouterr().err

    filled = tmp_path / "filled.csv"
    rows = "".join(f'"{item["id"]}",dog,\n' for item in asked[:3]) + f'"{asked[3]["id"]}",,skip\nnobody,cat,\n'
    filled.write_text("id,label,status\n" + rows)
    assert run("label", "ingest", folder, filled) == 0
    assert "3 labelled, 1 skipped, 1 unmatched: 'nobody'" in capsys.readouterr().out

    assert run("label", "status", folder) == 0
    assert "3 of 12 items labelled (3 units), 0 pending, 1 skipped; round 0" in capsys.readouterr().out

    assert run("label", "request", folder, *words, "--budget", 5, "--method", "k_center") == 0
    pool = LabelledPool.opened(folder / "journal.jsonl")
    assert (pool.n_labelled, pool.n_pending, pool.round) == (3, 5, 1)
    capsys.readouterr()
    assert run("label", "status", folder, "--json") == 0
    assert json.loads(capsys.readouterr().out)["waiting"] == [{"round": 1, "pending": 5, "unit": "images"}]


def test_labels_of_embeddings_alone(embeddings: Path, tmp_path: Path) -> None:
    words = ["--features", embeddings, "--class-names", "a,b", "--budget", 3, "--formats", "csv"]
    assert run("label", "request", tmp_path / "files", *words) == 0
    assert LabelledPool.opened(tmp_path / "files" / "journal.jsonl").n_pending == 3


def test_the_demo_trains_on_a_tenth_of_real_digits(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("demo", "--steps", 30, "--seeds", 1) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert [(line[0], int(line[1])) for line in lines] == [("subzerocore", 135), ("random", 135), ("everything", 1347)]
    # Guessing is right for a tenth.
    assert all(20 < float(line[2]) <= 100 for line in lines)


def test_a_demo_without_digits_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert run("demo") == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "pip install lightning-coreset[test]" in told.err
    assert len(told.err.splitlines()) == 1


WRONG = {
    "no share": (["demo", "--ratio", 2], "ratio"),
    "no steps": (["demo", "--steps", 0], "steps=0 and seeds=3 are not accepted"),
    "no file": (["select", "missing.npy", "out.json", "--budget", 3], "'missing.npy' does not exist"),
    "no budget": (["select", "FEATURES", "out.json"], "Exactly one of ratio and budget is accepted"),
    "no method": (["select", "FEATURES", "out.json", "--budget", 3, "--method", "hearding"], "did you mean 'herding'"),
    "no suffix": (["select", "FEATURES", "out.txt", "--budget", 3], "change the suffix"),
    "no coreset": (["report", "FEATURES"], "change the suffix"),
    "no journal": (["label", "status", "nowhere"], "does not exist: give the journal"),
    "no request": (["label", "ingest", "nowhere", "filled.csv"], "does not exist: give the journal"),
    "no image": (
        ["label", "request", "files", "--images", "nowhere", "--class-names", "a", "--budget", 1],
        "No image lies below nowhere",
    ),
    "no training": (
        [
            "label",
            "request",
            "files",
            "--features",
            "FEATURES",
            "--class-names",
            "a",
            "--budget",
            1,
            "--method",
            "el2n",
        ],
        "it looks at training",
    ),
    "no format": (
        [
            "label",
            "request",
            "files",
            "--features",
            "FEATURES",
            "--class-names",
            "a",
            "--budget",
            1,
            "--formats",
            "xml",
        ],
        "is not accepted: give some of 'csv'",
    ),
}


@pytest.mark.parametrize(("words", "message"), WRONG.values(), ids=WRONG)
def test_what_went_wrong_is_one_line(
    embeddings: Path,
    tmp_path: Path,
    words: list[Any],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*(embeddings if word == "FEATURES" else word for word in words)) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
