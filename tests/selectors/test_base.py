"""What the base class does for every method, and what it asks of one's own."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset

from lightning_coreset import CoresetError, Herding, Pool, SelectionContext, Selector, SubZeroCore, select
from lightning_coreset.registry import build_selector
from lightning_coreset.selectors.group import Group, Picks
from tests.helpers.examples import METHODS, clouds, pool_of

FEATURES, LABELS = clouds([20, 12, 16])


class Scripted(Selector):
    """Answers whatever a test wants; without a name, so that nothing is registered."""

    def __init__(self, *, per_class: bool | None = None, answer: Any = None) -> None:
        super().__init__(per_class=per_class)
        self.answer = answer

    def select_group(self, group: Group) -> Picks:
        return Picks(self.answer(group))


def test_a_method_of_ones_own_gets_seats_and_exclusions_for_free() -> None:
    lowest = Scripted(per_class=True, answer=lambda group: torch.nonzero(group.candidates).flatten()[: group.count])
    coreset = lowest.select(Pool(FEATURES, LABELS), 6, forbidden=[0])
    assert coreset.class_counts is not None
    assert coreset.class_counts.tolist() == [2, 2, 2]
    for label in range(3):
        members = [item for item in torch.nonzero(label == LABELS).flatten().tolist() if item != 0]
        picks = coreset.indices[LABELS[coreset.indices] == label].tolist()
        assert picks == members[: len(picks)]
    assert coreset.manifest["method"] == "Scripted"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda group: torch.arange(group.count - 1), "answered 3 picks"),
        (lambda group: torch.arange(group.count + 1), "answered 5 picks"),
        (lambda group: torch.zeros(group.count, dtype=torch.int64), r"answered 4 picks \(1 distinct\) for 4"),
        (lambda group: torch.tensor([0, 1, 2, 7]), "none of them initial or forbidden"),
        (lambda group: torch.tensor([0, 1, 2, 8]), "none of them initial or forbidden"),
    ],
    ids=["too few", "too many", "twice", "initial", "forbidden"],
)
def test_a_wrong_answer_of_ones_own_method_is_refused(answer: Any, message: str) -> None:
    with pytest.raises(CoresetError, match=message):
        Scripted(answer=answer).select(Pool(FEATURES), 4, initial=[7], forbidden=[8])


@pytest.mark.parametrize("method", METHODS)
def test_embedding_on_demand_gives_the_same_as_features_in_the_pool(method: str) -> None:
    asked: list[int] = []

    def embed(positions: torch.Tensor) -> torch.Tensor:
        asked.extend(positions.tolist())
        return FEATURES[positions]

    pool = pool_of(method, FEATURES, LABELS)
    selector = select(pool, method=method, budget=10)
    found = _selector(method).select(
        Pool(labels=LABELS, signals=pool.signals), 10, context=SelectionContext(embed=embed)
    )
    assert torch.equal(found.indices, selector.indices)
    assert torch.equal(found.weights, selector.weights)
    assert len(asked) == len(set(asked)), "no item is embedded twice"


@pytest.mark.filterwarnings("ignore:SubZeroCore looks at")
def test_classes_without_a_seat_are_not_embedded() -> None:
    asked: list[int] = []

    def embed(positions: torch.Tensor) -> torch.Tensor:
        asked.extend(positions.tolist())
        return FEATURES[positions]

    SubZeroCore().select(Pool(labels=LABELS), 2, context=SelectionContext(embed=embed))
    assert set(LABELS[asked].tolist()) == {0, 2}


def test_the_progress_bar_hears_of_every_pick_once() -> None:
    class Bar:
        def __init__(self) -> None:
            self.done = 0

        def __enter__(self) -> "Bar":
            return self

        def __exit__(self, *_: object) -> None: ...

        def update(self, n: int = 1) -> None:
            self.done += n

    for method in METHODS:
        bar = Bar()
        told: list[tuple[int, str]] = []

        def progress(total: int, description: str, bar: Bar = bar, told: list[tuple[int, str]] = told) -> Bar:
            told.append((total, description))
            return bar

        _selector(method).select(pool_of(method, FEATURES, LABELS), 10, context=SelectionContext(progress=progress))
        assert told == [(10, f"Selecting ({method})")]
        assert bar.done == 10


def test_the_view_to_train_on_is_in_ascending_order() -> None:
    selector = Herding()
    coreset = selector.select(Pool(FEATURES, LABELS), 10)
    view = selector.train_view(TensorDataset(torch.arange(48)), coreset)
    assert [int(item[0]) for item in view] == sorted(coreset.indices.tolist())  # type: ignore[attr-defined]


def test_arguments_are_those_of_the_constructor() -> None:
    assert Herding(per_class=False).arguments == {"per_class": False}
    assert set(SubZeroCore().arguments) == {
        "per_class", "coverage", "neighbors", "k_solver", "one_sided", "density_power", "similarity", "radius", "mode",
    }  # fmt: skip


@pytest.fixture(autouse=True)
def quiet(recwarn: pytest.WarningsRecorder) -> Iterator[None]:
    """Small classes make SubZeroCore warn; that has its own test."""
    yield
    recwarn.clear()


def _selector(method: str) -> Selector:
    return build_selector(method, {})
