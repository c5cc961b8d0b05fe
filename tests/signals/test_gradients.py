"""The last layer's gradients, and the layer itself, from what was recorded."""

import numpy as np
import pytest
import torch

from lightning_coreset import Signals
from lightning_coreset.signals.gradients import last_layer_gradients
from lightning_coreset.signals.head import head_weights
from tests.helpers import references_signals as references


def test_gradients_are_those_of_autograd() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(6, 4, generator=generator), torch.tensor([0, 1, 2, 0, 1, 2])
    layer = torch.nn.Linear(4, 3)
    with torch.no_grad():
        factors = last_layer_gradients(Signals.from_logits(layer(inputs), labels, inputs))
    for item in range(6):
        loss = torch.nn.functional.cross_entropy(layer(inputs[item]), labels[item])
        weight, bias = torch.autograd.grad(loss, [layer.weight, layer.bias])
        outer = factors.residuals[item][:, None] * factors.inputs[item]
        assert torch.allclose(outer, torch.cat([weight, bias[:, None]], dim=1), atol=1e-6)


def test_without_inputs_the_bias_is_the_layer() -> None:
    logits, labels = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1])
    factors = last_layer_gradients(Signals.from_logits(logits, labels))
    assert torch.equal(factors.inputs, torch.ones(5, 1))
    assert np.allclose(factors.residuals, references.gradients(logits.numpy(), labels.numpy(), None), atol=1e-6)


def test_confident_items_keep_their_digits() -> None:
    """1 less almost 1 is 0 in single precision."""
    factors = last_layer_gradients(Signals.from_logits(torch.tensor([[25.0, 0.0]]), torch.tensor([0])))
    assert factors.residuals[0, 0].item() == pytest.approx(-np.exp(-25.0), rel=1e-4)


def test_an_item_that_was_never_seen_has_no_gradient() -> None:
    logits = torch.tensor([[1.0, 0.0], [torch.nan, torch.nan], [1.0, 0.0]])
    with pytest.raises(ValueError, match=r"No epoch saw item 1 \(1 of 3\).*record one epoch over all items"):
        last_layer_gradients(Signals.from_logits(logits, [0, 0, 1]))


def test_a_linear_layer_is_found_again() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, layer = torch.randn(50, 6, generator=generator) + 3, torch.nn.Linear(6, 4)
    with torch.no_grad():
        logits = layer(inputs)
        logits[3] = torch.nan
    weights, fit = head_weights(Signals.from_logits(logits, torch.arange(50) % 4, inputs))
    assert torch.allclose(weights.float(), layer.weight.detach(), atol=1e-4)
    assert fit == pytest.approx(1, abs=1e-9)


def test_directions_that_inputs_do_not_have_get_no_weight() -> None:
    inputs = torch.zeros(10, 3)
    inputs[:, 0] = torch.arange(10.0)
    weights, fit = head_weights(Signals.from_logits(torch.stack([inputs[:, 0], -inputs[:, 0]], 1), [0] * 10, inputs))
    assert torch.allclose(weights, torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]).double(), atol=1e-9)
    assert fit == pytest.approx(1)


def test_what_is_not_linear_fits_worse() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, 5, generator=generator)
    signals = Signals.from_logits(torch.randn(200, 3, generator=generator), [0] * 200, inputs)
    assert head_weights(signals)[1] < 0.2
