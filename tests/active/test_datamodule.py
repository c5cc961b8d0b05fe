"""ActiveLearningDataModule: the warm start, the loaders, and a source that behaves as if it were not wrapped."""

import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.cli import LightningCLI
from torch.utils.data import TensorDataset

from lightning_coreset import CoresetError, KCenter, list_selectors
from lightning_coreset.active import ActiveLearningDataModule, CallableOracle, Cost, DatasetOracle, ExportToLabel
from tests.active.parts import opened, pooled, shown
from tests.helpers.examples import LABEL_FREE, RECORDED
from tests.helpers.lightning_parts import DigitsSource, LinearNet, digit_tensors, marks, quiet_trainer

WARM = tuple(name for name in LABEL_FREE if name not in (*RECORDED, "dq_v2_example"))


class TestWarmStart:
    @pytest.mark.parametrize("method", WARM)
    def test_any_method_without_training_signals(self, method: str) -> None:
        datamodule = pooled(initial=method)
        datamodule.setup("fit")
        assert datamodule.pool.n_labelled == 12
        assert shown(datamodule) == sorted(datamodule.coreset.indices.tolist())
        (asked,) = [event for event in datamodule.pool.history if event["event"] == "request"]
        assert asked["ids"] == datamodule.coreset.indices.tolist(), "in the order chosen"
        assert asked["about"]["by"] == method

    @pytest.mark.parametrize("method", ["random", "k_center", "subzerocore", "uniform", "moderate"])
    def test_nothing_looks_at_labels(self, method: str) -> None:
        """The law: with other labels, or none, the same items are chosen."""
        images, labels = digit_tensors(120)
        sources = [TensorDataset(images, labels), TensorDataset(images, labels.flip(0)), TensorDataset(images)]
        chosen = []
        for source in sources:
            oracle = CallableOracle(lambda ids: dict.fromkeys(ids, 0))
            settings: dict[str, Any] = {"features": "pixels", "cache_dir": None, "oracle": oracle}
            datamodule = ActiveLearningDataModule(source, initial=method, budget=12, **settings)
            datamodule.setup("fit")
            chosen.append(datamodule.coreset.indices.tolist())
        assert chosen[0] == chosen[1] == chosen[2]

    def test_methods_that_need_classes_get_clusters(self) -> None:
        datamodule = pooled(initial="uniform")
        datamodule.setup("fit")
        assert datamodule.coreset.manifest["pseudo_classes"] == 8, "round(sqrt(120 / 2))"
        assert datamodule.coreset.class_counts.numel() <= 8

    def test_pseudo_classes_on_request(self) -> None:
        plain, clustered, named = pooled(), pooled(pseudo_classes=True), pooled(num_classes=3)
        for datamodule in (plain, clustered, named):
            datamodule.setup("fit")
        assert "pseudo_classes" not in plain.coreset.manifest
        assert clustered.coreset.manifest["pseudo_classes"] == 8
        assert named.coreset.manifest["pseudo_classes"] == 3
        (asked,) = [event for event in named.pool.history if event["event"] == "request"]
        assert asked["about"]["pseudo_classes"] == 3

    def test_it_is_made_once(self, tmp_path: Path) -> None:
        first, second = pooled(tmp_path / "journal.jsonl"), pooled(tmp_path / "journal.jsonl", initial="random", seed=5)
        for datamodule in (first, second):
            datamodule.setup("fit")
            datamodule.setup("fit")
        assert second.coreset is None
        assert second.pool.history == first.pool.history

    def test_items_that_are_labelled_count_as_chosen(self) -> None:
        whole = pooled(budget=14)
        whole.setup("fit")
        first, rest = whole.coreset.indices[:2].tolist(), whole.coreset.indices[2:].tolist()
        datamodule = pooled(labelled=first)
        datamodule.setup("fit")
        assert datamodule.coreset.indices.tolist() == rest
        assert datamodule.pool.units_spent == 12, "what is there from the start costs nothing"

    def test_a_request_whose_answer_was_lost_is_answered(self, tmp_path: Path) -> None:
        """A crash between request and answer: the oracle is asked again for the same items."""

        def crash(ids: list[int]) -> dict[int, int]:
            raise ConnectionError

        broken = pooled(tmp_path / "journal.jsonl", oracle=CallableOracle(crash))
        with pytest.raises(ConnectionError):
            broken.setup("fit")
        asked = broken.pool.pending
        datamodule = pooled(tmp_path / "journal.jsonl", initial="random")
        datamodule.setup("fit")
        assert datamodule.pool.labelled == asked

    def test_ids_are_names(self) -> None:
        datamodule = pooled(ids=lambda dataset: [f"image_{place}" for place in range(len(dataset))])
        datamodule.setup("fit")
        assert all(name.startswith("image_") for name in datamodule.pool.labelled)
        assert [f"image_{place}" for place in shown(datamodule)] == datamodule.pool.labelled

    def test_a_smoke_test_writes_nothing(self, tmp_path: Path) -> None:
        datamodule = pooled(tmp_path / "journal.jsonl")
        quiet_trainer(tmp_path, fast_dev_run=True).fit(LinearNet(), datamodule=datamodule)
        assert not (tmp_path / "journal.jsonl").exists()
        quiet_trainer(tmp_path).fit(LinearNet(), datamodule=datamodule)
        assert len((tmp_path / "journal.jsonl").read_text().splitlines()) == 5, "the same object, in a real run"
        datamodule.pool.label(datamodule.pool.unlabelled[:3])
        quiet_trainer(tmp_path, fast_dev_run=True).fit(LinearNet(), datamodule=datamodule)
        datamodule.pool.label(datamodule.pool.unlabelled[:3])
        quiet_trainer(tmp_path).fit(LinearNet(), datamodule=datamodule)
        assert datamodule.pool.n_labelled == 15, "and labels of before are still there"
        waiting = pooled(oracle=ExportToLabel(tmp_path / "files"))
        with pytest.raises(CoresetError, match="fast_dev_run asks nobody to label"):
            quiet_trainer(tmp_path, fast_dev_run=True).fit(LinearNet(), datamodule=waiting)
        assert not (tmp_path / "files").exists()

    def test_nothing_random_outside_is_touched(self) -> None:
        state = torch.get_rng_state()
        pooled(initial="typiclust").setup("fit")
        assert torch.equal(state, torch.get_rng_state())


