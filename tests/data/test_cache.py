"""The cache: rows that are stored are found, and what is damaged or foreign is not believed."""

import multiprocessing
import resource
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from lightning_coreset.data import EmbeddingCache
from lightning_coreset.data.fingerprint import FORMAT_VERSION
from lightning_coreset.data.shards import checksum
from lightning_coreset.storage import list_files, write_atomic

# Forked, because importing the package again would take most of a test's time.
FORK = multiprocessing.get_context("fork")


def rows_of(positions: Tensor, width: int = 3) -> Tensor:
    """What stands for the embeddings of these items: the position in every column."""
    return positions.float().unsqueeze(1) + torch.arange(width) / 8


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "disk":
        yield str(tmp_path / "new")
        return
    yield "memory://cache-tests"
    memory = fsspec.filesystem("memory")
    if memory.exists("cache-tests"):
        memory.rm("cache-tests", recursive=True)


def only_file(folder: Path | str) -> Path:
    (path,) = (path for path in Path(folder).rglob("*") if path.is_file())
    return path


def test_rows_come_back_in_the_order_asked(folder: str) -> None:
    cache = EmbeddingCache(folder, "key")
    cache.write(torch.tensor([5, 2, 9]), rows_of(torch.tensor([5, 2, 9])))
    cache.write(torch.tensor([7]), rows_of(torch.tensor([7])))
    asked = torch.tensor([7, 1, 9, 2, 5, 0])
    rows, found = EmbeddingCache(folder, "key").read(asked)
    assert found.tolist() == [True, False, True, True, True, False]
    assert rows is not None
    assert torch.equal(rows, rows_of(asked) * found.unsqueeze(1))


def test_an_empty_cache(folder: str) -> None:
    rows, found = EmbeddingCache(folder, "key").read(torch.tensor([3, 4]))
    assert rows is None
    assert found.tolist() == [False, False]


def test_no_positions_asked(folder: str) -> None:
    cache = EmbeddingCache(folder, "key")
    cache.write(torch.tensor([5]), rows_of(torch.tensor([5])))
    rows, found = cache.read(torch.empty(0, dtype=torch.int64))
    assert rows is not None
    assert (len(rows), len(found)) == (0, 0)


def test_half_precision_is_stored_as_float32(folder: str) -> None:
    cache = EmbeddingCache(folder, "key")
    cache.write(torch.tensor([1], dtype=torch.int32), torch.tensor([[0.5, 2.0]], dtype=torch.bfloat16))
    rows, _ = cache.read(torch.tensor([1]))
    assert rows is not None
    assert rows.dtype == torch.float32
    assert rows.tolist() == [[0.5, 2.0]]


def test_another_key_is_another_folder(folder: str) -> None:
    EmbeddingCache(folder, "key").write(torch.tensor([1]), torch.ones(1, 2))
    assert EmbeddingCache(folder, "other").read(torch.tensor([1]))[0] is None


def test_the_same_rows_twice_are_one_shard(folder: str) -> None:
    cache = EmbeddingCache(folder, "key")
    for _ in range(2):
        cache.write(torch.tensor([1]), torch.ones(1, 2))
    filesystem, path = fsspec.core.url_to_fs(cache.folder)
    assert len(filesystem.ls(path)) == 1


def shard(tmp_path: Path) -> tuple[EmbeddingCache, Path]:
    cache = EmbeddingCache(tmp_path, "key")
    cache.write(torch.tensor([3, 1]), rows_of(torch.tensor([3, 1]), 2))
    return cache, only_file(tmp_path)


def test_every_single_flipped_bit_is_noticed(tmp_path: Path) -> None:
    cache, path = shard(tmp_path)
    good = path.read_bytes()
    for place in range(len(good)):
        for bit in range(8):
            damaged = bytearray(good)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                rows, found = cache.read(torch.tensor([1, 2, 3]))
            assert rows is None, f"bit {bit} of byte {place} of {len(good)}"
            assert not found.any()
            assert len(caught) == 1
            assert str(path) in str(caught[0].message)
            assert "embedded again" in str(caught[0].message)
    path.write_bytes(good)
    assert cache.read(torch.tensor([1, 2, 3]))[1].tolist() == [True, False, True]


def test_a_shard_cut_anywhere_is_noticed(tmp_path: Path) -> None:
    cache, path = shard(tmp_path)
    good = path.read_bytes()
    for size in range(len(good)):
        path.write_bytes(good[:size])
        with pytest.warns(UserWarning, match="is damaged"):
            assert cache.read(torch.tensor([1, 3]))[0] is None
    path.write_bytes(good + b"more")
    with pytest.warns(UserWarning, match="is damaged"):
        assert cache.read(torch.tensor([1, 3]))[0] is None


