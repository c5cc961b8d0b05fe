"""The feature pass: an embedding is of its item alone, is made once, and leaves no trace."""

import random
import warnings
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_coreset import CoresetDataModule, CoresetError, FeatureExtractor
from lightning_coreset.data import EmbeddingCache
from lightning_coreset.distributed import index_range
from lightning_coreset.features import (
    ModuleExtractor,
    PixelsExtractor,
    TorchvisionExtractor,
    extract_features,
    extraction,
    transfer_hooks,
)
from lightning_coreset.features.extractor import resized, scaled_tensor
from tests.data.examples import Pictures, as_array, picture
from tests.helpers.lightning_parts import CountingExtractor, DigitsSource, LinearNet, digit_tensors, quiet_trainer

DIGITS = TensorDataset(*digit_tensors(150))
EVERYTHING = torch.arange(150)


def network() -> ModuleExtractor:
    """A network of real arithmetic, with modes that matter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.GELU(), nn.Flatten(), nn.Dropout(0.5))
        return ModuleExtractor(nn.Sequential(layers, nn.Linear(288, 33)))


def embedded(positions: Tensor = EVERYTHING, extractor: Any = None, dataset: Any = DIGITS, **settings: Any) -> Tensor:
    return extract_features(dataset, extractor or network(), positions, **settings)


class TestAnEmbeddingIsOfItsItemAlone:
    def test_whatever_it_is_batched_with(self) -> None:
        rows = embedded()
        mixed = torch.randperm(150, generator=torch.Generator().manual_seed(1))
        assert torch.equal(embedded(mixed), rows[mixed])
        for some in ([149], [3, 149, 7], list(range(64)), list(range(10, 75))):
            assert torch.equal(embedded(torch.tensor(some)), rows[some])

    @pytest.mark.parametrize("workers", [1, 2])
    def test_whoever_reads_it(self, workers: int) -> None:
        assert torch.equal(embedded(num_workers=workers), embedded())

    @pytest.mark.parametrize("ranks", [2, 4, 64])
    def test_whichever_rank_embeds_it(self, ranks: int) -> None:
        parts = [index_range(150, rank, ranks) for rank in range(ranks)]
        assert torch.equal(torch.cat([embedded(torch.tensor(list(part))) for part in parts]), embedded())
        classes = DIGITS.tensors[1] % ranks
        for share in range(min(ranks, 4)):
            mine = torch.nonzero(classes == share).flatten()
            assert torch.equal(embedded(mine), embedded()[mine])

    def test_whether_or_not_there_is_a_trainer(self, tmp_path: Path) -> None:
        assert torch.equal(embedded(trainer=quiet_trainer(tmp_path)), embedded())

    def test_nothing_asked_nothing_done(self) -> None:
        assert len(embedded(torch.empty(0, dtype=torch.int64))) == 0


Pair = namedtuple("Pair", "target photo")
FORMS: dict[str, Callable[[Tensor, int], Any]] = {
    "image": lambda image, label: image,
    "tuple": lambda image, label: (image, label),
    "number first": lambda image, label: (torch.tensor(label), image),
    "list": lambda image, label: [image, label],
    "image last": lambda image, label: (label, image),
    "namedtuple": lambda image, label: Pair(label, image),
    "image key": lambda image, label: {"label": label, "image": image},
    "pixel_values": lambda image, label: {"aux": torch.zeros(2), "pixel_values": image, "labels": label},
    "array": lambda image, label: (image.numpy().transpose(1, 2, 0), label),
    "boxes": lambda image, label: (image, {"boxes": torch.zeros(label, 4), "name": "x" * label}),
    "strings": lambda image, label: {"name": str(label), "img": image, "none": None},
}


class Formed(Dataset[Any]):
    """Digits in one of the forms that datasets have."""

    def __init__(self, form: Callable[[Tensor, int], Any]) -> None:
        self.form = form

    def __len__(self) -> int:
        return 150

    def __getitem__(self, index: int) -> Any:
        image, label = DIGITS[index]
        return self.form(image, int(label))


@pytest.mark.parametrize("form", FORMS)
def test_items_of_any_form(form: str) -> None:
    assert torch.equal(embedded(dataset=Formed(FORMS[form])), embedded())


def test_a_named_tuple_keeps_its_names_for_hooks() -> None:
    class Named(PixelsExtractor):
        def inputs(self, batch: Any) -> Tensor:
            return batch.photo

    assert len(embedded(extractor=Named(), dataset=Formed(FORMS["namedtuple"]))) == 150


class Ragged(Dataset[Any]):
    """Photographs of many sizes and modes."""

    modes = ("RGB", "L", "RGBA")

    def __init__(self) -> None:
        self.transform: Any = None

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Any:
        image: Any = picture(index, 10 + 7 * index).convert(self.modes[index % 3])
        return (image if self.transform is None else self.transform(image)), index % 2


class TestSizesAndChannels:
    def test_the_networks_transform_makes_them_alike(self) -> None:
        extractor = TorchvisionExtractor("squeezenet1_1", weights=None)
        assert embedded(torch.arange(6), extractor, Ragged()).shape == (6, 512)

    def test_different_sizes_need_a_transform(self) -> None:
        with pytest.raises(CoresetError, match=r"different sizes \(\(1, 17, 17\), .*give a features_transform"):
            embedded(torch.arange(6), PixelsExtractor(), Ragged())
        rows = embedded(torch.arange(6), PixelsExtractor(), Ragged(), transform=as_squares)
        assert rows.shape == (6, 3 * 8 * 8)

    def test_a_network_of_ones_own_for_thirteen_channels(self) -> None:
        images = torch.rand(9, 13, 6, 6)
        rows = embedded(torch.arange(9), ModuleExtractor(nn.Conv2d(13, 4, 3)), TensorDataset(images))
        assert rows.shape == (9, 4)

    def test_thirteen_channels_are_too_many_for_a_network_of_photographs(self) -> None:
        extractor = TorchvisionExtractor("squeezenet1_1", weights=None)
        with pytest.raises(CoresetError, match="takes images with 3 channels and got 13"):
            embedded(torch.arange(9), extractor, TensorDataset(torch.rand(9, 13, 64, 64)))

    def test_features_transform_takes_the_place_of_the_extractors(self) -> None:
        rows = embedded(torch.arange(4), PixelsExtractor(), Pictures(4), transform=as_array)
        assert rows[1].tolist() == np.asarray(picture(1)).reshape(-1).tolist()

    def test_a_transform_that_draws_random_numbers_is_told_once(self) -> None:
        def shaken(image: Any) -> Tensor:
            return scaled_tensor(image) + torch.rand(())

        with pytest.warns(UserWarning, match="Two reads of one item through features_transform differ") as caught:
            embedded(torch.arange(4), PixelsExtractor(), Pictures(4), transform=shaken)
        assert len(caught) == 1


def as_squares(image: Any) -> Tensor:
    tensor = scaled_tensor(image.convert("RGB"))
    return resized(tensor, 8)


class Failing(CountingExtractor):
    """Embeds so many batches, then the power goes."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.batches = batches

    def extract(self, inputs: Tensor) -> Tensor:
        if self.forwards == self.batches:
            raise KeyboardInterrupt
        return super().extract(inputs)


