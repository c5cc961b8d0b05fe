"""The feature pass: an embedding is of its item alone, is made once, and leaves no trace."""

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

from lightning_coreset import CoresetDataModule, CoresetError
from lightning_coreset.data import EmbeddingCache
from lightning_coreset.distributed import index_range
from lightning_coreset.features import (
    ModuleExtractor,
    PixelsExtractor,
    TorchvisionExtractor,
)
from lightning_coreset.features.extractor import resized, scaled_tensor
from tests.data.examples import Pictures, as_array, picture
from tests.features.examples import DIGITS, embedded, network
from tests.helpers.lightning_parts import DigitsSource, quiet_trainer


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
