"""lightning-uq-box: items become dictionaries in its collation, images bring an ``index`` of their own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightning_coreset import CoresetDataModule
from tests.helpers.clients import compare, rows
from tests.helpers.lightning_parts import quiet_trainer

pytest.importorskip("lightning_uq_box", reason="lightning-uq-box is not installed: tox run -e clients")

# Its own dependencies still compile with torch.jit.
pytestmark = [pytest.mark.clients, pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")]


def classification(network: nn.Module) -> Any:
    from lightning_uq_box.uq_methods import DeterministicClassification

    return DeterministicClassification(network, loss_fn=nn.CrossEntropyLoss())


def test_two_moons_with_its_own_method(tmp_path: Path) -> None:
    from lightning_uq_box.datamodules import TwoMoonsDataModule
    from lightning_uq_box.models import MLP

    ours = compare(
        lambda: TwoMoonsDataModule(batch_size=16, n_samples=200),
        lambda: classification(MLP(n_inputs=2, n_hidden=[8], n_outputs=2)),
        tmp_path,
        lambda batch: rows(batch["input"]),
        expected_batches=2,
        method="facility_location",
        ratio=0.25,
        features="pixels",
    )
    datamodule = ours.datamodule
    chosen = datamodule.coreset.indices
    assert [set(epoch) for epoch in ours.seen] == [set(rows(datamodule.X_train[chosen]))] * 2
    assert torch.equal(datamodule.coreset.labels, datamodule.Y_train[chosen])


def images(**settings: Any) -> Any:
    from lightning_uq_box.datamodules import ToyImageClassificationDatamodule

    return ToyImageClassificationDatamodule(batch_size=4, num_samples=24, img_size=8, **settings)


def image_network() -> Any:
    return classification(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)))


@pytest.mark.filterwarnings("ignore:ToyImageClassificationDatamodule gives other items")
def test_images_with_their_own_index(tmp_path: Path) -> None:
    positions: list[list[int]] = []

    def mark(batch: Any) -> list[Any]:
        assert batch["aux"] == ["random_aux_data"] * len(batch["index"])
        positions.append(batch["index"].tolist())
        return rows(batch["input"])

    ours = compare(
        images, image_network, tmp_path, mark, expected_batches=2, method="k_center", budget=8, features="pixels"
    )
    # The user's index is the position in the whole train dataset.
    assert sorted(positions[-2] + positions[-1]) == ours.datamodule.coreset.indices.sort().values.tolist()


def test_what_was_selected_from_is_trained_on(tmp_path: Path) -> None:
    # Every loader of this datamodule has new random images: positions say nothing about the next one.
    class Noting(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            embedded.extend(rows(inputs))
            return inputs.flatten(1)

    embedded: list[Any] = []
    datamodule = CoresetDataModule(images(), method="k_center", budget=8, features=Noting(), cache_dir=None)
    trainer = quiet_trainer(tmp_path, max_epochs=2, reload_dataloaders_every_n_epochs=1)
    with pytest.warns(UserWarning, match="ToyImageClassificationDatamodule gives other items with each train loader"):
        trainer.fit(image_network(), datamodule=datamodule)
    trained = {mark for batch in trainer.train_dataloader for mark in rows(batch["input"])}
    assert trained == {embedded[index] for index in datamodule.coreset.indices.tolist()}
