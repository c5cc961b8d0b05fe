"""CoresetDataModule: one line changes, the rest of the source stays as it was."""

import copy
import pickle
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import BatchSizeFinder
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from lightning_coreset import Coreset, CoresetDataModule, CoresetError, KCenter, SubZeroCore, select
from lightning_coreset.errors import UnsupportedSourceError
from tests.helpers.lightning_parts import (
    CountingExtractor,
    DigitsSource,
    LinearNet,
    digit_tensors,
    marks,
    quiet_trainer,
)


def wrapped(source: Any = None, **settings: Any) -> CoresetDataModule:
    defaults: dict[str, Any] = {"ratio": 0.1, "features": "pixels"}
    defaults |= settings
    return CoresetDataModule(DigitsSource() if source is None else source, **defaults)


def test_one_line_changes_and_a_tenth_is_trained_on(tmp_path: Path) -> None:
    datamodule = wrapped(method="subzerocore")
    network = LinearNet()
    trainer = quiet_trainer(tmp_path, max_epochs=2)
    trainer.fit(network, datamodule=datamodule)

    assert isinstance(datamodule.coreset, Coreset)
    assert len(datamodule.coreset) == len(datamodule.train_dataset) == 60
    images, _ = digit_tensors()
    chosen = marks(images[datamodule.coreset.indices])
    for epoch in network.seen:
        assert sorted(epoch) == pytest.approx(sorted(chosen.tolist()))
    assert network.seen[0] != network.seen[1], "the source shuffles, so must the reduced loader"


def test_the_selection_is_the_one_of_the_same_arrays(tmp_path: Path) -> None:
    datamodule = wrapped(method="facility_location")
    quiet_trainer(tmp_path).fit(LinearNet(), datamodule=datamodule)
    images, labels = digit_tensors()
    same = select(images.flatten(1), labels, method="facility_location", ratio=0.1)
    assert torch.equal(datamodule.coreset.indices, same.indices)
    assert torch.equal(datamodule.coreset.weights, same.weights)


def test_train_dataset_ascends_and_indices_keep_the_order_chosen() -> None:
    datamodule = wrapped(method="k_center")
    datamodule.setup("fit")
    assert isinstance(datamodule.train_dataset, Subset)
    assert list(datamodule.train_dataset.indices) == sorted(datamodule.coreset.indices.tolist())
    assert datamodule.coreset.indices.tolist() != sorted(datamodule.coreset.indices.tolist())


def test_neither_selector_nor_method_is_subzerocore() -> None:
    assert isinstance(wrapped().selector, SubZeroCore)


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_other_stages_are_the_sources_alone(tmp_path: Path, stage: str) -> None:
    network, source = LinearNet(), DigitsSource()
    expected = getattr(quiet_trainer(tmp_path), stage)(network, datamodule=source, verbose=False)
    datamodule = wrapped(DigitsSource(), features="timm/resnet18")  # weights that must never be asked for
    assert getattr(quiet_trainer(tmp_path), stage)(network, datamodule=datamodule, verbose=False) == expected
    assert datamodule.coreset is None


