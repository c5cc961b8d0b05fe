"""Bins and shares of dataset quantization on arrays; its images have tests/augmentation."""

from typing import Any

import pytest
import torch

from lightning_coreset import DQv2, select
from lightning_coreset.budget import class_seats
from lightning_coreset.ops import graph_cut_bins
from lightning_coreset.selectors.bins import draw
from lightning_coreset.selectors.group import Group
from tests.helpers import references_dq_v2
from tests.helpers.examples import clouds, normal_rows

FEATURES, LABELS = clouds([40, 25, 64, 31])


def run(budget: int = 40, **arguments: Any) -> Any:
    labels = arguments.pop("labels", LABELS)
    return select(FEATURES, labels, method="dq_v2", budget=budget, **({"augment": 0} | arguments))


def group_of(size: int, count: int, initial: Any = (), forbidden: Any = (), seed: int = 0) -> Group:
    given = [torch.tensor(list(rows), dtype=torch.int64) for rows in (initial, forbidden)]
    return Group(size=size, count=count, features=None, initial=given[0], forbidden=given[1], label=2, seed=seed)


@pytest.mark.parametrize("ratio", [0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 1.0])
@pytest.mark.parametrize("binning", ["graph_cut", "random", "uniform"])
def test_exactly_the_ratio_and_the_seats_of_the_classes(ratio: float, binning: str) -> None:
    sizes = torch.tensor([40, 25, 64, 31])
    coreset = select(FEATURES, LABELS, method="dq_v2", augment=0, binning=binning, ratio=ratio)
    assert len(coreset) == len(set(coreset.indices.tolist())) == max(1, int(ratio * 160 + 0.5))
    assert torch.equal(coreset.labels, class_seats(sizes, sizes, len(coreset)))


@pytest.mark.parametrize("ratio", [0.01, 0.1, 0.25, 0.6])
def test_a_hundred_classes_of_ten(ratio: float) -> None:
    coreset = select(normal_rows(1000), torch.arange(1000) % 100, method="dq_v2", augment=0, ratio=ratio)
    assert len(coreset) == round(1000 * ratio)
    assert coreset.class_counts.max() - coreset.class_counts.min() <= 1


def test_each_bin_gives_its_share_by_largest_remainder() -> None:
    coreset = run(63)
    for label, size in enumerate([40, 25, 64, 31]):
        bins = graph_cut_bins(FEATURES[label == LABELS], 10)
        picked = torch.tensor(coreset.details["bin"])[coreset.labels == label]
        members = torch.nonzero(label == LABELS).flatten()
        rows = torch.searchsorted(members, coreset.indices[coreset.labels == label])
        assert torch.equal(bins[rows], picked)
        shares = torch.bincount(picked, minlength=10).tolist()
        sizes = torch.bincount(bins).tolist()
        plain = references_dq_v2.largest_remainder(sizes, len(picked), list(range(10)))
        # Whichever tie wins, as many bins of each size have each share.
        assert sorted(zip(sizes, shares, strict=True)) == sorted(zip(sizes, plain, strict=True))
        assert sum(sizes) == size


@pytest.mark.parametrize("sizes", [[10, 10, 10], [4, 3, 3, 3], [1, 20, 7], [5]])
def test_shares_of_any_bins(sizes: list[int]) -> None:
    bins = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    for count in range(1, len(bins) + 1):
        rows = draw(group_of(len(bins), count), bins)
        assert len(rows.unique()) == count
        shares = torch.bincount(bins[rows], minlength=len(sizes)).tolist()
        plain = references_dq_v2.largest_remainder(sizes, count, list(range(len(sizes))))
        assert sorted(zip(sizes, shares, strict=True)) == sorted(zip(sizes, plain, strict=True))


def test_ties_between_bins_are_drawn_and_not_the_lowest() -> None:
    bins = torch.arange(50) // 5
    first = {int(bins[draw(group_of(50, 1, seed=seed), bins)]) for seed in range(40)}
    assert len(first) > 5


def test_initial_items_hold_seats_of_their_bins() -> None:
    bins = torch.arange(30) // 10
    # Bin 0 holds three of the six seats already and gets none.
    rows = draw(group_of(30, 3, initial=[0, 1, 2]), bins)
    assert sorted(bins[rows].tolist()) == [1, 1, 2] or sorted(bins[rows].tolist()) == [1, 2, 2]
    rows = draw(group_of(30, 6, initial=[0, 1, 2]), bins)
    assert sorted(bins[rows].tolist()) == [1, 1, 1, 2, 2, 2]


def test_a_bin_without_free_items_gives_its_seats_to_others() -> None:
    bins = torch.arange(30) // 10
    rows = draw(group_of(30, 20, forbidden=range(10)), bins)
    assert sorted(rows.tolist()) == list(range(10, 30))


def test_binning_random_deals_the_whole_pool_and_uniform_each_class() -> None:
    seen = {}
    for binning in ("random", "uniform"):
        coreset = run(160, binning=binning)
        bins = torch.empty(160, dtype=torch.int64)
        bins[coreset.indices] = torch.tensor(coreset.details["bin"])
        assert torch.bincount(bins).tolist() == [16] * 10 or binning == "uniform"
        seen[binning] = [torch.bincount(bins[label == LABELS], minlength=10) for label in range(4)]
    assert all(counts.max() - counts.min() <= 1 for counts in seen["uniform"])
    assert any(counts.max() - counts.min() > 1 for counts in seen["random"])


def test_random_bins_need_no_features() -> None:
    from lightning_coreset import Pool

    for binning in ("random", "uniform"):
        coreset = DQv2(augment=0, binning=binning).select(Pool(labels=LABELS), 40)
        assert torch.equal(coreset.indices, run(binning=binning).indices)


def test_classes_smaller_than_the_bins_have_a_bin_for_each_item() -> None:
    features, labels = clouds([4, 30, 1])
    coreset = select(features, labels, method="dq_v2", augment=0, budget=20)
    assert coreset.manifest["resolved"]["bins"] == [4, 10, 1]
    assert len(select(features[:3], method="dq_v2", augment=0, budget=2)) == 2


def test_seeds_draw_anew_and_bins_stay() -> None:
    first, again, other = run(seed=1), run(seed=1), run(seed=2)
    assert torch.equal(first.indices, again.indices)
    assert not torch.equal(first.indices, other.indices)


def test_originals_that_are_left_out_are_in_no_bin() -> None:
    half = run(60, originals=0.5)
    kept = set(run(80, originals=0.5).indices.tolist())
    assert len(kept) == 80
    assert set(half.indices.tolist()) <= kept
    with pytest.raises(ValueError, match="seats are asked for, but the classes have 80 free items"):
        run(81, originals=0.5)


def test_prefixes_are_not_promised() -> None:
    from lightning_coreset import CoresetError

    with pytest.raises(CoresetError, match="not ranked"):
        run().head(3)


def test_arrays_have_no_images_to_augment() -> None:
    with pytest.raises(ValueError, match=r"augment=0.5 makes new images.*CoresetDataModule") as raised:
        select(FEATURES, LABELS, method="dq_v2", budget=10)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "arguments",
    [
        {"augment": 2}, {"originals": -1}, {"bins": 0}, {"bins": 2.5}, {"binning": "kmeans"}, {"lam": 0}, {"grid": 0},
        {"donors": 0}, {"proxy_epochs": -1},
    ],
    ids=str,
)  # fmt: skip
def test_arguments_out_of_range(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(arguments))}=.* is not accepted: give"):
        run(**arguments)
