"""The plain training loop: seeded, without a trace, and as if nobody had trained before."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from lightning_coreset import CoresetError
from lightning_coreset.features.training import train_classifier
from tests.helpers.lightning_parts import digit_tensors

IMAGES, LABELS = digit_tensors(300)


def small_network(dropout: float = 0.0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Dropout(dropout),
            nn.Linear(144, 10),
        )  # fmt: skip


def trained(dropout: float = 0.2, dataset: object = None, **settings: object) -> nn.Module:
    dataset = TensorDataset(IMAGES, LABELS) if dataset is None else dataset
    arguments = {"epochs": 2, "batch_size": 32, "seed": 5} | settings
    return train_classifier(small_network(dropout), dataset, LABELS[: len(dataset)], **arguments)


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def test_it_learns_digits() -> None:
    network = trained(epochs=6)
    assert not network.training
    assert (network(IMAGES).argmax(1) == LABELS).float().mean() > 0.9


def test_the_same_weights_from_any_state_and_any_number_of_workers() -> None:
    torch.manual_seed(1)
    first = trained()
    torch.manual_seed(2)
    assert same(first, trained())
    assert same(first, trained(num_workers=2))
    assert not same(first, trained(seed=6))


def test_nobody_elses_random_numbers_change() -> None:
    class Drawing(TensorDataset):
        def __getitem__(self, index: int) -> tuple:
            random.random(), np.random.rand(), torch.rand(1)
            return super().__getitem__(index)

    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    trained(dataset=Drawing(IMAGES, LABELS))
    assert random.getstate() == states[0]
    assert (np.random.get_state()[1] == states[1]).all()
    assert torch.equal(torch.get_rng_state(), states[2])


def test_every_epoch_shows_every_item_once() -> None:
    seen: list[int] = []

    class Watched(TensorDataset):
        def __getitem__(self, index: int) -> tuple:
            seen.append(index)
            return super().__getitem__(index)

    # 97 items in batches of 32 would leave one of one item.
    trained(dataset=Watched(IMAGES[:97], LABELS[:97]), epochs=3)
    epochs = [seen[start : start + 97] for start in range(0, 3 * 97, 97)]
    assert all(sorted(epoch) == list(range(97)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_the_callback_sees_each_epoch_in_evaluation_mode_and_changes_nothing() -> None:
    heard: list[tuple[int, bool, bool]] = []

    def listen(epoch: int, network: nn.Module) -> None:
        heard.append((epoch, network.training, torch.is_grad_enabled()))
        network(IMAGES[:7])

    watched = trained(dropout=0.0, on_epoch_end=listen)
    assert heard == [(0, False, False), (1, False, False)]
    assert same(watched, trained(dropout=0.0))


def test_labels_that_are_given_count() -> None:
    """Items bring labels of their own, which may be boxes, masks or wrong."""
    wrong = TensorDataset(IMAGES, torch.zeros(len(IMAGES), 4))
    assert same(trained(dataset=wrong), trained())


def test_no_epochs_leave_the_weights_alone() -> None:
    assert same(trained(epochs=0), small_network())


def test_one_item_is_enough() -> None:
    trained(dataset=TensorDataset(IMAGES[:1], LABELS[:1]))


def test_it_trains_where_gradients_are_switched_off() -> None:
    with torch.no_grad():
        assert same(trained(), trained())
    assert not same(trained(), small_network())


@pytest.mark.parametrize(
    ("dataset", "error", "message"),
    [
        ([(torch.zeros(1, 8, 8), 0), (torch.zeros(1, 9, 9), 0)], CoresetError, "different sizes.*resizes them"),
        ([(torch.full((1, 8, 8), torch.nan), 0)] * 4, CoresetError, "not finite.*broken images"),
    ],
)
def test_what_cannot_be_trained_on(dataset: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        trained(dataset=dataset)


def test_labels_of_another_number_of_items() -> None:
    with pytest.raises(ValueError, match="300 labels came for 299 items"):
        train_classifier(small_network(), TensorDataset(IMAGES[:299]), LABELS, epochs=1)
