"""CRAIG, GRAD-MATCH and GLISTER against whole gradients, and their weights."""

import numpy as np
import pytest
import torch

from lightning_coreset import Pool, Signals, select
from tests.helpers import references_signals as references
from tests.helpers.examples import clouds, signals_of

FEATURES, LABELS = clouds([40, 25, 31], width=6)
SIGNALS = signals_of(FEATURES, LABELS)
POOL = Pool(signals=SIGNALS)
LOGITS = SIGNALS.logits.double().numpy()
assert SIGNALS.embeddings is not None
INPUTS = SIGNALS.embeddings.double().numpy()
WHOLE = references.gradients(LOGITS, LABELS.numpy(), INPUTS)


@pytest.mark.parametrize("mode", ["dense", "streamed"])
def test_craig_is_the_reference(mode: str) -> None:
    picks, sizes = references.craig(WHOLE, 20)
    found = select(POOL, method="craig", budget=20, per_class=False, mode=mode)
    assert found.indices.tolist() == picks
    assert (found.weights * found.manifest["weight_scale"]).round().int().tolist() == sizes
    assert found.manifest["resolved"]["mode"] == mode


def test_craig_works_in_each_class() -> None:
    found = select(POOL, method="craig", budget=12)
    for label in range(3):
        members = np.flatnonzero(LABELS.numpy() == label)
        picks = found.indices[found.labels == label].tolist()
        assert picks == members[references.craig(WHOLE[members], len(picks))[0]].tolist()


def test_craig_goes_on_from_initial_items() -> None:
    picks, sizes = references.craig(WHOLE, 10, initial=[3, 50])
    found = select(POOL, method="craig", budget=10, per_class=False, initial=[3, 50])
    assert found.indices.tolist() == picks
    assert (found.weights * found.manifest["weight_scale"]).round().int().tolist() == sizes


@pytest.mark.parametrize("per_class", [True, False])
@pytest.mark.parametrize("initial", [None, [4, 60]])
@pytest.mark.parametrize("method", ["craig", "grad_match"])
def test_weights_sum_to_the_pool(method: str, initial: list[int] | None, per_class: bool) -> None:
    """One more for each pick (cluster sizes plus one), or weights of a mean gradient, would not."""
    found = select(POOL, method=method, budget=24, per_class=per_class, initial=initial, forbidden=[5])
    sizes = found.weights.double() * found.manifest["weight_scale"]
    assert found.weights.mean().item() == pytest.approx(1, abs=1e-6)
    assert sizes.sum().item() == pytest.approx(96, abs=1e-3)
    assert bool((sizes >= 0).all())
    if per_class:
        for label, size in enumerate([40, 25, 31]):
            assert sizes[found.labels == label].sum().item() == pytest.approx(size, abs=1e-3)


@pytest.mark.parametrize("ridge", [0.5, 0.01])
def test_grad_match_is_the_reference(ridge: float) -> None:
    found = select(POOL, method="grad_match", budget=30, per_class=False, ridge=ridge)
    assert found.indices.tolist() == references.matching_pursuit(WHOLE, 30, ridge)
    weights = references.ridge_weights(WHOLE, found.indices.tolist(), ridge)
    sizes = (found.weights * found.manifest["weight_scale"]).double().numpy()
    assert np.allclose(sizes, weights * 96 / weights.sum(), atol=1e-4 * weights.max())


@pytest.mark.parametrize("per_class", [True, False])
@pytest.mark.parametrize("budget", [1, 40, 96])
def test_grad_match_gives_as_many_as_asked_for(budget: int, per_class: bool) -> None:
    """Gradients of a class point into less than 35 directions: least squares without a ridge would need no more."""
    found = select(POOL, method="grad_match", budget=budget, per_class=per_class, ridge=1e-6)
    assert len(set(found.indices.tolist())) == budget


def test_grad_match_points_where_all_gradients_point() -> None:
    found = select(POOL, method="grad_match", budget=20, per_class=False, ridge=1e-3)
    wanted = WHOLE.sum(axis=0)

    def turned(weights: np.ndarray, chosen: np.ndarray) -> float:
        """1 less the cosine."""
        sum_of_few = weights @ WHOLE[chosen]
        return float(1 - sum_of_few @ wanted / np.linalg.norm(sum_of_few) / np.linalg.norm(wanted))

    random = np.random.default_rng(0)
    others = [turned(np.ones(20), random.permutation(96)[:20]) for _ in range(50)]
    assert turned(found.weights.double().numpy(), found.indices.numpy()) < 0.1 * min(others)


