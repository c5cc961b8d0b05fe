"""What makes the pass fast on a GPU changes no embedding and leaves no trace; here on the CPU, forced."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from lightning_coreset.data import EmbeddingCache
from lightning_coreset.features import extract_features, extraction, resolve_extractor
from lightning_coreset.features.extractor import FeatureExtractor
from tests.helpers.lightning_parts import digit_tensors

SIZES = (1, 63, 64, 65, 200)


def network() -> nn.Module:
    """A small convolutional network with weights of its own ``[B, 1, 8, 8] -> [B, 6, 6, 6]``."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3))


def plain_loop(module: nn.Module, images: Tensor, batch_size: int = 64) -> Tensor:
    """The bare loop, batches filled up with their last image."""
    rows = []
    for batch in images.split(batch_size):
        filled = torch.cat([batch, batch[-1:].expand(batch_size - len(batch), *batch.shape[1:])])
        with torch.no_grad():
            rows.append(module.eval()(filled)[: len(batch)].mean(dim=(2, 3)))
    return torch.cat(rows)


def embed(size: int, **arguments: Any) -> Tensor:
    dataset = TensorDataset(*digit_tensors(size))
    return extract_features(dataset, resolve_extractor(network()), torch.arange(size), **arguments)


@pytest.fixture(params=[0, 1, 3])
def behind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Batches that are under way before the first one is asked for."""
    monkeypatch.setattr(extraction, "_batches_late", lambda device: request.param)
    return request.param


@pytest.mark.parametrize("size", SIZES)
def test_embeddings_are_those_of_a_bare_loop_bit_by_bit(size: int, behind: int) -> None:
    assert torch.equal(embed(size), plain_loop(network(), digit_tensors(size)[0]))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_with_workers_too(behind: int) -> None:
    assert torch.equal(embed(65, num_workers=1), plain_loop(network(), digit_tensors(65)[0]))


def test_the_cache_holds_the_same(behind: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extraction, "_SHARD_ROWS", 64)
    cache = EmbeddingCache(tmp_path, "key")
    rows = embed(200, cache=cache)
    stored, found = cache.read(torch.arange(200))
    assert bool(found.all())
    assert torch.equal(stored, rows)


def test_an_embedding_that_is_not_finite_names_its_item(behind: int) -> None:
    class Broken(FeatureExtractor):
        key = "broken"
        batch_size = 8

        def extract(self, inputs: Tensor) -> Tensor:
            rows = inputs.flatten(1).clone()
            rows[inputs[:, 0, 0, 0] == 21] = torch.nan
            return rows

    images = torch.arange(40.0).view(40, 1, 1, 1)
    with pytest.raises(extraction.CoresetError, match="item 21 "):
        extract_features(TensorDataset(images), Broken(), torch.arange(40))


class Copy:
    """Rows that note when they are waited for."""

    def __init__(self, number: int, log: list[str]) -> None:
        self.number = number
        self.log = log
        log.append(f"start {number}")

    def arrived(self) -> Tensor:
        self.log.append(f"wait {self.number}")
        return torch.tensor([self.number])


def test_one_batch_is_computed_while_the_one_before_comes_back() -> None:
    log: list[str] = []

    def batches() -> Iterator[tuple[list[int], Any]]:
        for number in range(3):
            yield [number], Copy(number, log)

    assert [indices for indices, _ in extraction._late(batches(), 1)] == [[0], [1], [2]]
    assert log == ["start 0", "start 1", "wait 0", "start 2", "wait 1", "wait 2"]


def test_only_a_gpu_runs_ahead_from_pinned_memory() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert [extraction._batches_late(device) for device in (cpu, cuda)] == [0, 1]
    loaders = [extraction._loader(None, torch.arange(3), 2, 0, device) for device in (cpu, cuda)]
    assert [loader.pin_memory for loader in loaders] == [False, True]


class PretendedGpu:
    """A device that says CUDA and is the CPU, as far as a module moves there."""

    type = "cuda"


@pytest.fixture
def movable(monkeypatch: pytest.MonkeyPatch) -> None:
    real = nn.Module.to
    monkeypatch.setattr(
        nn.Module, "to", lambda self, place: self if isinstance(place, PretendedGpu) else real(self, place)
    )


def laid_out(module: nn.Module) -> list[bool]:
    kernels = [part.weight for part in module.modules() if isinstance(part, nn.Conv2d)]
    return [kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels if kernel.shape[1] > 1]


@pytest.mark.usefixtures("movable")
def test_kernels_are_laid_out_for_the_pass_and_back_after_it() -> None:
    module, images = network(), digit_tensors(64)[0]
    before = {name: (tensor.data_ptr(), tensor.stride()) for name, tensor in module.state_dict().items()}
    parameters = list(module.parameters())
    expected = plain_loop(module, images)
    module.train()
    with extraction.module_ready(module, PretendedGpu()):
        assert laid_out(module) == [True]
        assert not module.training
        assert torch.allclose(plain_loop(module, images), expected, rtol=1e-5, atol=1e-6)
    assert {name: (tensor.data_ptr(), tensor.stride()) for name, tensor in module.state_dict().items()} == before
    assert all(left is right for left, right in zip(module.parameters(), parameters, strict=True))
    assert module.training
    assert torch.equal(plain_loop(module, images), expected)


@pytest.mark.usefixtures("movable")
def test_kernels_that_the_user_laid_out_stay_so() -> None:
    module = network()
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            part.weight.data = part.weight.data.contiguous(memory_format=torch.channels_last)
    with extraction.module_ready(module, PretendedGpu()):
        assert laid_out(module) == [True]
    assert laid_out(module) == [True]


def test_on_the_cpu_kernels_stay_as_they_are() -> None:
    module = network()
    with extraction.module_ready(module, torch.device("cpu")):
        assert laid_out(module) == [False]


@pytest.mark.gpu
def test_a_gpu_gives_the_embeddings_of_the_cpu(tmp_path: Path) -> None:
    trainer = pl.Trainer(accelerator="gpu", devices=1, logger=False, default_root_dir=tmp_path)
    assert torch.allclose(embed(200, trainer=trainer), embed(200), rtol=1e-2, atol=1e-3)
