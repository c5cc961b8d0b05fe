"""Bins by graph cut: a partition, each bin the greedy of what is left."""

import pytest
import torch

from lightning_coreset.ops import graph_cut, graph_cut_bins
from tests.helpers import references, references_dq_v2
from tests.helpers.examples import normal_rows, tied_rows


@pytest.mark.parametrize("bins", [1, 2, 7, 10])
@pytest.mark.parametrize("size", [1, 2, 50, 131])
@pytest.mark.parametrize("lam", [1.0, 2.0])
def test_the_same_bins_as_from_the_dense_matrix(size: int, bins: int, lam: float) -> None:
    rows = tied_rows(size, seed=size)
    expected = references_dq_v2.graph_cut_bins(references.cosine(rows.numpy()), bins, lam=lam)
    assert graph_cut_bins(rows, bins, lam=lam).tolist() == expected


@pytest.mark.parametrize(("size", "bins"), [(100, 10), (103, 10), (9, 4), (400, 7), (3, 3)])
def test_bins_are_a_partition_of_sizes_equal_up_to_one(size: int, bins: int) -> None:
    found = graph_cut_bins(normal_rows(size), bins)
    sizes = torch.bincount(found, minlength=bins)
    assert found.shape == (size,)
    assert sizes.sum() == size
    assert sizes.max() - sizes.min() <= 1
    assert sizes.tolist() == sorted(sizes.tolist(), reverse=True)


def test_the_first_bin_is_the_greedy_of_the_whole_pool() -> None:
    rows = normal_rows(200)
    first = torch.nonzero(graph_cut_bins(rows, 8) == 0).flatten()
    assert first.tolist() == sorted(graph_cut(rows, 25).indices.tolist())


def test_each_bin_starts_from_nothing_on_what_is_left() -> None:
    rows = normal_rows(90)
    found = graph_cut_bins(rows, 3)
    left = torch.nonzero(found > 0).flatten()
    assert torch.equal(found[left] - 1, graph_cut_bins(rows[left], 2))


def test_fewer_rows_than_bins_give_one_row_to_each() -> None:
    assert sorted(graph_cut_bins(normal_rows(4), 10).tolist()) == [0, 1, 2, 3]
    assert graph_cut_bins(normal_rows(1), 10).tolist() == [0]


def test_the_order_of_rows_does_not_matter() -> None:
    rows = normal_rows(120)
    order = torch.randperm(120, generator=torch.Generator().manual_seed(3))
    assert torch.equal(graph_cut_bins(rows[order], 5), graph_cut_bins(rows, 5)[order])


def test_a_positive_factor_for_each_row_changes_nothing_unless_asked_for() -> None:
    rows = normal_rows(120)
    factors = 2.0 ** (torch.arange(120) % 7 - 3)[:, None]
    assert torch.equal(graph_cut_bins(rows * factors, 5), graph_cut_bins(rows, 5))
    raw = graph_cut_bins(rows * factors, 5, normalize=False)
    similarity = ((rows * factors).double() @ (rows * factors).double().T).numpy()
    assert raw.tolist() == references_dq_v2.graph_cut_bins(similarity, 5)
    assert not torch.equal(raw, graph_cut_bins(rows, 5))


def test_equal_rows_go_to_the_lowest() -> None:
    # Rows 3 i to 3 i + 2 are equal, so a row never lies in an earlier bin than an equal one before it.
    found = graph_cut_bins(normal_rows(40).repeat_interleave(3, dim=0), 10).view(40, 3)
    assert bool((found.diff(dim=1) >= 0).all())


def test_the_features_stay_as_they_were() -> None:
    for normalize in (True, False):
        rows = normal_rows(50)
        graph_cut_bins(rows, 5, normalize=normalize)
        assert torch.equal(rows, normal_rows(50))


def test_the_bar_hears_of_every_row() -> None:
    heard: list[int] = []
    graph_cut_bins(normal_rows(43), 4, advance=heard.append)
    assert sum(heard) == 43


@pytest.mark.parametrize("bins", [0, -1, 2.5, True])
def test_bins_that_are_none(bins: object) -> None:
    with pytest.raises(ValueError, match="bins=.* is not accepted: give a whole number of at least 1"):
        graph_cut_bins(normal_rows(5), bins)