class TestSources:
    def test_a_dataset(self, tmp_path: Path) -> None:
        datamodule = wrapped(TensorDataset(*digit_tensors()), batch_size=8)
        quiet_trainer(tmp_path).fit(LinearNet(), datamodule=datamodule)
        loader = datamodule.train_dataloader()
        assert (loader.batch_size, len(loader.dataset)) == (8, 60)
        assert datamodule.batch_size == 8

    def test_a_loader(self, tmp_path: Path) -> None:
        loader = DataLoader(TensorDataset(*digit_tensors()), batch_size=12, shuffle=True)
        datamodule = wrapped(loader)
        quiet_trainer(tmp_path).fit(LinearNet(), datamodule=datamodule)
        assert datamodule.train_dataloader().batch_size == 12
        assert wrapped(loader, batch_size=3)._batch_size == 3

    def test_several_datasets(self, tmp_path: Path) -> None:
        images, labels = digit_tensors(800)
        parts = [TensorDataset(images[part], labels[part]) for part in (slice(600), slice(600, 800))]
        datamodule = CoresetDataModule.from_datasets(*parts, batch_size=20, ratio=0.2, features="pixels")
        network = LinearNet()
        quiet_trainer(tmp_path).fit(network, datamodule=datamodule)
        assert len(datamodule.train_dataset) == 120
        assert "accuracy" in quiet_trainer(tmp_path).validate(network, datamodule=datamodule, verbose=False)[0]

    def test_several_datasets_of_one_stage_have_a_loader_each(self, tmp_path: Path) -> None:
        data = TensorDataset(*digit_tensors())
        held_out = TensorDataset(*digit_tensors(30))
        for several in ([held_out, held_out], {"a": held_out, "b": held_out}):
            datamodule = CoresetDataModule.from_datasets(
                data, several, several, several, batch_size=20, ratio=0.1, features="pixels"
            )
            quiet_trainer(tmp_path, limit_val_batches=0).fit(LinearNet(), datamodule=datamodule)
            for loaders in (datamodule.val_dataloader(), datamodule.test_dataloader(), datamodule.predict_dataloader()):
                assert type(loaders) is type(several)
                parts = loaders.values() if isinstance(loaders, dict) else loaders
                assert [(len(part.dataset), part.batch_size) for part in parts] == [(30, 20)] * 2

    def test_a_plain_list_of_items_is_one_dataset(self) -> None:
        items = list(zip(*digit_tensors(40), strict=True))
        datamodule = CoresetDataModule.from_datasets(items, items, batch_size=4, ratio=0.5, features="pixels")
        datamodule.setup("fit")
        assert (len(datamodule.train_dataset), len(datamodule.val_dataloader())) == (20, 10)

    def test_datasets_for_testing_only(self, tmp_path: Path) -> None:
        held_out = TensorDataset(*digit_tensors(30))
        datamodule = CoresetDataModule.from_datasets(test_dataset=held_out, ratio=0.1, features="pixels")
        assert "accuracy" in quiet_trainer(tmp_path).test(LinearNet(), datamodule=datamodule, verbose=False)[0]
        with pytest.raises(UnsupportedSourceError, match="nothing to select from"):
            quiet_trainer(tmp_path).fit(LinearNet(), datamodule=datamodule)

    def test_without_validation_there_is_no_validation_loop(self, tmp_path: Path) -> None:
        trainer = quiet_trainer(tmp_path)
        trainer.fit(LinearNet(), datamodule=wrapped(TensorDataset(*digit_tensors()), batch_size=8))
        assert not trainer.num_val_batches or trainer.num_val_batches == [0]

    def test_other_things_are_refused(self) -> None:
        with pytest.raises(TypeError, match=r"source is a int; a LightningDataModule, .*is accepted"):
            CoresetDataModule(3, ratio=0.1)

    def test_a_pytorch_lightning_datamodule_is_named(self) -> None:
        foreign = type("LightningDataModule", (), {"__module__": "pytorch_lightning.core.datamodule"})
        source = type("TheirDataModule", (foreign,), {})()
        with pytest.raises(
            TypeError, match=r"TheirDataModule is a pytorch_lightning\.core\..*import lightning\.pytorch"
        ):
            CoresetDataModule(source, ratio=0.1)


