"""How much memory a kernel may use."""

import pytest

from lightning_coreset.ops.memory import available_bytes, resolve_memory_limit


def test_half_of_what_is_free() -> None:
    assert 2**20 < resolve_memory_limit("auto") < available_bytes() * 0.8
    assert 2**20 < resolve_memory_limit(None) < available_bytes() * 0.8
    assert resolve_memory_limit(12345) == 12345


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "1GB"])
def test_a_limit_that_is_none(limit: int) -> None:
    with pytest.raises(
        ValueError, match=r"memory_limit=.* is not accepted: give a positive number of bytes, or 'auto'"
    ):
        resolve_memory_limit(limit)
