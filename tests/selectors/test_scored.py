"""Methods that take the items with the highest score: which end is the highest, and what they do without a score."""

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_coreset import Coreset, Pool, Signals, select
from tests.helpers import references_signals as references
from tests.helpers.examples import SCORED, clouds, normal_rows, pool_of, signals_of

FEATURES, LABELS = clouds([30, 20, 25])
SIGNALS = signals_of(FEATURES, LABELS)
LOGITS = SIGNALS.logits.double().numpy()


def ranking(method: str, **arguments: object) -> list[int]:
    """All items in the order of a method over the whole pool."""
    coreset = select(Pool(FEATURES, signals=SIGNALS), method=method, budget=75, **arguments)  # type: ignore[arg-type]
    return coreset.indices.tolist()


def descending(scores: np.ndarray) -> list[int]:
    return np.argsort(-scores, kind="stable").tolist()


def test_forgetting_takes_what_was_never_learnt_first() -> None:
    assert SIGNALS.runs is not None
    events = references.forgetting_events(SIGNALS.correct.numpy(), SIGNALS.runs.numpy())
    assert ranking("forgetting") == descending(np.array(events))
    assert events[ranking("forgetting")[0]] == np.inf


@pytest.mark.parametrize("epochs", [1, 10])
def test_el2n_and_grand_take_the_largest_first(epochs: int) -> None:
    assert SIGNALS.runs is not None
    assert SIGNALS.feature_norms is not None
    runs, errors, norms = (column.double().numpy() for column in (SIGNALS.runs, SIGNALS.errors, SIGNALS.feature_norms))
    assert ranking("el2n", epochs=epochs) == descending(references.early_mean(errors, runs, epochs))
    assert ranking("grand", epochs=epochs) == descending(references.early_mean(errors * norms, runs, epochs))


def test_aum_takes_the_hardest_first_or_the_easiest() -> None:
    area = SIGNALS.margins.double().numpy().mean(axis=0)
    assert ranking("aum") == descending(-area)
    assert ranking("aum", keep="easy") == descending(area)


@pytest.mark.parametrize("per_class", [True, False])
@pytest.mark.parametrize("measure", ["least_confidence", "entropy", "margin"])
def test_uncertainty_takes_the_most_uncertain_first_over_the_whole_pool_too(measure: str, per_class: bool) -> None:
    scores = references.uncertainty(LOGITS, measure)
    picks = select(Pool(signals=SIGNALS), method="uncertainty", budget=15, measure=measure, per_class=per_class).indices
    assert scores[picks].mean() > np.sort(scores)[-40:].mean() > scores.mean()
    if not per_class:
        assert ranking("uncertainty", measure=measure)[:15] == picks.tolist() == descending(scores)[:15]


@pytest.mark.parametrize("neighbors", [1, 10, 500])
def test_cal_takes_the_highest_divergence(neighbors: int) -> None:
    assert SIGNALS.embeddings is not None
    scores = references.cal(SIGNALS.embeddings.numpy(), LOGITS, min(neighbors, 74))
    assert ranking("cal", neighbors=neighbors) == descending(scores)


def test_cal_finds_the_one_that_is_answered_otherwise_than_its_neighbours() -> None:
    """The lowest divergence would choose from the many that agree."""
    logits = torch.tensor([[3.0, 0.0]]).repeat(20, 1)
    logits[13] = torch.tensor([0.0, 3.0])
    pool = Pool(normal_rows(20), signals=Signals.from_logits(logits, [0] * 20))
    assert select(pool, method="cal", budget=1).indices.tolist() == [13]


def test_cal_looks_for_neighbours_in_the_features_where_no_embeddings_were_recorded() -> None:
    bare = Signals.from_logits(SIGNALS.logits, LABELS)
    in_features = select(Pool(FEATURES, signals=bare), method="cal", budget=20)
    scores = references.cal(FEATURES.numpy(), LOGITS, 10)
    assert in_features.indices.tolist() == descending(scores)[:20]
    recorded = select(Pool(torch.flip(FEATURES, [0]), signals=SIGNALS), method="cal", budget=20)
    assert torch.equal(recorded.indices, select(Pool(signals=SIGNALS), method="cal", budget=20).indices)
    with pytest.raises(ValueError, match="'cal' needs features and the pool has none"):
        select(Pool(signals=bare), method="cal", budget=20)


def linear_signals(width: int = 5) -> tuple[Signals, np.ndarray, Tensor]:
    """A recording of one linear layer, its weights and its inputs; lengths of the weights' differences vary."""
    generator = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(60, width, generator=generator), torch.arange(60) % 4
    weights = torch.randn(4, width, generator=generator) * torch.tensor([[1.0], [5.0], [0.2], [2.0]])
    return Signals.from_logits(inputs @ weights.T, labels, inputs), weights.double().numpy(), inputs