class TestBadInput:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"ratio": None}, "got neither"),
            ({"ratio": 0.1, "budget": 5}, "got both ratio=0.1 and budget=5"),
            ({"ratio": 0}, "ratio=0 is not accepted"),
            ({"ratio": 1.5}, "ratio=1.5 is not accepted"),
            ({"ratio": None, "budget": 0}, "budget=0 is not accepted"),
            ({"method": "subzerocor"}, "did you mean 'subzerocore'"),
            (
                {"selector": KCenter(), "method": "k_center"},
                r"selector=KCenter beside method='k_center'.*--data.method=null",
            ),
            ({"selector": KCenter(), "method_args": {"start": 1}}, "selector=KCenter beside method_args="),
            ({"selector": KCenter(), "per_class": True}, "selector=KCenter beside per_class=True"),
            ({"method": "subzerocore", "method_args": {"coverage": 1.0}}, "coverage=1.0 is not accepted"),
            ({"weights": "loss"}, "weights='loss' is not accepted"),
            ({"features": "resnet"}, "features='resnet' is not accepted"),
        ],
    )
    def test_values(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message) as raised:
            wrapped(**settings)
        assert "\n" not in str(raised.value)

    def test_an_unknown_method_argument(self) -> None:
        with pytest.raises(TypeError, match="unknown argument 'gamma'; accepted are per_class, coverage"):
            wrapped(method="subzerocore", method_args={"gamma": 0.5})

    def test_a_budget_above_the_train_set(self) -> None:
        with pytest.raises(ValueError, match="budget=601, but only 600 of 600"):
            wrapped(ratio=None, budget=601).setup("fit")

    def test_labels_of_another_length(self) -> None:
        with pytest.raises(ValueError, match=r"labels have shape \[3\], the train dataset has 600 items"):
            wrapped(labels=[0, 1, 2]).setup("fit")

    def test_embeddings_of_another_dataset(self) -> None:
        with pytest.raises(ValueError, match="embeddings of 599 items and the train dataset has 600"):
            wrapped(features=torch.rand(599, 4)).setup("fit")

    def test_embeddings_that_are_not_finite(self) -> None:
        rows = torch.rand(600, 4)
        rows[17, 2] = torch.nan
        with pytest.raises(ValueError, match="features of item 17 hold NaN"):
            wrapped(features=rows).setup("fit")

    def test_a_last_batch_that_is_dropped_and_the_only_one(self, tmp_path: Path) -> None:
        extractor = CountingExtractor()
        datamodule = wrapped(DigitsSource(batch_size=64, drop_last=True), features=extractor)
        with pytest.raises(
            CoresetError, match=r"60 items on 1 rank\(s\) do not fill one batch of 64: keep at least 64"
        ):
            quiet_trainer(tmp_path).fit(LinearNet(), datamodule=datamodule)
        assert extractor.forwards == 0, "refused before any work started"

    def test_an_empty_train_set(self) -> None:
        with pytest.raises(CoresetError, match="train dataset is empty"):
            wrapped(TensorDataset(torch.zeros(0, 2))).setup("fit")

    def test_loading_before_selecting(self) -> None:
        with pytest.raises(CoresetError, match=r"call dm\.setup\('fit'\)"):
            wrapped().train_dataloader()


class Endless(IterableDataset):
    def __iter__(self) -> Iterator[int]:
        yield 1


class Refusing(DigitsSource):
    """A datamodule whose train loader a test decides on."""

    def __init__(self, loader: Any) -> None:
        super().__init__()
        self.given = loader

    def train_dataloader(self) -> Any:
        return self.given


