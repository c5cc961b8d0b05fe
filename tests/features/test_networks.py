"""Extractors with a network: what they see, what they give, and how they fail where weights cannot be had."""

import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
import torchvision
from huggingface_hub import constants as hub_constants
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_model_data_config
from torch import nn

from lightning_coreset import CoresetError, FeatureExtractor
from lightning_coreset.data.fingerprint import module_key
from lightning_coreset.errors import WeightsUnavailableError
from lightning_coreset.features import ModuleExtractor, TimmExtractor, TorchvisionExtractor, networks
from tests.data.examples import picture

#: timm's own network for tests: a residual network of 0.5 MB.
TINY = "test_resnet"
IMAGES = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def tiny() -> TimmExtractor:
    return TimmExtractor(TINY, pretrained=False)


def embedded(extractor: FeatureExtractor, images: torch.Tensor = IMAGES) -> torch.Tensor:
    module = extractor.module()
    assert module is not None
    module.eval()
    with torch.no_grad():
        return extractor.extract(images)


class TestRows:
    def test_timm_gives_pooled_features_before_the_classifier(self) -> None:
        network = timm.create_model(TINY, num_classes=0)
        assert embedded(tiny()).shape == (3, network.num_features)

    @pytest.mark.parametrize(
        ("name", "width"), [("squeezenet1_1", 512), ("mobilenet_v3_small", 1024), ("shufflenet_v2_x0_5", 1024)]
    )
    def test_torchvision_networks_lose_their_classifier_whatever_its_name(self, name: str, width: int) -> None:
        assert embedded(TorchvisionExtractor(name, weights=None)).shape == (3, width)

    def test_what_has_no_classifier_is_refused(self) -> None:
        with pytest.raises(ValueError, match="Flatten has no classifier that could be left out: give it as a module"):
            networks.without_classifier(nn.Flatten())

    @pytest.mark.parametrize("make", [tiny, lambda: TorchvisionExtractor("squeezenet1_1", weights=None)])
    def test_random_weights_are_always_the_same_and_leave_the_random_state_alone(
        self, make: Callable[[], FeatureExtractor]
    ) -> None:
        torch.manual_seed(5)
        state = torch.get_rng_state()
        first = embedded(make())
        assert torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(6)
        assert torch.equal(embedded(make()), first)

    @pytest.mark.parametrize(
        ("module", "width"), [(nn.Conv2d(3, 5, 3), 5), (nn.Flatten(), 3 * 64 * 64), (nn.Flatten(2), 64 * 64)]
    )
    def test_any_module(self, module: nn.Module, width: int) -> None:
        assert embedded(ModuleExtractor(module)).shape == (3, width)

    def test_a_module_of_half_precision_gets_what_it_takes(self) -> None:
        assert embedded(ModuleExtractor(nn.Conv2d(3, 5, 3).bfloat16())).dtype == torch.bfloat16

    @pytest.mark.parametrize("make", [tiny, lambda: TorchvisionExtractor("squeezenet1_1", weights=None)])
    def test_grey_tensors_are_repeated_and_other_channels_refused(self, make: Callable[[], FeatureExtractor]) -> None:
        extractor = make()
        grey = IMAGES[:, :1]
        assert torch.equal(embedded(extractor, grey), embedded(extractor, grey.expand(-1, 3, -1, -1)))
        with pytest.raises(CoresetError, match="takes images with 3 channels and got 13: choose some with features_"):
            embedded(extractor, torch.rand(2, 13, 64, 64))


