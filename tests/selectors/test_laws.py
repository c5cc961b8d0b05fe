"""What every method promises, whatever it picks."""

import importlib.util
import sys

import pytest
import torch

from lightning_coreset import Coreset, select
from lightning_coreset.budget import class_seats
from tests.helpers.examples import (
    CLASSWISE,
    LABEL_FREE,
    METHODS,
    SEEING,
    UNSEEDED,
    WEIGHTED,
    WEIGHTED_BY_GRADIENTS,
    budget_free_arguments,
    clouds,
    normal_rows,
    pool_of,
    tied_rows,
)

pytestmark = pytest.mark.filterwarnings("ignore:SubZeroCore looks at")

RANKING = tuple(method for method in METHODS if method != "typiclust")
#: Methods to which equal items are worth the same; on a graph of neighbours they are not, some have more of them.
ONE_BY_ONE = tuple(method for method in UNSEEDED if method != "d2")
SIZES = [40, 25, 64, 31]
FEATURES, LABELS = clouds(SIZES)


def both_ways(methods: tuple[str, ...]) -> list[tuple[str, bool]]:
    """Each method by class and over the whole pool, where it can."""
    return [
        (method, per_class) for method in methods for per_class in (True, False) if per_class or method != "uniform"
    ]


def run(method: str, features: torch.Tensor, labels: torch.Tensor | None, budget: int, **arguments: object) -> Coreset:
    """Select with arguments that do not hang on the budget; ``per_class=True`` is left out where it is the default."""
    if method == "uniform":
        arguments.pop("per_class", None)
    pool = pool_of(method, features, labels)
    return select(pool, method=method, budget=budget, **budget_free_arguments(method), **arguments)  # type: ignore[arg-type]


def assert_same_picks(first: Coreset, second: Coreset) -> None:
    assert torch.equal(first.indices, second.indices)
    assert torch.equal(first.weights, second.weights)
    for one, other in ((first.gains, second.gains), (first.assignment, second.assignment)):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert torch.equal(one, other)


@pytest.mark.parametrize(("method", "per_class"), both_ways(UNSEEDED))
@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_items_does_not_matter(method: str, per_class: bool, seed: int) -> None:
    order = torch.randperm(len(LABELS), generator=torch.Generator().manual_seed(seed))
    # Few picks, because later facility location meets pairs that only cover each other: real ties, up to rounding.
    straight = run(method, FEATURES, LABELS, 12, per_class=per_class)
    mixed = run(method, FEATURES[order], LABELS[order], 12, per_class=per_class)
    assert torch.equal(order[mixed.indices], straight.indices)
    assert torch.equal(mixed.weights, straight.weights)


@pytest.mark.parametrize(("method", "per_class"), both_ways(METHODS))
def test_a_positive_power_of_two_for_each_row_changes_no_bit(method: str, per_class: bool) -> None:
    factors = 2.0 ** (torch.arange(len(LABELS)) % 13 - 6)
    straight = run(method, FEATURES, LABELS, 30, per_class=per_class)
    assert_same_picks(run(method, FEATURES * factors[:, None], LABELS, 30, per_class=per_class), straight)


@pytest.mark.parametrize("method", UNSEEDED)
def test_a_positive_factor_for_each_row_changes_no_pick(method: str) -> None:
    factors = torch.rand(len(LABELS), 1, generator=torch.Generator().manual_seed(0)) * 9 + 0.01
    assert torch.equal(run(method, FEATURES * factors, LABELS, 12).indices, run(method, FEATURES, LABELS, 12).indices)


@pytest.mark.parametrize(("method", "per_class"), both_ways(RANKING))
def test_a_smaller_budget_is_a_prefix_of_a_larger_one(method: str, per_class: bool) -> None:
    largest = run(method, FEATURES, LABELS, 100, per_class=per_class)
    assert largest.manifest["ranks"] is True
    for budget in (1, 2, 3, 5, 17, 60):
        smaller = run(method, FEATURES, LABELS, budget, per_class=per_class)
        assert torch.equal(smaller.indices, largest.indices[:budget])
        assert torch.equal(smaller.indices, largest.head(budget).indices)


