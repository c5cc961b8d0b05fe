"""Files that are there whole or not at all, on local disks and behind fsspec URLs."""

import os
import tempfile
import uuid
from pathlib import Path
from typing import Any

import fsspec


def is_url(path: Any) -> bool:
    """Whether a path goes through fsspec (``s3://``, ``memory://``) instead of the local disk."""
    return "://" in str(path)


def join(folder: Any, *names: str) -> str:
    """A path below a folder; names come from us, never from data."""
    return "/".join([str(folder).rstrip("/"), *names])


def write_atomic(path: Any, data: bytes) -> None:
    """Write a file so that a reader, a crash or a full disk never sees a part of it.

    Raises:
        OSError: The disk is full or the place cannot be written; what was there before is untouched.
    """
    if is_url(path):
        filesystem, target = fsspec.core.url_to_fs(str(path))
        filesystem.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
        temporary = f"{target}.{uuid.uuid4().hex}.part"
        try:
            filesystem.pipe_file(temporary, data)
            filesystem.mv(temporary, target)
        finally:
            if filesystem.exists(temporary):
                filesystem.rm(temporary)
        return
    target_path = Path(path)
    target_path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{target_path.name}.", suffix=".part", dir=target_path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files only their owner can read; a cache may be shared.
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)
        Path(name).replace(target_path)
    finally:
        Path(name).unlink(missing_ok=True)


def read_bytes(path: Any) -> bytes:
    """All of a file.

    Raises:
        FileNotFoundError: No such file.
    """
    if is_url(path):
        filesystem, target = fsspec.core.url_to_fs(str(path))
        data: bytes = filesystem.cat_file(target)
        return data
    return Path(path).read_bytes()


def exists(path: Any) -> bool:
    """Whether there is such a file or folder."""
    if is_url(path):
        filesystem, target = fsspec.core.url_to_fs(str(path))
        return bool(filesystem.exists(target))
    return Path(path).exists()


def list_files(folder: Any, suffix: str) -> list[str]:
    """Paths of a folder's files that end in a suffix, in alphabetical order; none where there is no such folder."""
    if is_url(folder):
        filesystem, target = fsspec.core.url_to_fs(str(folder))
        if not filesystem.exists(target):
            return []
        found = [filesystem.unstrip_protocol(name) for name in filesystem.ls(target, detail=False)]
    else:
        found = [str(path) for path in Path(folder).iterdir()] if Path(folder).is_dir() else []
    return sorted(path for path in found if path.endswith(suffix))


def remove(path: Any) -> None:
    """Delete a file; nothing happens where there is none."""
    if is_url(path):
        filesystem, target = fsspec.core.url_to_fs(str(path))
        if filesystem.exists(target):
            filesystem.rm(target)
        return
    Path(path).unlink(missing_ok=True)