class TestTargets:
    def test_returned_ones_stand_in_for_the_datasets(self) -> None:
        datamodule = opened()
        datamodule.pool.label([3, 7], targets={3: 5, 7: 6})
        datamodule.pool.label([4])
        own = datamodule.source.train.tensors[1]
        items = datamodule.train_dataloader().dataset
        assert [int(items[place][1]) for place in range(3)] == [5, int(own[4]), 6]
        assert own.equal(digit_tensors(120)[1]), "the user's dataset is as it was"

    def test_they_go_before_a_transform_that_moves_boxes(self) -> None:
        class Boxes(torch.utils.data.Dataset):
            def __init__(self) -> None:
                self.transforms = lambda image, target: (image.flip(-1), {"boxes": 10 - target["boxes"]})

            def __len__(self) -> int:
                return 4

            def __getitem__(self, index: int) -> Any:
                return self.transforms(torch.full((1, 4, 4), float(index)), {"boxes": torch.zeros(1, 4)})

        datamodule = ActiveLearningDataModule(Boxes(), features="pixels")
        datamodule.setup("fit")
        datamodule.pool.label([1])
        datamodule.pool.label([2], targets=[{"boxes": torch.full((2, 4), 3.0)}])
        items = datamodule.train_dataloader().dataset
        assert items[0][1]["boxes"].tolist() == [[10.0] * 4]
        assert items[1][1]["boxes"].tolist() == [[7.0] * 4] * 2

    @pytest.mark.parametrize(
        ("item", "shown"),
        [
            (torch.zeros(1), "tuple"),
            ({"image": torch.zeros(1)}, "dict"),
            ({"image": torch.zeros(1), "label": torch.tensor(0)}, "dict"),
            ([torch.zeros(1), 0, "more"], "list"),
        ],
    )
    def test_items_of_any_form(self, item: Any, shown: str) -> None:
        datamodule = ActiveLearningDataModule([item] * 3, features="pixels")
        datamodule.setup("fit")
        datamodule.pool.label([1], targets=[4])
        found = datamodule.train_dataloader().dataset[0]
        assert type(found).__name__ == shown
        assert int(found["label"] if shown == "dict" else found[1]) == 4

    def test_a_function_of_ones_own(self) -> None:
        datamodule = opened(overlay=lambda item, target: (item[0], item[1] + 100 * target))
        datamodule.pool.label([3], targets=[2])
        assert int(datamodule.train_dataloader().dataset[0][1]) >= 200


