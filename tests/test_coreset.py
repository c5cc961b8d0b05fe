"""The answer: files that come back bit for bit, prefixes, and what a damaged file says."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_coreset import Coreset, CoresetError, select
from tests.helpers.examples import METHODS, budget_free_arguments, clouds, pool_of

SUFFIXES = (".json", ".csv", ".npz")


@pytest.fixture(scope="module")
def coreset() -> Coreset:
    """A coreset with every column: weights, gains, labels, assignment, and details with text and gaps."""
    features, labels = clouds([30, 20, 25])
    found = select(features, labels, method="facility_location", budget=12)
    details = {"cluster": list(range(12)), "note": ['ünïcode, "quoted"\n,;', None] * 6, "units": [0.1] * 12}
    return dataclasses.replace(found, details=details)


def assert_same(first: Coreset, second: Coreset) -> None:
    """The same bits, types and words."""
    for name in ("indices", "weights", "gains", "labels", "assignment"):
        one, other = getattr(first, name), getattr(second, name)
        assert (one is None) == (other is None), name
        if one is not None:
            assert one.dtype == other.dtype, name
            assert torch.equal(one, other), name
    assert first.details == second.details
    assert first.manifest == second.manifest


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore:SubZeroCore looks at")
def test_what_is_saved_is_loaded_bit_for_bit(method: str, suffix: str, tmp_path: Path) -> None:
    features, labels = clouds([30, 20, 25])
    found = select(pool_of(method, features, labels), method=method, budget=12)
    path = tmp_path / f"coreset{suffix}"
    found.save(path)
    assert_same(Coreset.load(path), found)


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".JSON"])
def test_all_columns_survive(coreset: Coreset, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / "new" / f"coreset{suffix}"
    coreset.save(str(path))
    assert_same(Coreset.load(str(path)), coreset)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_coreset_of_indices_alone_survives(suffix: str, tmp_path: Path) -> None:
    smallest = Coreset(torch.tensor([3]), torch.tensor([1.0]))
    smallest.save(tmp_path / f"a{suffix}")
    assert_same(Coreset.load(tmp_path / f"a{suffix}"), smallest)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_extreme_floats_survive(suffix: str, tmp_path: Path) -> None:
    gains = torch.tensor([1e-45, 3.4028235e38, -0.0, 0.1, 1 / 3])
    extreme = Coreset(torch.arange(5), torch.ones(5), gains=gains)
    extreme.save(tmp_path / f"a{suffix}")
    loaded = Coreset.load(tmp_path / f"a{suffix}").gains
    assert loaded is not None
    assert loaded.numpy().tobytes() == gains.numpy().tobytes()


def test_a_url_is_a_path_too(coreset: Coreset) -> None:
    coreset.save("memory://coreset-tests/a.json")
    assert_same(Coreset.load("memory://coreset-tests/a.json"), coreset)


@pytest.mark.parametrize("path", ["a.pt", "a", "a.json.gz", "json"])
def test_another_suffix_is_refused(coreset: Coreset, path: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"stored as .json, .csv, .npz, got .*change the suffix"):
        coreset.save(tmp_path / path)
    with pytest.raises(ValueError, match="change the suffix"):
        Coreset.load(tmp_path / path)
    assert not list(tmp_path.iterdir())


def test_a_missing_file_is_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Coreset.load(tmp_path / "a.json")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_truncated_file_is_told(coreset: Coreset, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    coreset.save(path)
    whole = path.read_bytes()
    ends = {0, 1, len(whole) // 2, len(whole) - 20, len(whole) - 2, *range(3, len(whole) - 1, max(1, len(whole) // 60))}
    for end in sorted(ends):
        path.write_bytes(whole[:end])
        with pytest.raises(CoresetError, match="is not a coreset or is damaged"):
            Coreset.load(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("flip", [0x01, 0x20, 0x80, 0xFF])
def test_one_flipped_byte_is_told_or_changes_nothing(coreset: Coreset, suffix: str, flip: int, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    coreset.save(path)
    whole = path.read_bytes()
    told = 0
    places = range(0, len(whole), max(1, len(whole) // 200))
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :])
        try:
            loaded = Coreset.load(path)
        except CoresetError as error:
            told += "\n" not in str(error)
        else:
            assert_same(loaded, coreset)
    # A fifth of a small zip file, such as times of writing, says nothing of its content; in text 1e-05 may turn 1E-05.
    assert told > (0.7 if suffix == ".npz" else 0.95) * len(places)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_edited_index_is_told(coreset: Coreset, suffix: str, tmp_path: Path) -> None:
    if suffix == ".npz":
        coreset.save(tmp_path / "a.npz")
        with np.load(tmp_path / "a.npz") as arrays:
            columns = dict(arrays)
        columns["indices"][0] += 1
        np.savez(tmp_path / "a.npz", **columns)
    elif suffix == ".json":
        coreset.save(tmp_path / "a.json")
        content = json.loads((tmp_path / "a.json").read_text())
        content["indices"][0] += 1
        (tmp_path / "a.json").write_text(json.dumps(content))
    else:
        coreset.save(tmp_path / "a.csv")
        comment, header, *rows = (tmp_path / "a.csv").read_text().splitlines()
        (tmp_path / "a.csv").write_text("\n".join([comment, header, rows[1], rows[0], *rows[2:]]))
    with pytest.raises(CoresetError, match="checksum does not fit"):
        Coreset.load(tmp_path / f"a{suffix}")


FOREIGN: dict[str, Callable[[Path], object]] = {
    ".json": lambda path: path.write_text('{"indices": [1, 2], "weights": [1.0, 1.0]}'),
    ".csv": lambda path: path.write_text("indices,weights\n1,1.0\n"),
    ".npz": lambda path: np.savez(path, indices=np.arange(3), weights=np.ones(3)),
}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_foreign_file_is_told(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    FOREIGN[suffix](path)
    with pytest.raises(CoresetError, match=r"is not a coreset or is damaged .*write it again with Coreset.save"):
        Coreset.load(path)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"null", b"3", b"\xff\xfe", b"# \n", b"# []\na\n", b"PK\x03\x04", b"[" * 100_000]
)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_nonsense_is_told(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(CoresetError, match="is not a coreset or is damaged"):
        Coreset.load(path)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, head=np.array([{"format": "lightning_coreset.Coreset/1"}], dtype=object))
    with pytest.raises(CoresetError, match=r"allow_pickle=False"):
        Coreset.load(path)


@pytest.mark.parametrize("method", ["facility_location", "subzerocore", "herding", "random"])
@pytest.mark.filterwarnings("ignore:SubZeroCore looks at")
def test_head_is_the_first_picks_with_weights_of_mean_one(method: str) -> None:
    features, labels = clouds([30, 20, 25])
    whole = select(features, labels, method=method, budget=12, **budget_free_arguments(method))
    for count in (1, 5, 12):
        head = whole.head(count)
        assert len(head) == count
        assert torch.equal(head.indices, whole.indices[:count])
        assert head.labels is not None
        assert whole.labels is not None
        assert torch.equal(head.labels, whole.labels[:count])
        assert (head.gains is None) == (whole.gains is None)
        assert head.gains is None or torch.equal(head.gains, whole.gains[:count])  # type: ignore[index]
        assert head.assignment is None
        assert head.weights.mean().item() == pytest.approx(1, abs=1e-6)
        ratio = head.weights / whole.weights[:count]
        assert torch.allclose(ratio, ratio[0].expand(count))
        assert head.manifest == whole.manifest | {"budget": count, "weight_scale": 75 / count}


def test_head_cuts_every_detail(coreset: Coreset) -> None:
    assert coreset.head(3).details == {name: column[:3] for name, column in coreset.details.items()}


def test_head_of_picks_that_represent_nothing_weighs_them_alike() -> None:
    whole = Coreset(torch.arange(3), torch.tensor([0.0, 0.0, 3.0]), manifest={"ranks": True})
    assert whole.head(2).weights.tolist() == [1.0, 1.0]


def test_head_does_not_touch_the_whole(coreset: Coreset) -> None:
    before = dict(coreset.manifest)
    coreset.head(2)
    assert coreset.manifest == before
    assert len(coreset) == 12


@pytest.mark.parametrize("count", [0, -1, 13])
def test_head_out_of_range(coreset: Coreset, count: int) -> None:
    with pytest.raises(ValueError, match=rf"head\({count}\) of a coreset of 12 .* give 1 to 12"):
        coreset.head(count)


@pytest.mark.parametrize(("method", "arguments"), [("typiclust", {}), ("prototypes", {"clusters": "budget"})])
def test_head_of_a_method_that_does_not_rank(method: str, arguments: dict[str, str]) -> None:
    features, labels = clouds([30, 20])
    found = select(features, labels, method=method, budget=6, **arguments)
    with pytest.raises(CoresetError, match=rf"picks of '{method}' are not ranked.*select again with budget=3"):
        found.head(3)


def test_class_counts_have_an_entry_for_each_class_of_the_pool() -> None:
    features, labels = clouds([30, 20, 25])
    found = select(features, labels, method="herding", budget=2)
    assert found.class_counts is not None
    assert found.class_counts.tolist() == [1, 0, 1]
    assert select(features, method="herding", budget=2).class_counts is None


def test_a_coreset_cannot_be_changed(coreset: Coreset) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        coreset.indices = torch.tensor([0])  # type: ignore[misc]
