"""What logits tell of each item, whichever batch it came in."""

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_coreset import Pool, Signals
from lightning_coreset.signals.signals import per_sample


def recorded(epochs: int = 4, items: int = 23, classes: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (items,), generator=generator)
    return 3 * torch.randn(epochs, items, classes, generator=generator), labels


def test_columns_equal_numpy() -> None:
    logits, labels = recorded()
    signals = Signals.from_logits(logits, labels)
    values = logits.double().numpy()
    probabilities = np.exp(values) / np.exp(values).sum(2, keepdims=True)
    for item, label in enumerate(labels.tolist()):
        own, others = values[:, item, label], np.delete(values[:, item], label, axis=1)
        assert np.allclose(signals.margins[:, item], own - others.max(1), atol=1e-5)
        assert np.allclose(signals.losses[:, item], -np.log(probabilities[:, item, label]), atol=1e-5)
        assert np.allclose(
            signals.errors[:, item], np.linalg.norm(probabilities[:, item] - np.eye(5)[label], axis=1), atol=1e-5
        )
        assert signals.correct[:, item].tolist() == (values[:, item].argmax(1) == label).astype(int).tolist()


@pytest.mark.parametrize("batch", [1, 3, 22, 23])
def test_no_item_depends_on_its_batch(batch: int) -> None:
    """A loss averaged over a batch would inflate the last, short one."""
    logits, labels = recorded(epochs=1)
    whole = per_sample(logits[0], labels)
    parts = [per_sample(*part) for part in zip(logits[0].split(batch), labels.split(batch), strict=True)]
    for name, column in whole.items():
        assert torch.allclose(torch.cat([part[name] for part in parts]), column, atol=1e-6)


def test_a_tie_is_answered_by_the_lowest_class() -> None:
    signals = Signals.from_logits(torch.tensor([[1.0, 1.0], [1.0, 1.0]]), torch.tensor([0, 1]))
    assert signals.correct.tolist() == [[1, 0]]


def test_an_epoch_without_an_item_holds_nothing_of_it() -> None:
    logits, labels = recorded(epochs=3)
    logits[2, 5] = torch.nan
    logits[:, 7] = torch.nan
    signals = Signals.from_logits(logits, labels, embeddings=torch.ones(23, 2))
    assert torch.equal(signals.logits[5], logits[1, 5])
    assert signals.correct[:, 5].tolist()[2] == -1
    for column in (signals.losses, signals.margins, signals.errors):
        assert torch.isnan(column[2, 5])
        assert torch.isnan(column[:, 7]).all()
        assert not torch.isnan(column[:2, 5]).any()
    assert torch.isnan(signals.logits[7]).all()


def test_feature_norms_count_the_bias() -> None:
    logits, labels = recorded(epochs=2)
    signals = Signals.from_logits(logits, labels, embeddings=torch.full((23, 3), 2.0))
    assert signals.feature_norms is not None
    assert torch.allclose(signals.feature_norms, torch.full((2, 23), 13.0).sqrt())


def test_a_subset_is_the_recording_of_these_items() -> None:
    logits, labels = recorded()
    places = torch.tensor([7, 2, 2, 20])
    part = Signals.from_logits(logits, labels, torch.rand(23, 3)).subset(places)
    alone = Signals.from_logits(logits[:, places], labels[places])
    assert torch.equal(part.logits, alone.logits)
    assert torch.equal(part.margins, alone.margins)
    assert part.embeddings is not None
    assert part.embeddings.shape == (4, 3)


def test_a_pool_takes_size_and_labels_from_its_signals() -> None:
    logits, labels = recorded()
    pool = Pool(signals=Signals.from_logits(logits, labels))
    assert pool.size == 23
    assert pool.labels is not None
    assert torch.equal(pool.labels, labels)
    with pytest.raises(ValueError, match="'features': 4.*'signals': 23.*columns of the same length"):
        Pool(torch.ones(4, 2), signals=pool.signals)


@pytest.mark.parametrize(
    ("logits", "labels", "embeddings", "message"),
    [
        (torch.ones(3), [0, 0, 0], None, r"logits have shape \[3\]: give \[E, N, C\]"),
        (torch.ones(3, 1), [0, 0, 0], None, "at least two classes"),
        (torch.ones(3, 2), [0, 0], None, "one class per item"),
        (torch.ones(3, 2), [0, 2, 0], None, "label of item 1 is 2, logits have 2 classes"),
        (
            torch.tensor([[1.0, 1.0], [torch.nan, 1.0]]),
            [0, 0],
            None,
            "logits of item 1 hold infinite values or NaN in part",
        ),
        (torch.tensor([[1.0, torch.inf]]), [0], None, "logits of item 0 hold infinite"),
        (torch.ones(3, 2), [0, 0, 0], torch.ones(2, 4), r"embeddings have shape \[1, 2, 4\]"),
    ],
)
def test_recordings_that_are_none(logits: Tensor, labels: list[int], embeddings: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Signals.from_logits(logits, labels, embeddings)
