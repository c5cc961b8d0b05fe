"""Scores of single items, and the mistakes that are known of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_coreset import Signals
from lightning_coreset.signals.scores import area_under_margin, el2n, forgetting_events, grand, uncertainty
from tests.helpers import references_signals as references


def recorded(runs: tuple[int, ...] = (4, 3), items: int = 40, seed: int = 0) -> Signals:
    """A recording of several runs, five classes and embeddings of every epoch."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(5, (items,), generator=generator)
    logits = 2 * torch.randn(sum(runs), items, 5, generator=generator)
    found = Signals.from_logits(logits, labels, torch.randn(sum(runs), items, 3, generator=generator))
    return replace(found, runs=torch.arange(len(runs)).repeat_interleave(torch.tensor(runs)))


def answers(*rows: list[int], runs: list[int] | None = None) -> Signals:
    """A recording of two classes from 1 (right), 0 (wrong), -1 (not seen); one row an epoch."""
    right = torch.tensor(rows)
    margins = torch.where(right < 0, torch.nan, 2.0 * right - 1)
    logits = torch.stack([margins, 0 * margins], dim=2)
    found = Signals.from_logits(logits, torch.zeros(right.shape[1], dtype=torch.int64))
    assert torch.equal(found.correct.long(), right)
    return found if runs is None else replace(found, runs=torch.tensor(runs))


@pytest.mark.parametrize("seed", range(3))
def test_forgetting_is_the_reference(seed: int) -> None:
    signals = recorded(seed=seed)
    assert signals.runs is not None
    signals.correct[torch.rand(signals.correct.shape, generator=torch.Generator().manual_seed(seed)) < 0.2] = -1
    signals.correct[0] = signals.correct[0].clamp(min=0)
    expected = references.forgetting_events(signals.correct.numpy(), signals.runs.numpy())
    assert forgetting_events(signals).tolist() == expected


def test_what_was_never_learnt_is_harder_than_what_was_forgotten() -> None:
    """Counted as zero events, it would be the easiest of all."""
    signals = answers([1, 0, 1], [0, 0, 1], [1, 0, 1], [0, 0, 1])
    assert forgetting_events(signals).tolist() == [2.0, torch.inf, 0.0]


def test_an_epoch_that_did_not_see_an_item_says_nothing_of_it() -> None:
    signals = answers([1, 1, -1], [-1, -1, -1], [0, 1, -1])
    events = forgetting_events(signals)
    assert events[:2].tolist() == [1.0, 0.0]
    assert torch.isnan(events[2])


def test_nothing_is_forgotten_between_two_runs() -> None:
    signals = answers([1, 0], [1, 0], [0, 1], [0, 0], runs=[0, 0, 1, 1])
    assert forgetting_events(signals).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("epochs", [1, 3, 10])
def test_el2n_and_grand_are_means_of_each_runs_first_epochs(epochs: int) -> None:
    signals = recorded()
    assert signals.runs is not None
    assert signals.feature_norms is not None
    runs, errors, norms = (column.numpy() for column in (signals.runs, signals.errors, signals.feature_norms))
    assert np.allclose(el2n(signals, epochs), references.early_mean(errors, runs, epochs), atol=1e-6)
    assert np.allclose(grand(signals, epochs), references.early_mean(errors * norms, runs, epochs), atol=1e-5)


def test_grand_is_the_length_of_the_gradient() -> None:
    """Against autograd, one item at a time: a loss averaged over a batch would shrink all but the last, short one."""
    generator = torch.Generator().manual_seed(1)
    inputs, labels = torch.randn(7, 4, generator=generator), torch.tensor([0, 1, 2, 0, 1, 2, 2])
    layer = torch.nn.Linear(4, 3)
    with torch.no_grad():
        signals = Signals.from_logits(layer(inputs), labels, inputs)
    lengths = []
    for row, label in zip(inputs, labels, strict=True):
        loss = torch.nn.functional.cross_entropy(layer(row), label)
        parts = torch.autograd.grad(loss, [layer.weight, layer.bias])
        lengths.append(torch.cat([part.flatten() for part in parts]).norm())
    assert torch.allclose(grand(signals, 10).float(), torch.stack(lengths), atol=1e-5)


def test_grand_without_inputs_says_what_to_give() -> None:
    with pytest.raises(ValueError, match=r"needs the inputs of the last layer.*embeddings=.*'el2n'"):
        grand(Signals.from_logits(torch.zeros(3, 2), [0, 1, 0]), 10)


def test_aum_is_a_mean_of_logits_not_of_probabilities() -> None:
    """The softmax would flatten the first item's large margin and turn the order round."""
    margins = torch.tensor([[10.0, 2.0], [0.0, 2.0]])
    signals = Signals.from_logits(torch.stack([margins, 0 * margins], dim=2), [0, 0])
    assert area_under_margin(signals).tolist() == [5.0, 2.0]
    probabilities = torch.stack([margins, 0 * margins], dim=2).softmax(dim=2)
    assert (probabilities[..., 0] - probabilities[..., 1]).mean(dim=0).argmax() == 1


@pytest.mark.parametrize("measure", ["least_confidence", "entropy", "margin"])
def test_uncertainty_is_the_reference(measure: str) -> None:
    logits = recorded().logits
    expected = references.uncertainty(logits.double().numpy(), measure)
    assert np.allclose(uncertainty(logits, measure), expected, atol=1e-9)  # type: ignore[arg-type]


@pytest.mark.parametrize("measure", ["least_confidence", "entropy", "margin"])
def test_uncertainty_is_of_the_softmax_not_of_the_logits(measure: str) -> None:
    """The second item's logits are the largest, and nearly equal."""
    scores = uncertainty(torch.tensor([[1.0, -5.0], [5.0, 4.9]]), measure)  # type: ignore[arg-type]
    assert scores.argmax() == 1


@pytest.mark.parametrize("size", [1, 7, 39])
def test_no_score_depends_on_which_items_are_looked_at_together(size: int) -> None:
    signals = recorded()

    def scores(found: Signals) -> list[Tensor]:
        return [
            forgetting_events(found),
            el2n(found, 3),
            grand(found, 3),
            area_under_margin(found),
            uncertainty(found.logits, "entropy"),
        ]

    parts = [scores(signals.subset(places)) for places in torch.arange(40).split(size)]
    for place, whole in enumerate(scores(signals)):
        assert torch.equal(torch.cat([part[place] for part in parts]), whole)
