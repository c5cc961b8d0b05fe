"""Adapters: maps that are what they say, prompts as classes, wrappings taken off, calls counted."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from lightning_coreset.regions import (
    HCSConfig,
    clip_adapter,
    from_module,
    option_likelihood_adapter,
    prompt_features,
    refine,
    segmentation_adapter,
    transformers_clip_adapter,
)
from lightning_coreset.regions.adapters.feature_map import known_input_size
from lightning_coreset.regions.adapters.fidelity import map_fidelity
from tests.regions.models import Counting, scenes

torch.manual_seed(0)


def plain(name: str) -> nn.Module:
    """Somebody's own networks."""
    body = [nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    return {
        "pooled by a module": lambda: nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
        "pooled in forward": Counting,
        "without a head": lambda: nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        "flattened": lambda: nn.Sequential(*body, nn.Flatten(), nn.Linear(8 * 16 * 16, 4)),
        "max pooled": lambda: nn.Sequential(*body, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
        "grey": lambda: nn.Sequential(nn.Conv2d(1, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
    }[name]()


LIBRARIES = {
    "timm/resnet10t": lambda: timm.create_model("resnet10t", num_classes=4),
    "timm/convnext_atto": lambda: timm.create_model("convnext_atto", num_classes=4),
    "timm/mobilenetv3_small_050": lambda: timm.create_model("mobilenetv3_small_050", num_classes=4),
    "timm/vit_tiny": lambda: timm.create_model(
        "vit_tiny_patch16_224", num_classes=4, img_size=32, patch_size=8, dynamic_img_size=True, global_pool="avg"
    ),
    "torchvision/resnet18": lambda: torchvision.models.resnet18(num_classes=4),
    "torchvision/squeezenet1_0": lambda: torchvision.models.squeezenet1_0(num_classes=4),
    "torchvision/mobilenet_v2": lambda: torchvision.models.mobilenet_v2(num_classes=4),
    "torchvision/convnext_tiny": lambda: torchvision.models.convnext_tiny(num_classes=4),
}


class TestFeatureMap:
    @pytest.mark.parametrize("name", LIBRARIES)
    def test_classifiers_of_libraries_show_a_map_that_gives_their_logits(self, name: str) -> None:
        net = LIBRARIES[name]().eval()
        adapter = from_module(net, input_size=64 if "squeezenet" in name else 32)
        assert adapter.features is not None, "no map was found"
        images = torch.randn(2, 3, *adapter.input_size)
        with torch.no_grad():
            torch.testing.assert_close(
                adapter.head(adapter.features(images).mean((2, 3))), net(images), rtol=1e-3, atol=1e-3
            )
            assert adapter.features(torch.randn(1, 3, 128, 160)).shape[2] >= 4

    @pytest.mark.parametrize(
        ("name", "found"),
        [
            ("pooled by a module", True),
            ("pooled in forward", True),
            ("without a head", True),
            ("grey", True),
            ("flattened", False),
            ("max pooled", False),
        ],
    )
    def test_a_map_is_believed_only_if_it_gives_the_modules_logits(self, name: str, found: bool) -> None:
        net = plain(name).eval()
        assert (from_module(net, input_size=32, probe=True).features is not None) == found
        assert from_module(net, input_size=32).features is None, "not looked for unless asked"
        assert from_module(net, input_size=32, probe=False).features is None

    def test_looking_leaves_no_trace(self) -> None:
        net = plain("pooled by a module").train()
        before = {name: value.clone() for name, value in net.state_dict().items()}
        state = torch.get_rng_state()
        from_module(net, input_size=32, probe=True)
        assert torch.equal(torch.get_rng_state(), state)
        assert all(part.training for part in net.modules())
        assert not any(part._forward_hooks for part in net.modules())
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())

    def test_scan_is_what_a_map_is_for(self) -> None:
        net = plain("pooled by a module").eval()
        found = refine(scenes(2), from_module(net, input_size=16, probe=True))
        assert found.engine == "scan"
        assert refine(scenes(2), from_module(net, input_size=16)).engine == "crop"
        assert (
            refine(scenes(2), from_module(net, input_size=16, probe=True), HCSConfig(levels=((2, 1),))).engine == "crop"
        )

    def test_a_map_whose_windows_say_nothing_of_crops_is_not_searched_unasked(self) -> None:
        net = plain("pooled by a module").eval()
        adapter = from_module(net, input_size=16, probe=True)
        assert 0.7 < adapter.fidelity <= 1
        doubtful = adapter.replace(fidelity=0.5)
        assert refine(scenes(2), doubtful).engine == "crop"
        assert refine(scenes(2), doubtful, HCSConfig(engine="scan")).engine == "scan", "whoever asks for it gets it"
        assert refine(scenes(2), adapter.replace(fidelity=None)).engine == "scan"

    def test_fidelity_is_one_without_context_and_falls_with_it(self) -> None:
        def pointwise(images: Tensor) -> Tensor:
            return images.relu()

        def padded(images: Tensor) -> Tensor:
            # Half of what a crop of 8 px sees is padding, and none of what a window of a large map sees.
            wide = nn.functional.avg_pool2d(images, 9, 1, 4)
            return torch.cat(
                [wide, torch.ones_like(images) - nn.functional.avg_pool2d(torch.ones_like(images), 9, 1, 4)], 1
            )

        assert map_fidelity(pointwise, (8, 8)) == pytest.approx(1)
        assert map_fidelity(padded, (8, 8)) < map_fidelity(padded, (64, 64)) < 1
        assert map_fidelity(padded, (8, 8)) == map_fidelity(padded, (8, 8))

    def test_input_sizes_that_are_known(self) -> None:
        assert known_input_size(timm.create_model("resnet10t")) == (176, 176)
        assert known_input_size(LIBRARIES["timm/vit_tiny"]()) == (32, 32)
        assert known_input_size(SimpleNamespace(example_input_array=torch.zeros(1, 3, 5, 7))) == (5, 7)
        assert known_input_size(Counting()) is None


class TestClip:
    def test_logits_are_scaled_cosines(self) -> None:
        text, images = torch.randn(3, 8), scenes(2, 16)
        encoder = Counting(classes=8)
        rows, logits = clip_adapter(encoder, text, 7.0, input_size=16).forward(images)
        cosine = nn.functional.cosine_similarity(rows.unsqueeze(1), text.unsqueeze(0), dim=2)
        torch.testing.assert_close(logits, 7 * cosine)

    @pytest.mark.parametrize("fuse", ["softmax", "feature"])
    @pytest.mark.parametrize("loss", ["entropy", "prompt"])
    def test_it_refines(self, fuse: str, loss: str) -> None:
        adapter = clip_adapter(Counting(classes=8), torch.randn(3, 8), torch.tensor(20.0), input_size=8)
        found = refine(scenes(2), adapter, HCSConfig(fuse=fuse, loss=loss))
        assert found.logits.shape == (2, 3)
        if fuse == "feature":
            torch.testing.assert_close(found.logits, adapter.head(found.embedding))

    def test_prompts_are_means_over_templates(self) -> None:
        def encode(sentences: list[str]) -> Tensor:
            return torch.tensor([[float(len(one)), 1.0] for one in sentences])

        found = prompt_features(encode, ["cat", "truck"], ["{}", "a {}"])
        rows = nn.functional.normalize(torch.tensor([[3.0, 1.0], [5.0, 1.0]])).mean(0)
        torch.testing.assert_close(found[0], nn.functional.normalize(rows, dim=0))
        assert found.shape == (2, 2)

    def test_a_model_of_the_form_of_transformers(self) -> None:
        class Model(nn.Module):
            device = torch.device("cpu")
            config = SimpleNamespace(vision_config=SimpleNamespace(image_size=8))
            logit_scale = nn.Parameter(torch.tensor(2.0))

            def get_image_features(self, pixel_values: Tensor) -> Any:
                return SimpleNamespace(pooler_output=pixel_values.mean((2, 3)))

            def get_text_features(self, input_ids: Tensor) -> Any:
                return SimpleNamespace(pooler_output=input_ids.float())

        class Tokens(dict[str, Tensor]):
            def to(self, device: Any) -> "Tokens":
                return self

        def tokenizer(sentences: list[str], **_: Any) -> Tokens:
            return Tokens(input_ids=torch.tensor([[len(one), 1, 2] for one in sentences]))

        adapter = transformers_clip_adapter(Model(), tokenizer, ["a", "bb"])
        assert adapter.input_size == (8, 8)
        assert refine(scenes(1), adapter).logits.shape == (1, 2)

    def test_text_that_is_no_matrix_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"text_features have shape \[3\]"):
            clip_adapter(Counting(), torch.zeros(3))


@pytest.mark.oracle("open_clip")
def test_a_model_of_open_clip_from_a_file(tmp_path: Path) -> None:
    import open_clip

    from lightning_coreset.regions import open_clip_adapter

    model = open_clip.create_model("RN50", pretrained=None)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    adapter = open_clip_adapter("RN50", ["cat", "dog"], pretrained=str(tmp_path / "weights.pt"))
    found = refine(torch.rand(1, 3, 448, 448), adapter, HCSConfig(levels=((2, 2),)))
    assert found.logits.shape == (1, 2)


class TestSegmentation:
    @pytest.mark.parametrize(
        "wrap",
        [
            lambda maps: maps,
            lambda maps: {"out": maps, "aux": maps * 0},
            lambda maps: {"logits": maps},
            lambda maps: SimpleNamespace(logits=maps),
        ],
    )
    def test_wrappings(self, wrap: Any) -> None:
        maps = torch.randn(2, 3, 4, 4)
        assert torch.equal(segmentation_adapter(lambda _: wrap(maps)).forward(maps), maps)

    def test_a_promptable_segmenter_gives_one_logit(self) -> None:
        maps = torch.randn(2, 1, 4, 4)
        found = segmentation_adapter(lambda _: {"masks": maps}, key="masks", binary=True).forward(maps)
        torch.testing.assert_close(found.softmax(1)[:, 1:], maps.sigmoid())

    def test_something_else_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"The segmenter gave \[2, 3\].*name their place with key="):
            segmentation_adapter(lambda _: {"out": torch.zeros(2, 3)}).forward(torch.zeros(2, 3, 4, 4))


class TestOptions:
    def test_likelihoods_are_logits_and_calls_are_counted(self) -> None:
        asked = []

        def likelihood(crops: Tensor, option: str) -> Tensor:
            asked.append((len(crops), option))
            return -len(option) * crops.mean((1, 2, 3)).exp()

        options = ["cat", "a long answer"]
        adapter = option_likelihood_adapter(likelihood, options, input_size=8)
        found = refine(scenes(1), adapter, HCSConfig(max_forwards=40))
        assert sum(count for count, _ in asked) == found.n_forwards <= 40
        assert found.n_calls == len(asked)
        assert {option for _, option in asked} == set(options)
        by_token = option_likelihood_adapter(likelihood, options, lengths=[3, 13]).forward(scenes(1, 8))
        torch.testing.assert_close(by_token[:, 0], by_token[:, 1])

    @pytest.mark.parametrize(("options", "lengths"), [([], None), (["a"], [1, 2])])
    def test_refused(self, options: list[str], lengths: Any) -> None:
        with pytest.raises(ValueError, match="options and lengths=.* are not accepted"):
            option_likelihood_adapter(lambda crops, option: crops, options, lengths=lengths)
