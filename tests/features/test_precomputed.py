"""Embeddings that are there already: whole files are read, all others are told apart in one line."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lightning_coreset.features import PrecomputedFeatures

ROWS = torch.rand(6, 4, generator=torch.Generator().manual_seed(0))


def write_npy(path: Path, rows: Tensor) -> None:
    np.save(path, rows.numpy())


def write_npz(path: Path, rows: Tensor) -> None:
    np.savez(path, features=rows.numpy(), labels=np.arange(len(rows)))


def write_safetensors(path: Path, rows: Tensor) -> None:
    save_file({"embeddings": rows, "labels": torch.arange(len(rows))}, path)


WRITERS: dict[str, Callable[[Path, Tensor], None]] = {
    ".npy": write_npy,
    ".npz": write_npz,
    ".safetensors": write_safetensors,
}


@pytest.fixture(params=WRITERS)
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"rows{request.param}"
    WRITERS[request.param](path, ROWS)
    return path


def one_line(raised: pytest.ExceptionInfo[ValueError]) -> str:
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_files_hold_the_same_as_a_tensor(file: Path) -> None:
    for given in (file, str(file)):
        found = PrecomputedFeatures(given)
        assert torch.equal(found.matrix(6), ROWS)
        assert found.key == PrecomputedFeatures(ROWS).key
        assert found.key != PrecomputedFeatures(ROWS + 1).key


@pytest.mark.parametrize("given", [ROWS.double(), ROWS.numpy(), ROWS.clone().requires_grad_()], ids=str)
def test_tensors_and_arrays_of_any_kind(given: Any) -> None:
    rows = PrecomputedFeatures(given).matrix(6)
    assert (rows.dtype, rows.requires_grad) == (torch.float32, False)
    assert torch.equal(rows, ROWS)


def test_a_file_of_one_array_needs_no_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", whatever=ROWS.numpy())
    assert torch.equal(PrecomputedFeatures(tmp_path / "rows.npz").matrix(6), ROWS)


def test_several_arrays_none_of_them_named_features(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", a=ROWS.numpy(), b=ROWS.numpy())
    with pytest.raises(ValueError, match=r"holds 2 arrays \(a, b\): name the embeddings 'features', or keep one"):
        PrecomputedFeatures(tmp_path / "rows.npz").matrix(6)


def test_files_are_read_on_first_use_only(tmp_path: Path) -> None:
    found = PrecomputedFeatures(tmp_path / "later.npy")
    write_npy(tmp_path / "later.npy", ROWS)
    assert torch.equal(found.matrix(6), ROWS)
    (tmp_path / "later.npy").unlink()
    assert torch.equal(found.matrix(6), ROWS)


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_file_that_is_not_there(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(ValueError, match="does not exist: give the path of a .npy, .npz, .safetensors file"):
        PrecomputedFeatures(tmp_path / f"none{suffix}").matrix(6)


def test_a_file_cut_anywhere_is_refused(file: Path) -> None:
    whole = file.read_bytes()
    for size in range(0, len(whole), 7):
        file.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"cannot be read \(.*write it again") as raised:
            PrecomputedFeatures(file).matrix(6)
        one_line(raised)


@pytest.mark.parametrize("suffix", WRITERS)
def test_pickled_objects_are_never_loaded(tmp_path: Path, suffix: str) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "exploded",))

    path = tmp_path / f"rows{suffix}"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="no pickled objects"):
        PrecomputedFeatures(path).matrix(6)
    if suffix == ".npy":
        np.save(path, np.array([Bomb()], dtype=object), allow_pickle=True)
    elif suffix == ".npz":
        np.savez(path, features=np.array([Bomb()], dtype=object))
    with pytest.raises(ValueError, match="no pickled objects") as raised:
        PrecomputedFeatures(path).matrix(6)
    one_line(raised)
    assert not (tmp_path / "exploded").exists()


def test_a_folder_in_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "rows.npy").mkdir()
    with pytest.raises(ValueError, match="cannot be read"):
        PrecomputedFeatures(tmp_path / "rows.npy").matrix(6)


@pytest.mark.parametrize("size", [5, 7])
def test_rows_of_another_number_of_items(file: Path, size: int) -> None:
    with pytest.raises(
        ValueError, match=f"embeddings of 6 items and the train dataset has {size}: they belong to"
    ) as raised:
        PrecomputedFeatures(file).matrix(size)
    one_line(raised)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("suffix", WRITERS)
def test_the_first_item_that_is_not_finite_is_named(tmp_path: Path, suffix: str, value: float) -> None:
    rows = ROWS.clone()
    rows[3, 1] = rows[5, 0] = value
    WRITERS[suffix](tmp_path / f"rows{suffix}", rows)
    with pytest.raises(ValueError, match="features of item 3 hold NaN or infinite values"):
        PrecomputedFeatures(tmp_path / f"rows{suffix}").check(6)


def test_a_vector_is_no_matrix() -> None:
    with pytest.raises(ValueError, match=r"features have shape \[6\]: give one row per item"):
        PrecomputedFeatures(torch.arange(6)).matrix(6)