class TestTheCache:
    @pytest.fixture(autouse=True)
    def _small_shards(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(extraction, "_SHARD_ROWS", 20)
        monkeypatch.setattr(FeatureExtractor, "batch_size", 10)

    @pytest.mark.parametrize("batches", range(1, 15))
    def test_an_interrupted_pass_goes_on_after_its_last_whole_shard(self, tmp_path: Path, batches: int) -> None:
        cache = EmbeddingCache(tmp_path, "key")
        with pytest.raises(KeyboardInterrupt):
            embedded(extractor=Failing(batches), cache=cache)
        extractor = CountingExtractor()
        rows = embedded(extractor=extractor, cache=cache)
        assert extractor.forwards == 15 - batches // 2 * 2
        assert torch.equal(rows, DIGITS.tensors[0].flatten(1))

    def test_where_it_was_interrupted_changes_no_bit_of_a_network(self, tmp_path: Path) -> None:
        whole = embedded()
        for place, some in enumerate((EVERYTHING[:37], EVERYTHING[100:], EVERYTHING[::3])):
            cache = EmbeddingCache(tmp_path / str(place), "key")
            embedded(some, cache=cache)
            assert torch.equal(embedded(cache=cache), whole)

    def test_what_is_there_is_not_embedded_again(self, tmp_path: Path) -> None:
        cache, extractor = EmbeddingCache(tmp_path, "key"), CountingExtractor()
        first = embedded(extractor=extractor, cache=cache)
        assert len(list(Path(cache.folder).iterdir())) == 8, "seven shards of 20 and one of 10"
        forwards = extractor.forwards
        again = embedded(torch.tensor([140, 3]), extractor, cache=cache)
        assert torch.equal(again, first[[140, 3]])
        assert extractor.forwards == forwards

    def test_a_flipped_bit_costs_its_own_shard_only(self, tmp_path: Path) -> None:
        cache = EmbeddingCache(tmp_path, "key")
        first = embedded(cache=cache)
        damaged = sorted(Path(cache.folder).iterdir())[3]
        content = bytearray(damaged.read_bytes())
        content[-5] ^= 4
        damaged.write_bytes(content)
        repaired = Recounted(network())
        with pytest.warns(UserWarning, match=f"{damaged.name} is damaged .*checksum.*embedded again"):
            assert torch.equal(embedded(extractor=repaired, cache=cache), first)
        assert repaired.forwards == 2, "twenty items in batches of ten"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert torch.equal(embedded(cache=cache), first)

    def test_a_shard_of_another_dataset_is_not_believed(self, tmp_path: Path) -> None:
        other = EmbeddingCache(tmp_path, "other")
        embedded(dataset=TensorDataset(torch.rand(150, 1, 8, 8)), cache=other)
        cache = EmbeddingCache(tmp_path, "key")
        Path(other.folder).rename(cache.folder)
        with pytest.warns(UserWarning, match="belongs to another dataset"):
            assert torch.equal(embedded(cache=cache), embedded())

    def test_rows_of_another_width_are_refused(self, tmp_path: Path) -> None:
        cache = EmbeddingCache(tmp_path, "key")
        cache.write(torch.tensor([0]), torch.ones(1, 5))
        with pytest.raises(CoresetError, match="holds rows of width 5, .* gives 33: give another cache_dir"):
            embedded(cache=cache)

    def test_a_place_that_cannot_be_written_costs_a_warning(self, tmp_path: Path) -> None:
        (tmp_path / "embeddings").write_text("in the way")
        with pytest.warns(UserWarning, match="used but could not be written.*free some space"):
            rows = embedded(cache=EmbeddingCache(tmp_path, "key"))
        assert torch.equal(rows, embedded())


class Recounted(FeatureExtractor):
    """Another extractor, with a count of its forward passes."""

    def __init__(self, inner: FeatureExtractor) -> None:
        self.inner = inner
        self.forwards = 0

    @property
    def key(self) -> str:
        return self.inner.key

    def module(self) -> nn.Module | None:
        return self.inner.module()

    def extract(self, inputs: Tensor) -> Tensor:
        self.forwards += 1
        return self.inner.extract(inputs)


class Odd(PixelsExtractor):
    """Gives what a test wants."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        self.change = change

    def extract(self, inputs: Tensor) -> Tensor:
        return self.change(super().extract(inputs))


class TestWrongEmbeddings:
    @pytest.mark.parametrize("value", [torch.nan, torch.inf])
    @pytest.mark.parametrize("item", [5, 100])
    def test_the_first_item_that_is_not_finite_is_named(self, tmp_path: Path, item: int, value: float) -> None:
        images = DIGITS.tensors[0].clone()
        images[[item, 120, 149], 0, 3, 3] = value
        cache = EmbeddingCache(tmp_path, "key")
        mixed = torch.arange(149, -1, -1)
        with pytest.raises(CoresetError, match=f"embedding of item {item} by pixels holds NaN or infinite"):
            embedded(extractor=PixelsExtractor(), dataset=TensorDataset(images), cache=cache)
        with pytest.raises(CoresetError, match="embedding of item 149"):
            embedded(mixed, PixelsExtractor(), TensorDataset(images), cache=cache)

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            (lambda rows: rows[:-1], r"\[63, 64\] for 64 images"),
            (lambda rows: rows.unsqueeze(2), r"\[64, 64, 1\] for 64 images"),
            (lambda rows: rows.mean(), r"\[\] for 64 images"),
        ],
    )
    def test_not_one_row_an_image(self, change: Callable[[Tensor], Tensor], told: str) -> None:
        with pytest.raises(CoresetError, match=rf"pixels gave {told}; one row per image is accepted"):
            embedded(extractor=Odd(change))

    def test_a_hook_that_changes_the_size_of_a_batch(self) -> None:
        class Doubling(pl.LightningDataModule):
            def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
                return [torch.cat([batch[0], batch[0]]), batch[1]]

        with pytest.raises(CoresetError, match="A batch of 64 items became 128 images; one image per item"):
            embedded(source=Doubling())


@contextmanager
def raising_if(fails: bool) -> Iterator[None]:
    if not fails:
        yield
        return
    with pytest.raises(ZeroDivisionError):
        yield


class Careless(Dataset[Any]):
    """Draws from every random state there is."""

    def __init__(self) -> None:
        self.transform: Any = None

    def __len__(self) -> int:
        return 70

    def __getitem__(self, index: int) -> Any:
        noise = random.random() + np.random.rand() + float(torch.rand(()))
        return torch.full((1, 8, 8), noise), 0


class Breaking(ModuleExtractor):
    """Draws random numbers, and fails in its second batch where it is asked to."""

    def __init__(self, fails: bool) -> None:
        super().__init__(nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout(), nn.Flatten()), nn.Linear(64, 3)))
        self.fails = fails
        self.calls = 0
        self.seen: list[Any] = []

    def extract(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        self.seen.append([part.training for part in self.module().modules()] + [torch.is_grad_enabled()])
        torch.rand(3)
        if self.fails and self.calls == 2:
            raise ZeroDivisionError
        return super().extract(inputs)


class TestNoTraceIsLeft:
    @pytest.mark.parametrize("fails", [False, True], ids=["all is well", "it fails"])
    @pytest.mark.parametrize("workers", [0, 1])
    def test_modes_random_states_and_stage(self, tmp_path: Path, fails: bool, workers: int) -> None:
        extractor, trainer = Breaking(fails), quiet_trainer(tmp_path)
        parts = list(extractor.module().modules())
        for part, training in zip(parts, [True, False, True, True, False, True], strict=True):
            part.training = training
        modes = [part.training for part in parts]
        weights = {name: value.clone() for name, value in extractor.module().state_dict().items()}
        trainer.training = True
        states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
        with raising_if(fails):
            embedded(torch.arange(70), extractor, Careless(), trainer=trainer, num_workers=workers)
        assert not any(any(seen) for seen in extractor.seen), "evaluation mode and no gradients, all the way down"
        assert [part.training for part in parts] == modes
        assert all(torch.equal(value, weights[name]) for name, value in extractor.module().state_dict().items())
        assert (trainer.training, trainer.predicting) == (True, False)
        assert torch.equal(torch.get_rng_state(), states[0])
        assert np.array_equal(np.random.get_state()[1], states[1])
        assert random.getstate() == states[2]
        assert torch.is_grad_enabled()
        assert not any(weight.grad is not None for weight in extractor.module().parameters())

    def test_a_trainer_without_stage_stays_without(self, tmp_path: Path) -> None:
        trainer = quiet_trainer(tmp_path)
        embedded(trainer=trainer)
        assert trainer.state.stage is None

    @pytest.mark.parametrize("fails", [False, True], ids=["all is well", "it fails"])
    def test_a_module_goes_to_the_device_and_back(self, fails: bool) -> None:
        """By way of the one other device that every machine has; its tensors are named, not computed."""
        module = nn.Linear(2, 2)
        with raising_if(fails), extraction._ready(module, torch.device("meta")):
            assert module.weight.device.type == "meta"
            # Back from there needs memory, which a real device would have kept.
            module.to_empty(device="cpu")
            if fails:
                raise ZeroDivisionError
        assert module.weight.device.type == "cpu"
        assert module.training

    @pytest.mark.gpu
    def test_a_module_goes_to_the_gpu_and_back(self, tmp_path: Path) -> None:
        extractor = network()
        rows = embedded(extractor=extractor, trainer=quiet_trainer(tmp_path, accelerator="gpu"))
        assert {part.device.type for part in extractor.module().parameters()} == {"cpu"}
        assert torch.allclose(rows, embedded(), atol=1e-3)

    def test_the_dataset_is_not_touched(self) -> None:
        data = Pictures(5, transform=as_array)
        before = dict(vars(data))
        embedded(torch.arange(5), PixelsExtractor(), data)
        assert vars(data) == before


class Watching(ModuleExtractor):
    """Remembers the arithmetic of its forward passes."""

    def __init__(self) -> None:
        super().__init__(network().module())
        self.autocast: set[Any] = set()

    def extract(self, inputs: Tensor) -> Tensor:
        self.autocast.add(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None)
        return super().extract(inputs)


@pytest.mark.parametrize(("precision", "autocast"), [("bf16-mixed", torch.bfloat16), ("32-true", None)])
def test_the_users_precision_is_used(tmp_path: Path, precision: Any, autocast: Any) -> None:
    extractor = Watching()
    rows = embedded(extractor=extractor, trainer=quiet_trainer(tmp_path, precision=precision))
    assert extractor.autocast == {autocast}
    assert rows.dtype == torch.float32
    assert torch.equal(rows, embedded()) == (autocast is None)
    assert torch.allclose(rows, embedded(), atol=0.05)


class Hooked(DigitsSource):
    """Normalises on the device, as torchgeo does, and augments while training."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, Any]] = []

    def note(self, hook: str) -> None:
        stage = None if self.trainer is None else self.trainer.state.stage
        self.calls.append((hook, None if stage is None else stage.value))

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.note("before")
        return batch

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        self.note("transfer")
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.note("after")
        images = batch[0] - 0.5
        return [images + torch.rand(()) if self.trainer is not None and self.trainer.training else images, *batch[1:]]


class Asked(PixelsExtractor):
    """Remembers whether it was asked to normalise."""

    def __init__(self) -> None:
        self.normalize: list[bool] = []
        self.rows = torch.empty(0, 64)

    def transform(self, normalize: bool = True) -> Callable[[Any], Any]:
        self.normalize.append(normalize)
        return super().transform(normalize)

    def extract(self, inputs: Tensor) -> Tensor:
        self.rows = torch.cat([self.rows, super().extract(inputs)])
        return super().extract(inputs)


class TestTransferHooks:
    def test_they_are_seen_in_order_and_as_prediction(self, tmp_path: Path) -> None:
        source, extractor = Hooked(), Asked()
        datamodule = CoresetDataModule(source, method="k_center", ratio=0.1, features=extractor)
        stages: list[Any] = []

        class Net(LinearNet):
            def setup(self, stage: str) -> None:
                stages.append(self.trainer.state.stage.value)
                source.calls.append(("selected", None))

        quiet_trainer(tmp_path, limit_val_batches=0).fit(Net(), datamodule=datamodule)
        passed = source.calls[: source.calls.index(("selected", None))]
        # Ten batches of 64.
        assert passed == [("before", "predict"), ("transfer", "predict"), ("after", "predict")] * 10
        assert stages == ["train"], "and afterwards the stage is what it was"
        assert ("after", "train") in source.calls
        images, _ = digit_tensors()
        assert torch.equal(extractor.rows[:600], images.flatten(1) - 0.5), "normalised, not augmented"
        assert extractor.normalize == [False]

    def test_without_a_trainer_they_count_too(self) -> None:
        source, extractor = Hooked(), Asked()
        rows = embedded(extractor=extractor, source=source)
        assert torch.equal(rows, DIGITS.tensors[0].flatten(1) - 0.5)
        assert [hook for hook, _ in source.calls[:2]] == ["before", "after"]
        assert extractor.normalize == [False]

    def test_a_source_without_hooks_leaves_normalising_to_the_extractor(self) -> None:
        extractor = Asked()
        embedded(extractor=extractor, source=DigitsSource())
        embedded(extractor=extractor)
        assert extractor.normalize == [True, True]
        assert transfer_hooks(DigitsSource()) == transfer_hooks(None) == []
        assert len(transfer_hooks(Hooked())) == 3

    def test_embeddings_under_hooks_have_a_key_of_their_own(self, tmp_path: Path) -> None:
        """Else the normalised embeddings of one datamodule would be found by another that does not normalise."""
        for source in (Hooked(), DigitsSource()):
            datamodule = CoresetDataModule(source, method="k_center", ratio=0.1, features="pixels", cache_dir=tmp_path)
            datamodule.setup("fit")
        assert len(list((tmp_path / "embeddings").iterdir())) == 2


def test_the_users_collation_is_not_used(tmp_path: Path) -> None:
    def mixed_up(items: Any) -> Any:
        msg = "CutMix"
        raise AssertionError(msg)

    source = DigitsSource(collate_fn=mixed_up)
    datamodule = CoresetDataModule(source, method="k_center", ratio=0.1, features=PixelsExtractor())
    datamodule.setup("fit")
    assert len(datamodule.coreset) == 60
    loader = datamodule.train_dataloader()
    assert isinstance(loader, DataLoader)
    assert loader.collate_fn is mixed_up


def test_the_bar_hears_of_every_item_once() -> None:
    told: list[Any] = []

    class Bar:
        def update(self, n: int = 1) -> None:
            told.append(n)

    @contextmanager
    def progress(total: int, description: str) -> Iterator[Bar]:
        told.append((total, description))
        yield Bar()
        told.append("closed")

    embedded(progress=progress)
    assert told == [(150, "Embedding"), 64, 64, 22, "closed"]