class TestLoaders:
    def test_the_pool_loader_goes_over_what_is_unlabelled_in_order_and_without_augmentation(self) -> None:
        class Augmented(TensorDataset):
            def __init__(self, count: int, transform: Any) -> None:
                super().__init__(*digit_tensors(count))
                self.transform = transform

            def __getitem__(self, index: int) -> Any:
                image, label = super().__getitem__(index)
                return self.transform(image), label

        class Source(DigitsSource):
            def setup(self, stage: str | None = None) -> None:
                self.train = Augmented(30, lambda image: image + torch.rand(1))
                self.held_out = Augmented(30, lambda image: image * 2)

        datamodule = opened(source=Source(), labelled=[0, 4])
        batches = list(datamodule.pool_dataloader())
        found = torch.cat([batch[0] for batch in batches])
        assert torch.equal(
            marks(found), marks(2 * digit_tensors(30)[0][datamodule.pool.positions(datamodule.pool.unlabelled)])
        )

    def test_predicting_over_the_pool(self, tmp_path: Path) -> None:
        datamodule = opened(labelled=[5])
        trainer = quiet_trainer(tmp_path)

        class Predicting(LinearNet):
            def predict_step(self, batch: Any) -> Any:
                return self(batch[0])

        rows = trainer.predict(Predicting(), dataloaders=datamodule.pool_dataloader())
        assert sum(map(len, rows)) == 119

    def test_all_else_is_the_sources(self, tmp_path: Path) -> None:
        datamodule = pooled()
        assert (datamodule.batch_size, datamodule.num_classes) == (16, 10)
        datamodule.batch_size = 8
        assert datamodule.source.batch_size == 8
        trainer, module = quiet_trainer(tmp_path), LinearNet()
        trainer.fit(module, datamodule=datamodule)
        wrapped = trainer.test(module, datamodule=datamodule, verbose=False)
        bare = trainer.test(module, datamodule=DigitsSource(count=120), verbose=False)
        assert wrapped == bare

    def test_drop_last_leaves_no_batch(self) -> None:
        datamodule = opened(source=DigitsSource(count=120, drop_last=True), labelled=[1, 2])
        with pytest.raises(CoresetError, match="2 items on 1 rank\\(s\\) do not fill one batch of 16"):
            datamodule.train_dataloader()

    def test_before_setup(self) -> None:
        with pytest.raises(CoresetError, match="call dm.setup"):
            pooled().train_dataloader()