def test_deepfool_takes_what_is_nearest_to_a_boundary() -> None:
    signals, weights, _ = linear_signals()
    distances = references.deepfool(signals.logits.double().numpy(), weights)
    found = select(Pool(signals=signals), method="deepfool", budget=60)
    assert found.indices.tolist() == descending(-distances)
    assert found.manifest["resolved"]["head_fit"] == [1.0]
    by_margin = descending(-references.uncertainty(signals.logits.double().numpy(), "margin"))
    assert found.indices.tolist() != by_margin[::-1], "a margin of logits is not a distance"


def test_deepfool_steps_really_reach_the_boundary() -> None:
    signals, weights, inputs = linear_signals()
    first = int(select(Pool(signals=signals), method="deepfool", budget=1).indices)
    logits = signals.logits[first].double().numpy()
    answer = int(logits.argmax())
    steps = []
    for other in set(range(4)) - {answer}:
        apart = weights[answer] - weights[other]
        steps.append(-(logits[answer] - logits[other]) * apart / (apart**2).sum())
    shortest = min(steps, key=np.linalg.norm)
    moved = (inputs[first].double().numpy() + 1.001 * shortest) @ weights.T
    assert moved.argmax() != answer
    assert np.linalg.norm(shortest) == pytest.approx(
        references.deepfool(signals.logits.double().numpy(), weights).min(), rel=1e-4
    )


def test_deepfool_knows_one_layer_for_all_classes() -> None:
    """Fifteen items of a class do not tell a layer of thirty inputs; the whole pool does."""
    signals, weights, _ = linear_signals(30)
    distances = references.deepfool(signals.logits.double().numpy(), weights)
    picks = select(Pool(signals=signals), method="deepfool", budget=20, per_class=True).indices
    for label in range(4):
        members = np.flatnonzero(signals.labels.numpy() == label)
        expected = members[np.argsort(distances[members], kind="stable")][:5]
        assert picks[signals.labels[picks] == label].tolist() == expected.tolist()


def test_deepfool_without_embeddings_perturbs_the_logits() -> None:
    logits = torch.tensor([[3.0, 0.0, -1.0], [2.0, 1.5, 0.0], [0.0, 1.0, 0.5]])
    found = select(Pool(signals=Signals.from_logits(logits, [0, 0, 1])), method="deepfool", budget=3)
    assert sorted(found.indices.tolist()[:2]) == [1, 2]
    assert found.indices.tolist()[2] == 0
    assert found.manifest["resolved"]["head_fit"] == [None]


@pytest.mark.parametrize("method", [*SCORED, "ccs"])
def test_items_that_no_epoch_saw_come_last(method: str) -> None:
    logits = torch.stack([SIGNALS.logits, SIGNALS.logits])
    logits[:, [3, 40]] = torch.nan
    embeddings = FEATURES.clone()
    signals = Signals.from_logits(logits, LABELS, embeddings)
    coreset = select(Pool(FEATURES, signals=signals), method=method, budget=75)
    assert coreset.indices.tolist()[-2:] == [3, 40]


@pytest.mark.parametrize("method", SCORED)
def test_initial_items_only_are_no_candidates(method: str) -> None:
    """A score does not hang on what is chosen."""
    pool = pool_of(method, FEATURES, LABELS)
    whole = select(pool, method=method, budget=75).indices.tolist()
    rest: Coreset = select(pool, method=method, budget=30, initial=whole[5:25], forbidden=[whole[0]])
    assert rest.indices.tolist() == [*whole[1:5], *whole[25:51]]


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("el2n", {"epochs": 0}, "epochs=0 is not accepted: give a whole number"),
        ("grand", {"epochs": True}, "epochs=True is not accepted"),
        ("aum", {"keep": "both"}, "keep='both' is not accepted: give one of 'hard', 'easy'"),
        ("uncertainty", {"measure": "variance"}, "measure='variance' is not accepted"),
        ("cal", {"neighbors": 1.5}, "neighbors=1.5 is not accepted"),
    ],
)
def test_arguments_out_of_range(method: str, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select(Pool(FEATURES, signals=SIGNALS), method=method, budget=3, **arguments)  # type: ignore[arg-type]


def test_grand_needs_the_inputs_of_the_last_layer() -> None:
    with pytest.raises(ValueError, match="'grand' needs the inputs of the last layer and the signals hold none"):
        select(Pool(signals=Signals.from_logits(SIGNALS.logits, LABELS)), method="grand", budget=3)