def test_without_gradients_all_weights_are_alike() -> None:
    sure = Signals.from_logits(torch.tensor([[2000.0, 0.0]]).repeat(9, 1), [0] * 9)
    for method in ("craig", "grad_match"):
        found = select(Pool(signals=sure), method=method, budget=3)
        assert found.indices.tolist() == [0, 1, 2]
        assert bool(torch.isfinite(found.weights).all())
    assert found.weights.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("method", ["craig", "grad_match", "glister"])
def test_without_embeddings_gradients_are_those_of_the_logits(method: str) -> None:
    bare = select(Pool(signals=Signals.from_logits(SIGNALS.logits, LABELS)), method=method, budget=20, per_class=False)
    nothing = Signals.from_logits(SIGNALS.logits, LABELS, torch.zeros(96, 1))
    assert torch.equal(select(Pool(signals=nothing), method=method, budget=20, per_class=False).indices, bare.indices)
    if method == "craig":
        assert bare.indices.tolist() == references.craig(references.gradients(LOGITS, LABELS.numpy(), None), 20)[0]


HELD = [2, 11, 29, 45, 46, 70, 90]


@pytest.mark.parametrize("block", [1, 4, 10])
@pytest.mark.parametrize("rate", [0.1, 1.0, 5.0])
def test_glister_is_the_reference(rate: float, block: int) -> None:
    found = select(POOL, method="glister", budget=40, validation=HELD, block=block, learning_rate=rate)
    expected = references.glister(LOGITS, LABELS.numpy(), INPUTS, HELD, 40, block=block, rate=rate)
    assert found.indices.tolist() == expected
    assert found.manifest["resolved"]["validation_items"] == [7]
    assert found.manifest["arguments"]["validation"] == HELD


def test_glister_looks_at_the_held_out_gradient_again() -> None:
    """Without it the picks are the highest gains at the start, whatever was picked."""
    still = select(POOL, method="glister", budget=40, validation=HELD, learning_rate=0)
    gain = WHOLE @ WHOLE[HELD].sum(axis=0)
    gain[HELD] = -np.inf
    assert still.indices.tolist() == np.argsort(-gain, kind="stable")[:40].tolist()
    moving = select(POOL, method="glister", budget=40, validation=HELD)
    assert moving.indices.tolist()[:10] == still.indices.tolist()[:10]
    assert set(moving.indices.tolist()) != set(still.indices.tolist())


def test_glister_steps_from_initial_items() -> None:
    whole = select(POOL, method="glister", budget=30, validation=HELD, block=5)
    rest = select(POOL, method="glister", budget=20, validation=HELD, block=5, initial=whole.indices[:10])
    assert torch.equal(rest.indices, whole.indices[10:])


@pytest.mark.parametrize("per_class", [True, False])
def test_glister_holds_a_drawn_share_out_and_takes_it_last(per_class: bool) -> None:
    whole = select(POOL, method="glister", budget=96, validation=0.25, per_class=per_class, seed=4)
    sizes = whole.manifest["resolved"]["validation_items"]
    assert sizes == ([10, 6, 8] if per_class else [24])
    other = select(POOL, method="glister", budget=72, validation=0.25, per_class=per_class, seed=5)
    assert set(other.indices.tolist()) != set(whole.indices[:72].tolist())


def test_glister_never_takes_held_out_items_that_are_forbidden() -> None:
    found = select(POOL, method="glister", budget=89, validation=HELD, forbidden=HELD)
    assert set(found.indices.tolist()) == set(range(96)) - set(HELD)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"validation": 0.0}, "'glister' needs a validation split, give a share in"),
        ({"validation": 1}, "needs a validation split"),
        ({"validation": None}, "validation=None is not accepted: 'glister' needs a validation split"),
        ({"validation": []}, "needs a validation split"),
        ({"validation": [0.5]}, "needs a validation split"),
        ({"validation": [3, 96]}, "validation holds 96, but positions go from 0 to 95"),
        ({"validation": [0], "per_class": True}, "validation holds no item of class"),
        ({"block": 0}, "block=0 is not accepted"),
        ({"learning_rate": -1}, "learning_rate=-1 is not accepted: give a number of at least 0"),
    ],
)
def test_glister_says_what_it_needs(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select(POOL, method="glister", budget=5, **arguments)  # type: ignore[arg-type]


def test_other_arguments_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"ridge=0 is not accepted: give a positive number"):
        select(POOL, method="grad_match", budget=5, ridge=0)
    with pytest.raises(ValueError, match=r"mode='sparse' is not accepted"):
        select(POOL, method="craig", budget=5, mode="sparse")


@pytest.mark.parametrize("method", ["craig", "grad_match", "glister"])
def test_an_item_that_no_epoch_saw_is_an_error(method: str) -> None:
    logits = SIGNALS.logits.clone()
    logits[17] = torch.nan
    with pytest.raises(ValueError, match="record one epoch over all items"):
        select(Pool(signals=Signals.from_logits(logits, LABELS)), method=method, budget=5)
