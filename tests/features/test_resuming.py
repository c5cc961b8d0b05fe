"""The pass and its cache: an interrupted one goes on, a damaged shard is made again, nothing is made twice."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from lightning_coreset import CoresetError, FeatureExtractor
from lightning_coreset.data import EmbeddingCache
from lightning_coreset.features import (
    extraction,
)
from tests.features.examples import DIGITS, EVERYTHING, embedded, network
from tests.helpers.lightning_parts import CountingExtractor


class Failing(CountingExtractor):
    """Embeds so many batches, then the power goes."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.batches = batches

    def extract(self, inputs: Tensor) -> Tensor:
        if self.forwards == self.batches:
            raise KeyboardInterrupt
        return super().extract(inputs)


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
