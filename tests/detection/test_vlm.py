"""Proposers of transformers, on tiny configurations with random weights: shapes, words and boxes, not quality."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_coreset import CoresetError
from lightning_coreset.detection import ObjectEncoder, ObjectProposer, Proposals, propose_objects
from lightning_coreset.detection.grounding_dino import GroundingDinoProposer, _tokens_of
from lightning_coreset.detection.owlv2 import Owlv2Proposer
from lightning_coreset.detection.sam2 import Sam2PointerEncoder
from lightning_coreset.errors import WeightsUnavailableError
from tests.detection.examples import Scenes, same

NAMES = ["cat", "traffic light", "catfish"]
IMAGES = [
    torch.randint(0, 256, (3, *size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for size in ((60, 80), (90, 50))
]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GroundingDinoProposer(["a.b"]), "the prompt 'a.b' for 1 classes"),
        (lambda: GroundingDinoProposer(["a", "b"], prompts=["a"]), "1 prompts for 2 classes"),
        (lambda: GroundingDinoProposer(["a", "a"]), "'a' twice"),
        (lambda: Owlv2Proposer(["a"], prompt="a photo"), "has no place for the name"),
    ],
)
def test_words_that_cannot_be_asked(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    for model in (GroundingDinoProposer(["a"]), Owlv2Proposer(["a"]), Sam2PointerEncoder()):
        with pytest.raises(CoresetError, match=r"pip install 'lightning-coreset\[vlm\]'"):
            model.module()


transformers = pytest.importorskip("transformers", reason="transformers is not installed: tox run -e vlm")


def words(tmp_path: Path) -> Any:
    """A tokenizer that knows some words and all letters."""
    letters = [*"abcdefghijklmnopqrstuvwxyz", *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "cat", "traffic", "light", "##fish", *letters]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
    return transformers.BertTokenizerFast(str(tmp_path / "vocab.txt"))


@pytest.fixture(scope="module")
def grounding_dino(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    folder = tmp_path_factory.mktemp("grounding-dino")
    tokenizer = words(folder)
    backbone = transformers.SwinConfig(
        image_size=64, embed_dim=8, depths=[1, 1, 1], num_heads=[1, 1, 1], window_size=4,
        out_features=["stage1", "stage2", "stage3"],
    )  # fmt: skip
    text = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    config = transformers.GroundingDinoConfig(
        backbone_config=backbone, text_config=text, d_model=32, encoder_layers=1, decoder_layers=2, num_queries=20,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=16, decoder_ffn_dim=16, max_text_len=24,
        num_feature_levels=3,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.GroundingDinoForObjectDetection(config)
    images = transformers.GroundingDinoImageProcessor(size={"height": 64, "width": 64})
    return model, transformers.GroundingDinoProcessor(images, tokenizer)


@pytest.fixture(scope="module")
def owlv2() -> tuple[Any, Any]:
    clip = pytest.importorskip("transformers.models.clip")
    del clip
    config = transformers.Owlv2Config(
        text_config={"vocab_size": 600, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
                     "num_attention_heads": 2, "max_position_embeddings": 16, "bos_token_id": 598, "eos_token_id": 599},
        vision_config={"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                       "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.Owlv2ForObjectDetection(config)
    # Random weights of so few columns are large, and boxes without area are no proposals.
    for weight in model.box_head.parameters():
        weight.data *= 0.1

    class Processor:
        """Its own image processor; the words by their letters, because CLIP's vocabulary is on the hub."""

        images = transformers.Owlv2ImageProcessor(size={"height": 32, "width": 32})

        def __call__(self, text: Any, images: Any, return_tensors: str) -> Any:
            pixels = self.images(images, return_tensors=return_tensors)["pixel_values"]
            rows = [[598, *(2 + ord(letter) for letter in query[-10:]), 599] for query in text[0]]
            width = max(map(len, rows))
            ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
            mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
            inputs = {"pixel_values": pixels, "input_ids": ids, "attention_mask": mask}
            return transformers.BatchFeature(inputs)

    return model, Processor()


