"""The two ranks that all tests of this room share."""

from collections.abc import Iterator

import pytest

from tests.helpers.processes import ProcessPool


@pytest.fixture(scope="session")
def processes() -> Iterator[ProcessPool]:
    """Two processes with a gloo group; starting them takes a few seconds, once."""
    pool = ProcessPool(2)
    yield pool
    pool.close()