class TestSourcesThatCannotBeCut:
    def test_iterable_datasets(self) -> None:
        with pytest.raises(UnsupportedSourceError, match="Endless is an iterable dataset.*map-style"):
            wrapped(Endless())
        with pytest.raises(UnsupportedSourceError, match="Endless is an iterable dataset.*map-style"):
            wrapped(Refusing(DataLoader(Endless()))).setup("fit")
        with pytest.raises(UnsupportedSourceError, match="Endless is an iterable dataset.*map-style"):
            CoresetDataModule.from_datasets(Endless(), ratio=0.1, features="pixels").setup("fit")

    def test_custom_batch_samplers(self) -> None:
        data = TensorDataset(*digit_tensors())
        with pytest.raises(UnsupportedSourceError, match="has a list.*batch_size= with shuffle="):
            wrapped(Refusing(DataLoader(data, batch_sampler=[[0, 1], [2, 3]]))).setup("fit")

    def test_no_batching(self) -> None:
        with pytest.raises(UnsupportedSourceError, match="no automatic batching"):
            wrapped(Refusing(DataLoader(TensorDataset(*digit_tensors()), batch_size=None))).setup("fit")

    def test_several_loaders(self) -> None:
        loader = DataLoader(TensorDataset(*digit_tensors()))
        with pytest.raises(UnsupportedSourceError, match=r"train_dataloader\(\) gave a dict"):
            wrapped(Refusing({"a": loader, "b": loader})).setup("fit")
        with pytest.raises(UnsupportedSourceError, match=r"train_dataloader\(\) gave a list"):
            CoresetDataModule.from_datasets([loader.dataset] * 2, ratio=0.1, features="pixels").setup("fit")

    def test_no_train_loader(self) -> None:
        with pytest.raises(UnsupportedSourceError, match=r"LightningDataModule has no train_dataloader\(\)"):
            wrapped(pl.LightningDataModule()).setup("fit")


class TestTransparency:
    def test_attributes_are_read_and_written_on_the_source(self) -> None:
        datamodule = wrapped(seed=5)
        assert (datamodule.num_classes, datamodule.batch_size, datamodule.count) == (10, 16, 600)
        datamodule.batch_size = 4
        assert datamodule.source.batch_size == 4
        datamodule.setup("fit")
        assert datamodule.train_dataloader().batch_size == 4
        assert not hasattr(datamodule, "no_such_thing")
        datamodule.something_new = 1
        assert not hasattr(datamodule.source, "something_new")

    @pytest.mark.parametrize("trained", [False, True], ids=["in a notebook", "after training"])
    def test_it_survives_pickling_and_copying(self, tmp_path: Path, trained: bool) -> None:
        datamodule = wrapped(method="moderate")
        if trained:
            quiet_trainer(tmp_path).fit(LinearNet(), datamodule=datamodule)
        else:
            datamodule.setup("fit")
        for twin in (pickle.loads(pickle.dumps(datamodule)), copy.deepcopy(datamodule)):
            assert torch.equal(twin.coreset.indices, datamodule.coreset.indices)
            assert twin.source is not datamodule.source
            assert len(twin.train_dataloader().dataset) == 60

    def test_the_batch_size_finder_changes_the_source(self, tmp_path: Path) -> None:
        datamodule = wrapped(DigitsSource(batch_size=2))
        finder = BatchSizeFinder(mode="power", steps_per_trial=1, init_val=2, max_trials=3)
        quiet_trainer(tmp_path, callbacks=[finder], max_epochs=1, enable_checkpointing=True).fit(
            LinearNet(), datamodule=datamodule
        )
        assert datamodule.source.batch_size == datamodule.batch_size == finder.optimal_batch_size > 2

    def test_hyperparameters_are_plain_and_do_not_collide(self, tmp_path: Path) -> None:
        datamodule = wrapped(features=CountingExtractor(), selector=KCenter(), seed=9)
        assert dict(datamodule.hparams)["seed"] == 9
        assert not {"selector", "source", "features", "batch_size"} & set(datamodule.hparams)
        # The module logs a seed of its own with another value.
        logger = pl.loggers.CSVLogger(str(tmp_path))
        quiet_trainer(tmp_path, logger=logger).fit(LinearNet(seed=123), datamodule=datamodule)

    def test_transfer_hooks_are_forwarded_only_where_overridden(self, tmp_path: Path) -> None:
        class Doubling(DigitsSource):
            stages: list[str] = []

            def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
                self.stages.append(self.trainer.state.stage.value)
                return [batch[0] * 2, *batch[1:]]

        datamodule = wrapped(Doubling())
        network = LinearNet()
        quiet_trainer(tmp_path, limit_val_batches=0).fit(network, datamodule=datamodule)
        images, _ = digit_tensors()
        doubled = 2 * marks(images[datamodule.coreset.indices])
        assert sorted(network.seen[0]) == pytest.approx(sorted(doubled.tolist()))
        embedding = [stage for stage in Doubling.stages if stage == "predict"]
        assert embedding, "the feature pass goes through the source's hook, and not as training"
        assert "on_after_batch_transfer" not in vars(wrapped())

    def test_estimated_steps_count_the_coreset(self, tmp_path: Path) -> None:
        class Scheduled(LinearNet):
            def configure_optimizers(self) -> torch.optim.Optimizer:
                self.steps = self.trainer.estimated_stepping_batches
                return super().configure_optimizers()

        network = Scheduled()
        quiet_trainer(tmp_path, max_epochs=3).fit(network, datamodule=wrapped())
        assert network.steps == 3 * 4