@pytest.fixture(scope="module")
def sam2() -> tuple[Any, None]:
    backbone = transformers.Sam2HieraDetConfig(
        hidden_size=8, image_size=[64, 64], blocks_per_stage=[1, 1, 2, 1], embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 2, 2], window_size_per_stage=[8, 4, 4, 4], global_attention_blocks=[3],
        window_positional_embedding_background_size=[4, 4],
    )  # fmt: skip
    vision = transformers.Sam2VisionConfig(
        backbone_config=backbone, backbone_channel_list=[64, 32, 16, 8], fpn_hidden_size=32,
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
    )  # fmt: skip
    config = transformers.Sam2VideoConfig(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": 32, "image_size": 64, "patch_size": 16, "mask_input_channels": 4},
        mask_decoder_config={"hidden_size": 32, "mlp_dim": 16, "num_attention_heads": 2, "iou_head_hidden_dim": 16,
                             "num_hidden_layers": 1},
        image_size=64, memory_attention_hidden_size=32, memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=16, memory_encoder_hidden_size=32, memory_encoder_output_channels=8,
        memory_attention_rope_feat_sizes=[4, 4], mask_downsampler_embed_dim=32, memory_fuser_embed_dim=32,
        memory_fuser_intermediate_dim=16, memory_fuser_num_layers=1,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.Sam2VideoModel(config), None


def check(parts: list[Proposals], width: int) -> None:
    for image, part in zip(IMAGES, parts, strict=True):
        assert len(part) > 0
        assert part.size == tuple(image.shape[-2:])
        assert part.features is not None
        assert part.features.shape == (len(part), width)
        assert bool((part.scores[1:] <= part.scores[:-1]).all())


class TestGroundingDino:
    def test_proposals(self, grounding_dino: tuple[Any, Any]) -> None:
        proposer = GroundingDinoProposer(NAMES, grounding_dino, floor=0.0)
        assert isinstance(proposer, ObjectProposer)
        parts = proposer.propose(IMAGES)
        check(parts, 32)
        alone = proposer.propose(IMAGES[1:])[0]
        assert torch.equal(alone.boxes, parts[1].boxes)

    def test_the_tokens_of_a_class_are_its_own(self, grounding_dino: tuple[Any, Any]) -> None:
        processor = grounding_dino[1]
        text = "cat. traffic light. catfish."
        tokens = processor.tokenizer.convert_ids_to_tokens(processor.tokenizer(text)["input_ids"])
        of_class = [[tokens[place] for place in places] for places in _tokens_of(processor, text, NAMES)]
        assert of_class == [["cat"], ["traffic", "light"], ["cat", "##fish"]]

    def test_the_class_is_the_one_whose_tokens_fit_best(self, grounding_dino: tuple[Any, Any]) -> None:
        model, processor = grounding_dino
        part = GroundingDinoProposer(NAMES, grounding_dino, floor=0.0).propose(IMAGES[:1])[0]
        inputs = processor(images=IMAGES[0], text="cat. traffic light. catfish.", return_tensors="pt")
        with torch.no_grad():
            chances = model(**inputs).logits[0].sigmoid()
        # [CLS] cat . traffic light . cat ##fish . [SEP]
        best = torch.stack([chances[:, [1]].amax(1), chances[:, [3, 4]].amax(1), chances[:, [6, 7]].amax(1)], dim=1)
        assert torch.allclose(part.scores, best.amax(1).sort(descending=True).values, atol=1e-6)
        assert sorted(part.labels.tolist()) == sorted(best.argmax(1).tolist())

    def test_many_classes_go_in_several_prompts(self, grounding_dino: tuple[Any, Any]) -> None:
        names = [f"{first}{second}" for first in "abc" for second in "xyz"]
        proposer = GroundingDinoProposer(names, grounding_dino, floor=0.0)
        groups = proposer.prompts()
        # Three tokens a class with its full stop, 22 in a prompt of 24.
        assert [len(group) for group in groups] == [7, 2]
        assert [label for group in groups for label in group] == list(range(9))
        part = proposer.propose(IMAGES[:1])[0]
        assert len(part) <= 40
        check([part, *GroundingDinoProposer(names, grounding_dino, floor=0.0).propose(IMAGES[1:])], 32)
        with pytest.raises(ValueError, match="tokens long, and 22 are read"):
            GroundingDinoProposer(["x" * 30], grounding_dino).prompts()

    def test_a_pass(self, grounding_dino: tuple[Any, Any], tmp_path: Path) -> None:
        proposer = GroundingDinoProposer(NAMES, grounding_dino, floor=0.0)
        whole = propose_objects(Scenes(2), proposer, cache=tmp_path)
        same(propose_objects(Scenes(2), proposer, cache=tmp_path), whole)

    def test_a_folder(self, grounding_dino: tuple[Any, Any], tmp_path: Path) -> None:
        for part in grounding_dino:
            part.save_pretrained(tmp_path)
        loaded = GroundingDinoProposer(NAMES, tmp_path, floor=0.0).propose(IMAGES[:1])[0]
        given = GroundingDinoProposer(NAMES, grounding_dino, floor=0.0).propose(IMAGES[:1])[0]
        assert torch.allclose(loaded.boxes, given.boxes, atol=1e-4)


class TestOwlv2:
    def test_proposals(self, owlv2: tuple[Any, Any]) -> None:
        proposer = Owlv2Proposer(NAMES, owlv2, floor=0.0)
        assert isinstance(proposer, ObjectProposer)
        check(proposer.propose(IMAGES), 16)

    def test_boxes_are_shares_of_the_padded_square(self, owlv2: tuple[Any, Any]) -> None:
        model, processor = owlv2
        part = Owlv2Proposer(["cat"], owlv2, floor=0.0, overlap=1.0, prompt="{}").propose(IMAGES[:1])[0]
        with torch.no_grad():
            answer = model(**processor(text=[["cat"]], images=IMAGES[0], return_tensors="pt"))
        x, y, width, height = (80 * answer.pred_boxes[0]).unbind(1)
        boxes = torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], dim=1).clamp(min=0)
        boxes = torch.minimum(boxes, torch.tensor([80.0, 60.0, 80.0, 60.0]))
        order = answer.logits[0].sigmoid().amax(1).argsort(descending=True, stable=True)
        inside = boxes[order][(boxes[order][:, 3] > boxes[order][:, 1]) & (boxes[order][:, 2] > boxes[order][:, 0])]
        assert torch.allclose(part.boxes, inside, atol=1e-3)