@pytest.mark.parametrize("method", [method for method in METHODS if method != "uniform"])
def test_classes_follow_the_seats(method: str) -> None:
    coreset = run(method, FEATURES, LABELS, 50, per_class=True)
    assert coreset.labels is not None
    assert torch.equal(coreset.labels, class_seats(torch.tensor(SIZES), torch.tensor(SIZES), 50))


@pytest.mark.parametrize("method", [method for method in CLASSWISE if method != "uniform"])
def test_each_class_is_selected_from_as_if_it_were_alone(method: str) -> None:
    initial, forbidden = [0, 17, 90, 91], [5, 33, 120]
    together = run(method, FEATURES, LABELS, 40, initial=initial, forbidden=forbidden)
    for label in range(len(SIZES)):
        members = torch.nonzero(label == LABELS).flatten()
        picks = together.indices[LABELS[together.indices] == label]
        alone = run(
            method,
            FEATURES[members],
            None,
            len(picks),
            initial=[row for row, item in enumerate(members.tolist()) if item in initial],
            forbidden=[row for row, item in enumerate(members.tolist()) if item in forbidden],
        )
        assert torch.equal(members[alone.indices], picks)


@pytest.mark.parametrize(("method", "per_class"), both_ways(METHODS))
def test_initial_and_forbidden_are_never_picked(method: str, per_class: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        order = torch.randperm(len(LABELS), generator=generator)
        initial, forbidden = order[:20], order[20:90]
        coreset = run(method, FEATURES, LABELS, 70, per_class=per_class, initial=initial, forbidden=forbidden)
        # Seventy are asked for and seventy are left.
        assert sorted(coreset.indices.tolist()) == sorted(order[90:].tolist())
        some = run(
            method, FEATURES, LABELS, 9, per_class=per_class, initial=initial.tolist(), forbidden=forbidden.numpy()
        )
        assert set(some.indices.tolist()) <= set(order[90:].tolist())
        assert len(set(some.indices.tolist())) == 9


@pytest.mark.parametrize(("method", "per_class"), both_ways(METHODS))
def test_forbidding_what_is_not_picked_changes_nothing(method: str, per_class: bool) -> None:
    """Forbidden items stay in every statistic, so only those that would have been picked are missed."""
    free = run(method, FEATURES, LABELS, 20, per_class=per_class)
    others = sorted(set(range(len(LABELS))) - set(free.indices.tolist()))
    assert_same_picks(run(method, FEATURES, LABELS, 20, per_class=per_class, forbidden=others[::2]), free)


@pytest.mark.parametrize(
    "method",
    [*("facility_location", "graph_cut", "herding", "k_center", "subzerocore"), *("craig", "d2", "grad_match")],
)
@pytest.mark.parametrize("taken", [1, 4, 15])
def test_greedy_goes_on_from_initial(method: str, taken: int) -> None:
    whole = run(method, FEATURES, None, 30)
    rest = run(method, FEATURES, None, 30 - taken, initial=whole.indices[:taken])
    assert torch.equal(rest.indices, whole.indices[taken:])


@pytest.mark.parametrize("method", ["craig", "facility_location", "herding", "k_center", "prototypes", "typiclust"])
def test_initial_items_count_as_chosen(method: str) -> None:
    """Four tight clouds, one of which holds the initial item: three picks go to the three others."""
    features, labels = clouds([20, 20, 20, 20], spread=0.02, seed=4)
    arguments: dict[str, object] = {"clusters": 4} if method == "prototypes" else {}
    for label in range(4):
        initial = [int(torch.nonzero(labels == label)[0])]
        coreset = run(method, features, None, 3, initial=initial, **arguments)
        assert sorted(labels[coreset.indices].tolist()) == [other for other in range(4) if other != label]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("labels", [LABELS, None], ids=["labels", "no labels"])
def test_an_item_is_not_both_initial_and_forbidden(method: str, labels: torch.Tensor | None) -> None:
    with pytest.raises(ValueError, match="both hold 7|needs labels"):
        run(method, FEATURES, labels, 5, initial=[1, 7], forbidden=[7, 8])


@pytest.mark.parametrize(("method", "per_class"), both_ways(ONE_BY_ONE))
def test_equal_items_are_taken_in_their_order(method: str, per_class: bool) -> None:
    which = torch.randint(60, (301,), generator=torch.Generator().manual_seed(2))
    labels = which % 3
    picks = run(method, normal_rows(60, 33)[which], labels, 150, per_class=per_class).indices.tolist()
    for row in range(60):
        chosen = [pick for pick in picks if which[pick] == row]
        assert chosen == torch.nonzero(which == row).flatten().tolist()[: len(chosen)]


@pytest.mark.parametrize(("method", "per_class"), both_ways(METHODS))
@pytest.mark.parametrize("rows", [torch.zeros(23, 4), torch.ones(23, 4)], ids=["zeros", "all equal"])
def test_rows_that_say_nothing(rows: torch.Tensor, method: str, per_class: bool) -> None:
    labels = torch.arange(23) % 2
    for budget in (1, 5, 23):
        coreset = run(method, rows, labels, budget, per_class=per_class)
        assert len(set(coreset.indices.tolist())) == budget
        assert bool(torch.isfinite(coreset.weights).all())
        assert coreset.gains is None or bool(torch.isfinite(coreset.gains).all())
        if method in ONE_BY_ONE and per_class:
            assert coreset.indices.tolist() == list(range(budget))


@pytest.mark.parametrize(("method", "per_class"), both_ways(METHODS))
def test_the_whole_pool(method: str, per_class: bool) -> None:
    coreset = run(method, FEATURES, LABELS, len(LABELS), per_class=per_class)
    assert sorted(coreset.indices.tolist()) == list(range(len(LABELS)))


@pytest.mark.parametrize("method", LABEL_FREE)
def test_a_pool_of_one_item(method: str) -> None:
    assert run(method, torch.ones(1, 3), None, 1).indices.tolist() == [0]
    assert run(method, torch.ones(1, 3), torch.tensor([0]), 1).weights.tolist() == [1.0]


@pytest.mark.parametrize(("method", "per_class"), both_ways(METHODS))
def test_classes_with_gaps(method: str, per_class: bool) -> None:
    """Classes 3 and 5 of CIFAR: the others are not there and get no seat."""
    features, labels = clouds([30, 22])
    coreset = run(method, features, torch.tensor([3, 5])[labels], 13, per_class=per_class)
    assert coreset.class_counts is not None
    assert coreset.class_counts.shape == (6,)
    assert coreset.class_counts[[3, 5]].sum() == 13
    assert coreset.manifest["pool_class_counts"] == [0, 0, 0, 30, 0, 22]
    alone = run(method, features, labels, 13, per_class=per_class)
    if method in WEIGHTED_BY_GRADIENTS:
        # Gradients of more classes are longer, and sums round otherwise.
        assert torch.equal(coreset.indices, alone.indices)
        assert torch.allclose(coreset.weights, alone.weights)
    elif method in UNSEEDED:
        assert_same_picks(coreset, alone)


@pytest.mark.parametrize("method", METHODS)
def test_fewer_picks_than_classes(method: str) -> None:
    coreset = run(method, FEATURES, LABELS, 2, per_class=True)
    assert coreset.labels is not None
    # uniform begins with the lowest class, the others with the largest.
    assert coreset.labels.tolist() == ([0, 1] if method == "uniform" else [2, 0])
    if coreset.assignment is not None:
        assert bool(((coreset.assignment == -1) == ((LABELS == 1) | (LABELS == 3))).all())


@pytest.mark.parametrize("method", METHODS)
def test_a_class_of_one_item(method: str) -> None:
    features, labels = clouds([30, 1, 20], seed=5)
    coreset = run(method, features, labels, 9, per_class=True)
    assert coreset.class_counts is not None
    assert coreset.class_counts[1] == 1


@pytest.mark.parametrize("method", METHODS)
def test_a_class_without_free_items_gets_no_seat(method: str) -> None:
    closed = torch.nonzero(LABELS == 1).flatten()
    coreset = run(method, FEATURES, LABELS, 30, per_class=True, initial=closed[:3], forbidden=closed[3:])
    assert coreset.class_counts is not None
    assert coreset.class_counts[1] == 0
    assert len(coreset) == 30


@pytest.mark.parametrize(("method", "per_class"), both_ways(METHODS))
def test_a_memory_limit_changes_no_bit(method: str, per_class: bool) -> None:
    roomy = run(method, FEATURES, LABELS, 30, per_class=per_class)
    assert_same_picks(run(method, FEATURES, LABELS, 30, per_class=per_class, memory_limit=1), roomy)


@pytest.mark.parametrize(("method", "per_class"), both_ways(WEIGHTED))
@pytest.mark.parametrize("features", [FEATURES, tied_rows(len(LABELS))], ids=["general position", "ties"])
def test_weights_are_cluster_sizes(method: str, per_class: bool, features: torch.Tensor) -> None:
    coreset = run(method, features, LABELS, 20, per_class=per_class, initial=[4, 9], forbidden=[11])
    assert coreset.assignment is not None
    sizes = coreset.weights.double() * coreset.manifest["weight_scale"]
    assert torch.allclose(sizes, torch.bincount(coreset.assignment, minlength=20).double(), atol=1e-4)
    assert coreset.weights.mean().item() == pytest.approx(1, abs=1e-6)
    assert sizes.sum().item() == pytest.approx(len(LABELS), abs=1e-3)


@pytest.mark.parametrize(("method", "per_class"), both_ways(WEIGHTED))
@pytest.mark.parametrize("features", [FEATURES, tied_rows(len(LABELS))], ids=["general position", "ties"])
def test_items_are_represented_by_the_most_similar_pick_of_their_class(
    method: str, per_class: bool, features: torch.Tensor
) -> None:
    coreset = run(method, features, LABELS, 20, per_class=per_class)
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    similarity = unit @ unit[coreset.indices].T
    if per_class:
        similarity[LABELS[:, None] != LABELS[coreset.indices]] = -2
    # By plain similarity, whatever the density weights, and the earlier of equal picks.
    best = similarity >= similarity.amax(dim=1, keepdim=True) - 1e-9
    assert coreset.assignment is not None
    assert coreset.assignment.tolist() == best.int().argmax(dim=1).tolist()


@pytest.mark.parametrize("method", [method for method in METHODS if method not in WEIGHTED + WEIGHTED_BY_GRADIENTS])
def test_methods_that_do_not_weigh_weigh_all_alike(method: str) -> None:
    coreset = run(method, FEATURES, LABELS, 20)
    assert bool((coreset.weights == 1).all())
    assert coreset.assignment is None


@pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="faiss is not installed")
@pytest.mark.parametrize(("method", "per_class"), both_ways(("prototypes", "typiclust")))
def test_faiss_changes_nothing_on_easy_data(method: str, per_class: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    features, cloud = clouds([20, 30, 25, 15], spread=0.02, seed=4)
    arguments = {"clusters": "budget"} if method == "prototypes" else {}
    labels = cloud // 2
    with_faiss = run(method, features, labels, 4, per_class=per_class, **arguments)
    monkeypatch.setattr(sys.modules["lightning_coreset.ops.kmeans"], "load_faiss", lambda: None)
    without = run(method, features, labels, 4, per_class=per_class, **arguments)
    assert torch.equal(with_faiss.indices, without.indices)
    assert len(cloud[without.indices].unique()) == 4


@pytest.mark.parametrize("method", SEEING)
def test_one_thread_or_two_give_the_same(method: str) -> None:
    features, threads = normal_rows(300, 64), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = run(method, features, None, 40)
        torch.set_num_threads(2)
        two = run(method, features, None, 40)
    finally:
        torch.set_num_threads(threads)
    assert_same_picks(one, two)