class TestCheckpoints:
    def test_of_another_dataset(self) -> None:
        state = opened(labelled=[1]).state_dict()
        other = opened(count=100)
        with pytest.raises(CoresetError, match="train items are not those of the checkpoint"):
            other.load_state_dict(state)

    def test_before_setup(self) -> None:
        first = opened(labelled=[1, 5])
        second = pooled(initial=None)
        second.load_state_dict(first.state_dict())
        second.setup("fit")
        assert second.pool.labelled == [1, 5]

    def test_without_a_journal_it_overrules_what_setup_chose(self) -> None:
        first = pooled()
        first.setup("fit")
        first.pool.label(first.pool.unlabelled[:3])
        second = pooled(initial="random", seed=9)
        second.setup("fit")
        second.load_state_dict(first.state_dict())
        assert second.pool.history == first.pool.history

    def test_with_a_journal_of_its_own_it_is_refused(self, tmp_path: Path) -> None:
        first, second = pooled(), pooled(tmp_path / "journal.jsonl", initial="random", seed=9)
        first.setup("fit")
        second.setup("fit")
        with pytest.raises(CoresetError, match="The checkpoint's labels and the journal's differ from event"):
            second.load_state_dict(first.state_dict())

    def test_the_sources_state_is_nested(self) -> None:
        first = opened()
        first.source.epoch_note = 7
        second = opened()
        second.load_state_dict(first.state_dict())
        assert second.source.epoch_note == 7

    def test_a_journal_of_other_data(self, tmp_path: Path) -> None:
        opened(tmp_path / "journal.jsonl", count=120)

        class Other(DigitsSource):
            def setup(self, stage: str | None = None) -> None:
                super().setup(stage)
                self.train = TensorDataset(self.train.tensors[0].flip(0), self.train.tensors[1])

        with pytest.raises(CoresetError, match="train items are not those of the journal"):
            opened(tmp_path / "journal.jsonl", source=Other(count=120))


class TestUnits:
    def boxes(self, counts: list[int]) -> list[Any]:
        return [
            (torch.full((1, 4, 4), float(place)), {"boxes": torch.zeros(count, 4), "labels": torch.arange(count) % 2})
            for place, count in enumerate(counts)
        ]

    def test_a_budget_in_boxes_is_never_exceeded_and_what_fits_is_taken(self) -> None:
        datamodule = ActiveLearningDataModule(
            self.boxes([3, 0, 4, 1, 2, 9, 1, 1]),
            initial="random",
            budget=7,
            budget_unit="boxes",
            oracle=DatasetOracle(),
            features="pixels",
        )
        datamodule.setup("fit")
        pool = datamodule.pool
        assert 0 < pool.units_spent <= 7
        assert pool.n_pending == 0, "what did not fit is free again"
        assert sum(pool.units_by_class.values()) == pool.units_spent
        order = datamodule.coreset.indices.tolist()
        left = 7
        for place in order:
            count = [3, 0, 4, 1, 2, 9, 1, 1][place]
            assert (place in pool.labelled) == (count <= left)
            left -= count if count <= left else 0


REFUSED = {
    "unknown method": ({"initial": "kcenter"}, ValueError, "Unknown method 'kcenter'.*did you mean 'k_center'"),
    "method of signals": ({"initial": "el2n"}, ValueError, "initial='el2n' is not accepted: it looks at training"),
    "method of another kind": ({"initial": 3}, TypeError, "initial is a int; the name of a method or a selector"),
    "arguments beside": ({"initial": KCenter(), "initial_args": {"start": 1}}, ValueError, "initial_args= beside"),
    "unknown argument": ({"initial_args": {"begin": 1}}, TypeError, "unknown argument 'begin'; accepted are"),
    "no budget": ({"budget": None}, ValueError, "initial='k_center' without budget= is not accepted"),
    "budget of zero": ({"budget": 0}, ValueError, "budget=0 is not accepted"),
    "a share": ({"budget": 0.5}, ValueError, "budget=0.5 is not accepted"),
    "unit": ({"budget_unit": "box"}, ValueError, "budget_unit='box' is not accepted: give 'images', 'boxes', 'masks'"),
    "oracle": ({"oracle": lambda ids: ids}, TypeError, "oracle is a function; DatasetOracle"),
    "features": ({"features": "pixel"}, ValueError, "features='pixel' is not accepted"),
    "clusters": ({"num_classes": 1}, ValueError, "num_classes=1 is not accepted"),
    "journal": ({"journal": 5}, TypeError, "journal is a int: give the path of a file"),
    "proposer": ({"proposer": "fastestdet"}, ValueError, "proposer='fastestdet' is not accepted"),
}


