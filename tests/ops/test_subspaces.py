"""Coverage of random subspaces against one point at a time."""

import numpy as np
import pytest
import torch

from lightning_coreset.ops.subspaces import subspace_scores
from tests.helpers import references_signals as references
from tests.helpers.examples import normal_rows


def drawn(seed: int, samples: int, width: int, dimensions: int) -> list[tuple[list[int], list[float]]]:
    """The draws as the kernel makes them, sixty-four at a time."""
    generator = torch.Generator().manual_seed(seed)
    draws: list[tuple[list[int], list[float]]] = []
    while len(draws) < samples:
        columns = torch.rand(64, width, generator=generator).argsort(dim=1)[:, :dimensions]
        shares = torch.rand(64, dimensions, generator=generator)
        draws += list(zip(columns.tolist(), shares.tolist(), strict=True))
    return draws[:samples]


@pytest.mark.parametrize(("dimensions", "neighbors"), [(2, 1000), (1, 3), (3, 10), (99, 1)])
def test_scores_are_the_reference(dimensions: int, neighbors: int) -> None:
    features = normal_rows(50, 6)
    found = subspace_scores(
        features, torch.Generator().manual_seed(3), samples=150, dimensions=dimensions, neighbors=neighbors
    )
    draws = drawn(3, 150, 6, min(dimensions, 6))
    assert np.allclose(found, references.subspace_scores(features.numpy(), draws, neighbors), atol=1e-3)


def test_duplicates_share_one_place() -> None:
    """Each time one of two equal items covers a point, the other loses as much."""
    features = normal_rows(30, 4)
    scores = subspace_scores(
        torch.cat([features, features[:1]]), torch.Generator().manual_seed(0), samples=2_000, neighbors=1
    )
    assert scores[30] < min(0, float(scores[0]))


def test_points_do_not_depend_on_how_many_are_drawn() -> None:
    """The first points of a longer run are those of a shorter one, so scores only grow apart by what came later."""
    features = normal_rows(40, 5)
    short, longer = (
        subspace_scores(features, torch.Generator().manual_seed(0), samples=samples, neighbors=1)
        for samples in (65, 66)
    )
    assert int(((short - longer).abs() > 1e-6).sum()) <= 2
    assert abs(float(longer.sum())) < 1e-6