class TestSam2:
    def test_one_pointer_for_each_box(self, sam2: tuple[Any, None]) -> None:
        encoder = Sam2PointerEncoder(sam2)
        assert isinstance(encoder, ObjectEncoder)
        boxes = [torch.tensor([[5.0, 5.0, 30.0, 40.0], [0.0, 0.0, 70.0, 60.0]]), torch.tensor([[1.0, 1.0, 40.0, 80.0]])]
        rows = encoder.encode(IMAGES, boxes)
        assert [part.shape for part in rows] == [(2, 32), (1, 32)]
        alone = encoder.encode(IMAGES[:1], [boxes[0][1:]])[0]
        assert torch.allclose(alone, rows[0][1:], atol=1e-4), "a pointer does not depend on other boxes"

    def test_a_private_path_that_has_changed(self, sam2: tuple[Any, None], monkeypatch: pytest.MonkeyPatch) -> None:
        def changed(**_: Any) -> Any:
            return type("Answer", (), {"object_pointer": torch.zeros(1, 3, 1, 32)})

        monkeypatch.setattr(sam2[0], "_single_frame_forward", changed)
        with pytest.raises(CoresetError, match=r"gave \[1, 3, 1, 32\] as the pointer of a box"):
            Sam2PointerEncoder(sam2).encode(IMAGES[:1], [torch.ones(1, 4)])

    def test_an_encoder_in_the_pass(self, sam2: tuple[Any, None]) -> None:
        from lightning_coreset.detection import CallableProposer

        def whole(images: list[Tensor]) -> list[dict[str, Any]]:
            return [{"boxes": [[0, 0, 10, 10]], "labels": [0], "scores": [0.5]} for _ in images]

        found = propose_objects(Scenes(2), CallableProposer(whole, ["thing"]), encoder=Sam2PointerEncoder(sam2))
        assert found.features is not None
        assert found.features.shape == (2, 32)


def test_weights_that_cannot_be_had() -> None:
    for model in (GroundingDinoProposer(["a"], "nobody/nothing"), Sam2PointerEncoder("nobody/nothing")):
        with pytest.raises(WeightsUnavailableError, match="The model 'nobody/nothing' could not be loaded") as caught:
            model.module()
        assert "\n" not in str(caught.value)