@pytest.mark.parametrize(("settings", "kind", "message"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_refused_at_once(settings: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message) as error:
        pooled(**settings)
    assert "\n" not in str(error.value)


REFUSED_IN_SETUP = {
    "too much": ({"budget": 121}, ValueError, "budget=121 is not accepted: 120 of 120 items are unlabelled"),
    "nobody": ({"oracle": None}, ValueError, "A warm start needs somebody to label: give oracle="),
    "ids": ({"ids": ["a"] * 120}, ValueError, "ids hold 120 names, 1 of them distinct"),
    "features": ({"features": torch.zeros(7, 3)}, ValueError, "7"),
    "foreign": ({"labelled": [500]}, ValueError, "id 500 is unknown"),
}


@pytest.mark.parametrize(("settings", "kind", "message"), REFUSED_IN_SETUP.values(), ids=REFUSED_IN_SETUP)
def test_what_only_setup_can_know_is_refused_there(settings: dict[str, Any], kind: type, message: str) -> None:
    datamodule = pooled(**settings)
    with pytest.raises(kind, match=message) as error:
        datamodule.setup("fit")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("source", [iter([1]), 5, None])
def test_sources_without_an_index(source: Any) -> None:
    with pytest.raises((CoresetError, TypeError), match="map-style"):
        ActiveLearningDataModule(source)


def test_costs() -> None:
    assert Cost(per_image=1, per_unit=0.1).total(images=3, units=20) == pytest.approx(5)
    with pytest.raises(ValueError, match="per_unit=-1 is not accepted"):
        Cost(per_unit=-1)


# Those with objects are in test_detection_warm_start.py.
WITH_OBJECTS_OR_TEXTS = {"ofds", "csod", "class_balance", "text_retrieval"}


def test_the_list_of_warm_starts_is_whole() -> None:
    known = {name for name in list_selectors() if "example" not in name}
    assert set(WARM) | set(RECORDED) | {"uniform", "dq_v2"} >= known - WITH_OBJECTS_OR_TEXTS


def test_a_trainer_sees_the_sources_hooks(tmp_path: Path) -> None:
    class Source(DigitsSource):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return [batch[0] * 0 + 1, batch[1]]

    module = LinearNet()
    quiet_trainer(tmp_path).fit(module, datamodule=pooled(source=Source(count=120)))
    assert len(set(module.seen[0])) == 1
    assert isinstance(module, pl.LightningModule)


def test_from_a_lightning_cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without touching the script; a resumed run reads its configuration with ``weights_only``."""
    monkeypatch.setattr(sys, "argv", ["train.py"])
    words = [
        "fit",
        *("--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.max_epochs=1", "--trainer.logger=false"),
        *("--trainer.enable_progress_bar=false", f"--trainer.default_root_dir={tmp_path}"),
        "--data=lightning_coreset.ActiveLearningDataModule",
        "--data.pool=DigitsSource",
        "--data.pool.count=120",
        "--data.initial=k_center",
        "--data.budget=9",
        "--data.oracle=lightning_coreset.active.DatasetOracle",
        "--data.features=pixels",
        f"--data.journal={tmp_path / 'journal.jsonl'}",
    ]
    found = LightningCLI(LinearNet, args=words, save_config_kwargs={"overwrite": True}).datamodule
    assert isinstance(found, ActiveLearningDataModule)
    assert found.pool.n_labelled == 9
    words[0:1] = ["fit", "--trainer.callbacks+=lightning_coreset.ActiveLearningRounds", "--trainer.callbacks.budget=4"]
    words[words.index("--trainer.max_epochs=1")] = "--trainer.max_epochs=3"
    found = LightningCLI(LinearNet, args=words, save_config_kwargs={"overwrite": True}).datamodule
    assert found.pool.n_labelled == 17