class TestNothingIsDisturbed:
    def test_setup_leaves_random_states_stage_modes_and_trainer(self, tmp_path: Path) -> None:
        class Watching(LinearNet):
            def setup(self, stage: str) -> None:
                trainer = self.trainer
                self.after = (trainer.state.stage, trainer.state.fn, trainer.training, self.body.training)
                self.same_trainer = trainer is self.expected

        network = Watching()
        network.body[1].eval()
        modes = [module.training for module in network.modules()]
        trainer = quiet_trainer(tmp_path, max_steps=1)
        network.expected = trainer
        datamodule = wrapped(features=network.body, num_workers=0)
        pl.seed_everything(1, verbose=False)
        datamodule.trainer = None
        states = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())
        datamodule.setup("fit")
        assert torch.equal(torch.get_rng_state(), states[0])
        assert np.array_equal(np.random.get_state()[1], states[1])
        assert random.getstate() == states[2]
        assert [module.training for module in network.modules()] == modes

        trainer.fit(network, datamodule=wrapped(features=network.body))
        assert network.same_trainer
        assert network.after == ("train", "fit", True, True)

    def test_reading_items_that_augment_leaves_the_random_state(self) -> None:
        class Augmenting(Dataset):
            def __len__(self) -> int:
                return 40

            def __getitem__(self, index: int) -> Any:
                return torch.rand(4) + index, index % 2

        datamodule = wrapped(Augmenting(), method="facility_location")
        torch.manual_seed(3)
        state = torch.get_rng_state()
        with pytest.warns(UserWarning, match="Two reads of one item of Augmenting differ"):
            datamodule.setup("fit")
        assert torch.equal(torch.get_rng_state(), state)

    def test_the_users_dataset_is_never_touched(self) -> None:
        class Pictures(Dataset):
            def __init__(self) -> None:
                self.images, self.targets = digit_tensors()
                self.transform = self.augment

            def augment(self, image: torch.Tensor) -> torch.Tensor:
                return image + torch.rand(())

            def __len__(self) -> int:
                return len(self.images)

            def __getitem__(self, index: int) -> Any:
                return self.transform(self.images[index]), int(self.targets[index])

        data = Pictures()
        before = dict(vars(data))
        first, second = wrapped(data), wrapped(data)
        for datamodule in (first, second):
            datamodule.setup("fit")
        assert vars(data) == before
        assert torch.equal(first.coreset.indices, second.coreset.indices), "embeddings are of the images themselves"
        assert first.train_dataset[0][0].mean() != first.train_dataset[0][0].mean(), "training still augments"


