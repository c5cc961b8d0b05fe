"""The proxy: any size and kind of image, the same network on every rank, kept and found."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_coreset.data import EmbeddingCache
from lightning_coreset.features.proxy import ProxyExtractor
from tests.augmentation.images import Pictures
from tests.helpers.ranks import run_ranks

LABELS = torch.arange(8) % 2


def weights(extractor: ProxyExtractor) -> list[torch.Tensor]:
    return list(extractor.module().state_dict().values())


def same(first: ProxyExtractor, second: ProxyExtractor) -> bool:
    return all(torch.equal(*pair) for pair in zip(weights(first), weights(second), strict=True))


def test_every_rank_holds_the_network_of_one() -> None:
    def fit(reducer: Any) -> ProxyExtractor:
        return ProxyExtractor(1).fitted(Pictures(8), LABELS, reducer=reducer)

    # In a thread too: those of other tests may have left this one with another number of threads to convolve with.
    (alone,) = run_ranks(1, fit)
    assert not same(alone, ProxyExtractor(1).fitted(Pictures(8), LABELS, seed=1))
    assert not same(alone, ProxyExtractor(0).fitted(Pictures(8), None))
    assert all(same(found, alone) for found in run_ranks(2, fit))


def test_damaged_weights_are_trained_again(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, "key")
    first = ProxyExtractor(1).fitted(Pictures(8), LABELS, cache=cache)
    (shard,) = tmp_path.glob("embeddings/*/*")
    damaged = bytearray(shard.read_bytes())
    damaged[-2] ^= 1
    shard.write_bytes(damaged)
    with pytest.warns(UserWarning, match="is damaged"):
        assert same(ProxyExtractor(1).fitted(Pictures(8), LABELS, cache=cache), first)


@pytest.mark.parametrize(("sizes", "side"), [([(28, 28)], 28), ([(40, 64), (70, 50)], 40), ([(200, 190)], 128)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_of_any_size_and_channels(sizes: list[tuple[int, int]], side: int, channels: int) -> None:
    pictures = Pictures(4, form="pil", channels=channels, sizes=sizes)
    fitted = ProxyExtractor(0).fitted(pictures, None)
    images = torch.stack([fitted.view(pictures)[item] for item in range(4)])
    assert images.shape == (4, 3, side, side)
    assert fitted.extract(images).shape == (4, 512)
    # Pooled from 64 pixels on, so that large images do not take hundreds of times as long.
    assert fitted.module().body.maxpool(images).shape[-1] == (side if side < 64 else side // 2)