class TestKeys:
    def test_new_weights_are_another_key(self) -> None:
        module = nn.Linear(3, 2)
        before = ModuleExtractor(module).key
        assert ModuleExtractor(module).key == before
        with torch.no_grad():
            module.bias[0] += 1
        assert ModuleExtractor(module).key != before
        assert ModuleExtractor(nn.Sequential(module)).key != ModuleExtractor(module).key

    def test_a_key_has_no_memory_address(self) -> None:
        class Applied(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.function = lambda images: images

            def extra_repr(self) -> str:
                return repr(self.function)

        assert module_key(Applied()) == module_key(Applied())

    def test_random_and_trained_weights_are_told_apart(self) -> None:
        assert tiny().key != TimmExtractor(TINY).key
        keys = {TorchvisionExtractor("resnet50", name).key for name in (None, "IMAGENET1K_V1", "IMAGENET1K_V2")}
        assert len(keys) == 3

    def test_weights_that_torchvision_does_not_know(self) -> None:
        with pytest.raises(ValueError, match=r"has no weights 'V9': give one of \['IMAGENET1K_V1'"):
            TorchvisionExtractor("resnet18", "V9")


def photo(mode: str = "RGB", size: tuple[int, int] = (300, 200)) -> Image.Image:
    """A smooth picture, so that two ways to resize agree."""
    across, down = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    pixels = np.stack([across, down, (across + down) / 2], axis=2).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


class TestTransforms:
    def test_timm_sees_what_its_weights_were_trained_on(self) -> None:
        extractor = tiny()
        theirs = create_transform(**resolve_model_data_config(extractor.module()))
        ours = extractor.transform()
        assert (ours(photo()) - theirs(photo())).abs().max() < 0.05

    @pytest.mark.parametrize("name", ["resnet18", "resnet50", "vit_b_16", "efficientnet_b0"])
    def test_torchvision_sees_what_its_weights_were_trained_on(self, name: str) -> None:
        theirs = torchvision.models.get_model_weights(name).DEFAULT.transforms()
        ours = TorchvisionExtractor(name).transform()
        assert (ours(photo()) - theirs(photo())).abs().max() < 0.05

    @pytest.mark.parametrize(
        "extractor", [tiny(), TorchvisionExtractor("resnet18"), TorchvisionExtractor("resnet18", None)]
    )
    def test_normalisation_is_left_to_a_source_that_does_it(self, extractor: FeatureExtractor) -> None:
        plain, normalized = (extractor.transform(normalize=asked) for asked in (False, True))
        assert plain is not None
        assert normalized is not None
        seen = plain(photo())
        assert 0 <= seen.min() < seen.max() <= 1
        difference = normalized(photo()) - seen
        mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        if isinstance(extractor, TorchvisionExtractor):
            expected = (seen - mean[:, None, None]) / deviation[:, None, None]
            assert torch.allclose(normalized(photo()), expected, atol=1e-5)
        assert difference.abs().max() > 0.5

    @pytest.mark.parametrize("mode", ["L", "RGBA", "P", "RGB", "I;16"])
    def test_pictures_of_any_mode_have_three_channels(self, mode: str) -> None:
        image = Image.fromarray(np.zeros((50, 40), dtype=np.uint16)) if mode == "I;16" else photo(mode)
        seen = tiny().transform()(image)
        assert (seen.shape[0], seen.dtype) == (3, torch.float32)

    def test_alpha_says_nothing(self) -> None:
        clear = photo()
        clear.putalpha(7)
        transform = tiny().transform()
        assert torch.equal(transform(clear), transform(photo()))

    @pytest.mark.parametrize("image", [torch.rand(13, 20, 20), torch.rand(2, 20, 20), torch.rand(20)])
    def test_satellite_images_need_a_choice_of_channels(self, image: torch.Tensor) -> None:
        with pytest.raises(CoresetError, match=r"takes images with 3 channels and got one of shape \[.*features_tra"):
            tiny().transform()(image)

    @pytest.mark.parametrize("size", [(64, 200), (700, 30), (5, 5)])
    def test_images_of_any_size_become_one_size(self, size: tuple[int, int]) -> None:
        assert TorchvisionExtractor("resnet18", None).transform()(picture(0).resize(size)).shape == (3, 224, 224)


class TestLocalWeights:
    """Weights in the local caches are used, without a word to any server."""

    @pytest.fixture(autouse=True)
    def _no_network(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        def refuse(*_: Any, **__: Any) -> None:
            msg = "a server was asked"
            raise AssertionError(msg)

        monkeypatch.setattr(socket.socket, "connect", refuse)
        monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def test_torchvision(self, tmp_path: Path) -> None:
        network = torchvision.models.get_model("squeezenet1_1", weights=None)
        folder = tmp_path / "hub" / "checkpoints"
        folder.mkdir(parents=True)
        url = torchvision.models.SqueezeNet1_1_Weights.DEFAULT.url
        torch.save(network.state_dict(), folder / url.rsplit("/", 1)[1])
        loaded = TorchvisionExtractor("squeezenet1_1").module()
        assert torch.equal(loaded.features[0].weight, network.features[0].weight)

    def test_timm(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        network = timm.create_model(TINY)
        folder = tmp_path / f"models--timm--{TINY}.r160_in1k"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("0" * 40)
        snapshot = folder / "snapshots" / ("0" * 40)
        snapshot.mkdir(parents=True)
        save_file(network.state_dict(), snapshot / "model.safetensors")
        # What is in the cache is used where the hub cannot be asked whether there is something newer.
        monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
        loaded = TimmExtractor(TINY).module()
        name = next(iter(loaded.state_dict()))
        assert torch.equal(loaded.state_dict()[name], network.state_dict()[name])


def unavailable(extractor: FeatureExtractor) -> str:
    """The message of weights that cannot be had; it comes soon and is one line that names the other choices."""
    started = time.monotonic()
    with pytest.raises(WeightsUnavailableError) as raised:
        extractor.module()
    assert time.monotonic() - started < 30
    told = str(raised.value)
    assert "\n" not in told
    for choice in ("features='pixels'", ".npy, .npz or .safetensors", "a network of your own", "the local cache"):
        assert choice in told
    assert "features.extraction" not in told
    return told


class TestWeightsThatCannotBeHad:
    @pytest.fixture(autouse=True)
    def _empty_caches(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def test_the_hub_is_switched_off(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
        assert unavailable(TimmExtractor("resnet18")).startswith("The weights of timm/resnet18.a1_in1k could not be")

    @pytest.mark.parametrize("error", [RuntimeError("no route"), TimeoutError("timed out"), ValueError("proxy")])
    def test_the_hub_does_not_answer(self, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
        def silent(*_: Any, **__: Any) -> None:
            raise error

        monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", silent)
        unavailable(TimmExtractor("resnet18"))

    def test_torchvisions_site_does_not_answer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def silent(*_: Any, **__: Any) -> None:
            raise urllib.error.URLError("no route")

        monkeypatch.setattr(urllib.request, "urlopen", silent)
        assert "torchvision/resnet18 IMAGENET1K_V1" in unavailable(TorchvisionExtractor("resnet18"))

    def test_a_site_that_takes_the_call_and_says_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(networks, "_ANSWER_SECONDS", 0.2)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(OSError, match="timed out"):
            networks._ask_the_site(f"http://127.0.0.1:{server.getsockname()[1]}/weights.pth")

    def test_timm_has_none(self) -> None:
        untrained = next(name for name in timm.list_models() if not timm.models.get_pretrained_cfg(name).has_weights)
        assert "timm has none" in unavailable(TimmExtractor(untrained))

    def test_building_it_asks_for_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
        assert TimmExtractor("resnet18").key == "timm/resnet18.a1_in1k"
        assert TorchvisionExtractor("resnet18").key == "torchvision/resnet18 IMAGENET1K_V1"