def test_other_shards_are_still_read_beside_a_damaged_one(tmp_path: Path) -> None:
    cache, path = shard(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    cache.write(torch.tensor([8]), rows_of(torch.tensor([8]), 2))
    with pytest.warns(UserWarning, match="is damaged"):
        _, found = cache.read(torch.tensor([3, 8]))
    assert found.tolist() == [False, True]
    # What is embedded again is stored beside the damaged one, under the same name: the damage is gone.
    cache.write(torch.tensor([3, 1]), rows_of(torch.tensor([3, 1]), 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache.read(torch.tensor([1, 3, 8]))[1].all()


@pytest.mark.parametrize("changed", [{"key": "other"}, {"format": "0"}], ids=str)
def test_a_shard_of_another_dataset_or_version_is_ignored(changed: dict[str, str], tmp_path: Path) -> None:
    cache, path = shard(tmp_path)
    tensors = {"positions": torch.tensor([1]), "features": torch.ones(1, 2)}
    note = {"key": "key", "format": str(FORMAT_VERSION), "checksum": checksum(tensors), **changed}
    path.write_bytes(save(tensors, note))
    with pytest.warns(UserWarning, match="belongs to another dataset, extractor or version"):
        assert cache.read(torch.tensor([1]))[0] is None


def test_a_shard_moved_from_another_key_is_ignored(tmp_path: Path) -> None:
    _, path = shard(tmp_path)
    other = EmbeddingCache(tmp_path, "other")
    Path(other.folder).mkdir(parents=True)
    path.rename(Path(other.folder, path.name))
    with pytest.warns(UserWarning, match="belongs to another dataset"):
        assert other.read(torch.tensor([1]))[0] is None


def test_rows_that_are_not_finite_are_not_believed(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, "key")
    cache.write(torch.tensor([1, 2]), torch.tensor([[1.0], [torch.nan]]))
    with pytest.warns(UserWarning, match="NaN or infinite"):
        assert cache.read(torch.tensor([1, 2]))[0] is None


def test_rows_of_another_width_are_ignored(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, "key")
    cache.write(torch.tensor([1]), torch.ones(1, 2))
    cache.write(torch.tensor([2]), torch.ones(1, 3))
    with pytest.warns(UserWarning, match="another width"):
        rows, found = cache.read(torch.tensor([1, 2]))
    assert rows is not None
    assert rows.shape == (2, 2)
    assert found.tolist() == [True, False]


def test_a_writer_that_died_leaves_nothing_that_is_read(tmp_path: Path) -> None:
    cache, path = shard(tmp_path)
    path.with_name(f".{path.name}.abc.part").write_bytes(path.read_bytes()[:40])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache.read(torch.tensor([1, 3]))[1].all()


def write_on_a_full_disk(folder: Path) -> None:
    """In a process of its own, where no file may grow beyond a kilobyte."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    for name in ("kept.bin", "new.bin"):
        with pytest.raises(OSError, match="too large"):
            write_atomic(folder / name, bytes(100_000))
    with pytest.raises(OSError, match="too large"):
        EmbeddingCache(folder, "key").write(torch.arange(500), rows_of(torch.arange(500)))


def test_a_full_disk_leaves_no_part_of_a_file(tmp_path: Path) -> None:
    write_atomic(tmp_path / "kept.bin", b"old")
    process = FORK.Process(target=write_on_a_full_disk, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["kept.bin"]
    assert (tmp_path / "kept.bin").read_bytes() == b"old"


def write_all(cache: EmbeddingCache) -> None:
    for start in range(0, 400, 100):
        positions = torch.arange(start, start + 100)
        cache.write(positions, rows_of(positions))


def write_for_ever(folder: Path, started: Any) -> None:
    while True:
        write_all(EmbeddingCache(folder, "key"))
        started.set()


def test_two_writers_at_once_and_the_kill_of_one(tmp_path: Path) -> None:
    started = FORK.Event()
    process = FORK.Process(target=write_for_ever, args=(tmp_path, started), daemon=True)
    process.start()
    assert started.wait(30)
    cache, everything = EmbeddingCache(tmp_path, "key"), torch.arange(400)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(40):
            write_all(cache)
            rows, found = cache.read(everything)
            assert found.all()
            assert rows is not None
            assert torch.equal(rows, rows_of(everything))
        process.kill()
        process.join()
        rows, _ = cache.read(everything)
    assert process.exitcode == -signal.SIGKILL
    assert rows is not None
    assert torch.equal(rows, rows_of(everything))
    assert len(list_files(cache.folder, ".safetensors")) == 4
