"""Files that are there whole or not at all."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from lightning_coreset import storage


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A folder on disk, and one behind an fsspec URL."""
    if request.param == "disk":
        yield str(tmp_path / "new" / "folder")
        return
    yield "memory://storage-tests/folder"
    memory = fsspec.filesystem("memory")
    if memory.exists("storage-tests"):
        memory.rm("storage-tests", recursive=True)


def test_what_is_written_is_read(folder: str) -> None:
    path = storage.join(folder, "a.bin")
    assert not storage.exists(path)
    storage.write_atomic(path, b"first")
    storage.write_atomic(path, b"second, longer")
    assert storage.exists(path)
    assert storage.read_bytes(path) == b"second, longer"


def test_nothing_else_is_left_in_the_folder(folder: str) -> None:
    for name in ("b.bin", "a.bin", "c.txt"):
        storage.write_atomic(storage.join(folder, name), b"x")
    assert [path.rsplit("/", 1)[1] for path in storage.list_files(folder, "")] == ["a.bin", "b.bin", "c.txt"]
    assert [path.rsplit("/", 1)[1] for path in storage.list_files(folder, ".bin")] == ["a.bin", "b.bin"]
    assert storage.read_bytes(storage.list_files(folder, ".txt")[0]) == b"x"


def test_a_folder_that_is_not_there_holds_no_files(folder: str) -> None:
    assert storage.list_files(storage.join(folder, "nowhere"), "") == []
    assert not storage.exists(storage.join(folder, "nowhere"))
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(storage.join(folder, "nowhere"))


def test_a_file_at_the_root_of_a_url() -> None:
    storage.write_atomic("memory://at_the_root.bin", b"x")
    assert storage.read_bytes("memory://at_the_root.bin") == b"x"
    fsspec.filesystem("memory").rm("at_the_root.bin")


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    storage.write_atomic(path, b"good")
    with pytest.raises(TypeError):
        storage.write_atomic(path, "text is no bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"good"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_files_can_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        storage.write_atomic(tmp_path / "a.bin", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.bin").stat().st_mode) == 0o640
    assert os.umask(before) == before


def test_urls_are_told_from_paths() -> None:
    assert storage.is_url("s3://bucket/x")
    assert not storage.is_url(Path("folder/x"))
    assert storage.join("s3://bucket/", "a", "b") == "s3://bucket/a/b"