class TestReducedLoader:
    def test_everything_of_the_loader_is_kept(self) -> None:
        def collate(items: Any) -> Any:
            return torch.utils.data.default_collate(items)

        generator = torch.Generator()
        kept = {
            "collate_fn": collate,
            "drop_last": True,
            "pin_memory": False,
            "worker_init_fn": print,
            "prefetch_factor": 3,
            "persistent_workers": True,
            "generator": generator,
            "timeout": 5,
        }
        datamodule = wrapped(DigitsSource(num_workers=1, **kept))
        datamodule.setup("fit")
        loader = datamodule.train_dataloader()
        assert {name: getattr(loader, name) for name in kept} == kept
        assert (loader.batch_size, loader.num_workers) == (16, 1)
        assert isinstance(loader.sampler, torch.utils.data.RandomSampler)

    def test_an_unshuffled_loader_stays_unshuffled(self) -> None:
        datamodule = wrapped(DigitsSource(shuffle=False))
        datamodule.setup("fit")
        assert isinstance(datamodule.train_dataloader().sampler, torch.utils.data.SequentialSampler)

    def test_numbers_override_the_reduced_loader_only(self) -> None:
        datamodule = wrapped(batch_size=5, num_workers=0)
        datamodule.setup("fit")
        assert datamodule.train_dataloader().batch_size == 5
        assert (datamodule.batch_size, datamodule.val_dataloader().batch_size) == (16, 100)

    def test_batches_carry_their_weights(self) -> None:
        datamodule = wrapped(method="facility_location", weights="batch")
        datamodule.setup("fit")
        images, labels, weights = next(iter(datamodule.train_dataloader()))
        pool, _ = digit_tensors()
        weight_of = dict(zip(datamodule.coreset.indices.tolist(), datamodule.coreset.weights.tolist(), strict=True))
        for image, weight in zip(images, weights, strict=True):
            index = int((pool == image).flatten(1).all(dim=1).nonzero()[0])
            assert weight.item() == pytest.approx(weight_of[index])
        assert len(labels) == len(weights) == 16

    def test_resampling_draws_by_weight_and_anew_each_epoch(self, tmp_path: Path) -> None:
        datamodule = wrapped(method="facility_location", weights="resample")
        network = LinearNet()
        quiet_trainer(tmp_path, max_epochs=40).fit(network, datamodule=datamodule)
        pool, _ = digit_tensors()
        known = marks(pool[datamodule.coreset.indices])
        drawn = torch.tensor([value for epoch in network.seen for value in epoch])
        counts = torch.tensor([int((drawn - value).abs().lt(1e-4).sum()) for value in known]) / 40
        heaviest = int(datamodule.coreset.weights.argmax())
        assert counts[heaviest] == pytest.approx(float(datamodule.coreset.weights[heaviest]), rel=0.35)
        assert network.seen[0] != network.seen[1]


class TestSmokeTests:
    @pytest.mark.parametrize(
        ("settings", "capped", "kept"),
        [
            ({"fast_dev_run": 1}, 160, 16),
            ({"fast_dev_run": 2}, 320, 32),
            ({"overfit_batches": 1}, 160, 16),
            ({"overfit_batches": 0.5}, 320, 32),
        ],
    )
    def test_the_pool_is_capped_and_nothing_is_written(
        self, tmp_path: Path, settings: dict[str, Any], capped: int, kept: int
    ) -> None:
        datamodule = wrapped(method="k_center")
        quiet_trainer(tmp_path, **settings).fit(LinearNet(), datamodule=datamodule)
        assert (len(datamodule.coreset), datamodule.coreset.manifest["capped"]["pool_size"]) == (kept, capped)
        assert not (tmp_path / "coresets").exists()

    def test_a_budget_is_capped_too(self, tmp_path: Path) -> None:
        datamodule = wrapped(method="random", ratio=None, budget=300)
        quiet_trainer(tmp_path, fast_dev_run=1).fit(LinearNet(), datamodule=datamodule)
        assert len(datamodule.coreset) == 16
        assert datamodule.coreset.manifest["capped"]["pool_size"] == 32

    def test_fewer_batches_do_not_touch_selection(self, tmp_path: Path) -> None:
        datamodule = wrapped(method="k_center")
        quiet_trainer(tmp_path, limit_train_batches=1).fit(LinearNet(), datamodule=datamodule)
        assert len(datamodule.coreset) == 60
        assert "capped" not in datamodule.coreset.manifest
