"""What proposers return, and how each of them comes to it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Subset
from torchvision.models import detection as torchvision_detection

from lightning_coreset import CoresetError
from lightning_coreset.detection import (
    CallableProposer,
    GroundTruthProposer,
    ObjectEncoder,
    ObjectProposer,
    Objects,
    PrecomputedProposer,
    Proposals,
    TorchvisionProposer,
    propose_objects,
    resolve_proposer,
    with_classes,
)
from lightning_coreset.detection.proposals import clipped
from lightning_coreset.detection.torchvision_proposer import pooled_over_levels
from lightning_coreset.errors import WeightsUnavailableError
from tests.data.examples import Unreadable
from tests.detection import examples
from tests.detection.examples import NAMES

ONE = Proposals([[1, 2, 3, 4]], [1], [0.5], [[1.0, 2.0]], size=(8, 9))
NONE = Proposals([], [], [], size=(5, 6))


class TestOneImage:
    def test_tables_of_several(self) -> None:
        objects = Objects.from_proposals([NONE, ONE, ONE], class_names=NAMES)
        assert objects.image.tolist() == [1, 2]
        assert objects.image_sizes is not None
        assert objects.image_sizes.tolist() == [[5, 6], [8, 9], [8, 9]]
        assert objects.features is not None
        assert objects.features.tolist() == [[1.0, 2.0]] * 2
        assert objects.class_names == NAMES
        assert Objects.from_proposals([NONE]).features is None

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"boxes": [[1, 2, 10, 4]]}, "boxes inside their image"),
            ({"boxes": [[3, 2, 1, 4]]}, "x1 <= x2"),
            ({"boxes": [[float("nan"), 2, 3, 4]]}, "finite pixels"),
            ({"scores": [1.5]}, "scores of object 0"),
            ({"scores": [0.5, 0.5]}, r"scores of objects have shape \[2\]"),
            ({"labels": [-1]}, "labels of object 0"),
            ({"features": [[float("inf")]]}, "features of object 0"),
            ({"masks": []}, "1 boxes and 0 masks"),
        ],
    )
    def test_what_cannot_be(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Proposals(**{"boxes": [[1, 2, 3, 4]], "labels": [1], "scores": [0.5], "size": (8, 9)} | arguments)

    @pytest.mark.parametrize(
        ("parts", "message"),
        [
            ([ONE, Proposals([[1, 2, 3, 4]], [1], [0.5], size=(8, 9))], "features of 1 of 2 images"),
            ([ONE, Proposals([[1, 2, 3, 4]], [1], [0.5], [[1.0]], size=(8, 9))], r"features of widths \[1, 2\]"),
            ([ONE, {}], "proposals of image 1 are a dict"),
        ],
    )
    def test_parts_that_do_not_fit_together(self, parts: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Objects.from_proposals(parts)

    def test_boxes_are_cut_at_borders_but_not_thrown_away(self) -> None:
        boxes, kept = clipped(torch.tensor([[-2.0, 1.0, 4.0, 20.0], [3.0, 3.0, 3.0, 5.0]]), (10, 8))
        assert boxes[kept].tolist() == [[0.0, 1.0, 4.0, 10.0]]
        with pytest.raises(ValueError, match=r"box \[9.0, 1.0, 12.0, 2.0\] lies outside its image of 8 x 10"):
            clipped(torch.tensor([[9.0, 1.0, 12.0, 2.0]]), (10, 8))


def tiny(kind: str, classes: int = 3) -> nn.Module:
    """One of torchvision's detectors with random weights, for small images."""
    sides = {} if kind.startswith("ssd") else {"min_size": 64, "max_size": 96}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: nn.Module = getattr(torchvision_detection, kind)(
            weights=None, weights_backbone=None, num_classes=classes + 1, **sides
        )
    return model


IMAGES = [
    torch.randint(0, 256, (3, *size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for size in ((60, 80), (90, 50))
]


class Toy(nn.Module):
    """A detector of another make: called as torchvision's, with nothing else of theirs."""

    def __init__(self, labels: tuple[int, ...] = (1, 2), features: bool = False) -> None:
        super().__init__()
        self.labels = labels
        self.features = features

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        assert not self.training
        found = []
        for image in images:
            height, width = image.shape[-2:]
            boxes = torch.tensor([[-3.0, 0.0, 20.0, 10.0], [5.0, 5.0, width + 7.0, height]])
            one = {
                "boxes": boxes,
                "labels": torch.tensor(self.labels),
                "scores": image.mean() * torch.tensor([1.0, 0.1]),
            }
            found.append(one | ({"features": boxes[:, :2]} if self.features else {}))
        return found


class TestTorchvision:
    @pytest.mark.parametrize(
        "kind", ["fasterrcnn_mobilenet_v3_large_320_fpn", "fcos_resnet50_fpn", "ssdlite320_mobilenet_v3_large"]
    )
    def test_any_detector_gives_features_of_its_own(self, kind: str) -> None:
        model = tiny(kind).train()
        # Untrained ones are sure of nothing.
        proposer = TorchvisionProposer(model, ["a", "b", "c"], floor=0.0)
        assert isinstance(proposer, ObjectProposer)
        assert isinstance(proposer, ObjectEncoder)
        threshold = getattr(getattr(model, "roi_heads", model), "score_thresh")  # noqa: B009
        both = proposer.propose(IMAGES)
        assert all(len(part) for part in both)
        assert getattr(getattr(model, "roi_heads", model), "score_thresh") == threshold  # noqa: B009
        assert model.training, "modes are as before"
        for image, part in zip(IMAGES, both, strict=True):
            assert part.size == tuple(image.shape[-2:])
            alone = proposer.propose([image])[0]
            assert torch.equal(alone.boxes, part.boxes)
            assert part.features is not None
            assert alone.features is not None
            assert torch.equal(alone.features, part.features)
            encoded = proposer.encode([image], [part.boxes])[0]
            assert torch.allclose(encoded, part.features, atol=1e-4)

    def test_features_are_those_of_its_own_pooling(self) -> None:
        model: Any = tiny("fasterrcnn_mobilenet_v3_large_320_fpn").eval()
        boxes = torch.tensor([[0.0, 0.0, 40.0, 30.0], [10.0, 10.0, 30.0, 60.0]])
        with torch.no_grad():
            listed, _ = model.transform([IMAGES[0] / 255])
            ratio = torch.tensor(listed.image_sizes[0]) / torch.tensor([60, 80])
            scaled = boxes * ratio[[1, 0, 1, 0]]
            pooled = model.roi_heads.box_roi_pool(model.backbone(listed.tensors), [scaled], listed.image_sizes)
            head = model.roi_heads.box_head(pooled)
        proposer = TorchvisionProposer(model, ["a", "b", "c"])
        assert torch.allclose(proposer.encode([IMAGES[0]], [boxes])[0], pooled.mean((2, 3)), atol=1e-4)
        proposer = TorchvisionProposer(model, ["a", "b", "c"], layer="head")
        assert torch.allclose(proposer.encode([IMAGES[0]], [boxes])[0], head, atol=1e-4)

    def test_masks_come_along(self) -> None:
        part = TorchvisionProposer(tiny("maskrcnn_resnet50_fpn"), ["a", "b", "c"], floor=0.0).propose(IMAGES[:1])[0]
        assert part.masks is not None
        assert all(sum(runs) == 60 * 80 for runs in part.masks)

    def test_levels_follow_the_size_of_boxes(self) -> None:
        maps = [torch.full((1, 2, side, side), float(level)) for level, side in enumerate((16, 8, 4))]
        boxes = torch.tensor([[0.0, 0.0, 64.0, 64.0], [0.0, 0.0, 33.0, 33.0], [0.0, 0.0, 4.0, 4.0]])
        rows = pooled_over_levels([*maps, torch.zeros(1, 3, 2, 2)], boxes, (64, 64))
        assert rows[:, 0].tolist() == [2.0, 1.0, 0.0]

    def test_a_detector_of_another_make(self) -> None:
        part = TorchvisionProposer(Toy(), ["a", "b"], floor=0.1).propose(IMAGES[:1])[0]
        assert part.boxes.tolist() == [[0.0, 0.0, 20.0, 10.0]]
        assert part.labels.tolist() == [0]
        assert part.features is None
        low = TorchvisionProposer(Toy(features=True), ["a", "b"], floor=0.0).propose(IMAGES[:1])[0]
        assert low.labels.tolist() == [0, 1]
        assert low.features is not None
        assert low.features.tolist() == [[-3.0, 0.0], [5.0, 5.0]]

    def test_boxes_without_area_are_no_proposals(self) -> None:
        class Flat(Toy):
            def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
                found = super().forward(images)
                found[0]["boxes"][0] = torch.tensor([5.0, 5.0, 5.0, 9.0])
                return found

        part = TorchvisionProposer(Flat(), ["a", "b"], floor=0.0).propose(IMAGES[:1])[0]
        assert part.labels.tolist() == [1]

    def test_labels_are_mapped_by_number_or_name(self) -> None:
        images = IMAGES[:1]
        by_number = TorchvisionProposer(Toy((7, 9)), ["a", "b"], class_map={7: "b", 9: 0}, floor=0.0)
        assert by_number.propose(images)[0].labels.tolist() == [1, 0]
        dropped = TorchvisionProposer(Toy((7, 9)), ["a", "b"], class_map={9: "a"}, floor=0.0)
        assert dropped.propose(images)[0].labels.tolist() == [0]
        named = TorchvisionProposer("ssdlite320_mobilenet_v3_large", ["cat", "vehicle"],
                                    class_map={"cat": "cat", "car": "vehicle", "bus": "vehicle"})  # fmt: skip
        assert named._classes == {17: 0, 3: 1, 6: 1}
        chosen = TorchvisionProposer("ssdlite320_mobilenet_v3_large", ["dog", "cat"])
        assert chosen._classes == {18: 0, 17: 1}
        assert len(TorchvisionProposer("ssdlite320_mobilenet_v3_large").class_names) == 80

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: TorchvisionProposer("fasterrcnn"), "torchvision does not know the detector 'fasterrcnn'"),
            (lambda: TorchvisionProposer("fcos_resnet50_fpn", weights="BEST"), "has no weights 'BEST'"),
            (lambda: TorchvisionProposer("fcos_resnet50_fpn", ["unicorn"]), "'unicorn', which the detector does not"),
            (lambda: TorchvisionProposer(Toy()), "class_names are not known"),
            (lambda: TorchvisionProposer(Toy(), ["a"], floor=1.0), "floor=1.0 is not accepted"),
            (lambda: TorchvisionProposer(Toy(), ["a"], layer="neck"), "layer='neck' is not accepted"),
            (lambda: TorchvisionProposer(Toy(), ["a"], class_map={1: "b"}), "class_map maps 1 to 'b'"),
            (lambda: TorchvisionProposer(Toy(), ["a"]).encode(IMAGES, []), "zip"),
            (lambda: TorchvisionProposer(Toy(), ["a"]).encode(IMAGES[:1], [torch.ones(1, 4)]), "no .transform"),
        ],
    )
    def test_what_is_refused(self, make: Callable[[], Any], message: str) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            make()
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("labels", [(0, 1), (1, 3)])
    def test_labels_that_break_the_convention_do_not_vanish(self, labels: tuple[int, int]) -> None:
        with pytest.raises(CoresetError, match=r"The detector proposed label [03]; with 2 class_names labels 1 to 2"):
            TorchvisionProposer(Toy(labels), ["a", "b"], floor=0.0).propose(IMAGES)

    def test_weights_that_cannot_be_had(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: Any, **__: Any) -> Any:
            msg = "no route"
            raise OSError(msg)

        monkeypatch.setattr("urllib.request.urlopen", refuse)
        with pytest.raises(WeightsUnavailableError, match="no route.*'ground_truth'") as caught:
            resolve_proposer("torchvision/fasterrcnn_resnet50_fpn").propose(IMAGES)
        assert "\n" not in str(caught.value)

    def test_fingerprints_tell_what_matters(self) -> None:
        model = tiny("fasterrcnn_mobilenet_v3_large_320_fpn")
        keys = [
            TorchvisionProposer(model, ["a", "b", "c"]).fingerprint(),
            TorchvisionProposer(model, ["a", "b", "d"]).fingerprint(),
            TorchvisionProposer(model, ["a", "b", "c"], floor=0.1).fingerprint(),
            TorchvisionProposer(model, ["a", "b", "c"], layer="head").fingerprint(),
            TorchvisionProposer(Toy(), ["a", "b", "c"]).fingerprint(),
        ]
        assert len(set(keys)) == len(keys)
        assert TorchvisionProposer(model, ["a", "b", "c"]).fingerprint() == keys[0]


class TestGroundTruth:
    def test_what_people_drew(self, tmp_path: Path) -> None:
        dataset = examples.coco_dataset(tmp_path)
        proposer = GroundTruthProposer()
        found = propose_objects(dataset, proposer)
        examples.same(found, Objects.from_targets(examples.coco_content()))
        assert proposer.class_names == NAMES
        assert isinstance(proposer, ObjectProposer)

    def test_given_targets(self) -> None:
        found = propose_objects(Unreadable(3), GroundTruthProposer(examples.dicts(), class_names=NAMES))
        assert found.labels.tolist() == [2, 0, 2]
        other = propose_objects(Unreadable(3), GroundTruthProposer(lambda dataset: examples.dicts()))
        assert other.labels.tolist() == [2, 0, 2]

    def test_an_encoder_embeds_what_people_drew(self, tmp_path: Path) -> None:
        class Corners:
            def fingerprint(self) -> str:
                return "corners"

            def encode(self, images: Any, boxes: Any) -> list[Tensor]:
                return [box[:, :2] * image.shape[-1] for image, box in zip(images, boxes, strict=True)]

        found = propose_objects(examples.coco_dataset(tmp_path), GroundTruthProposer(), encoder=Corners())
        assert found.features is not None
        assert found.features.tolist() == [[60.0, 120.0], [1800.0, 300.0], [0.0, 0.0]]
        assert found.crowd is not None, "what is known of the objects stays"
        assert found.scores is None

    def test_nothing_to_know(self) -> None:
        with pytest.raises(CoresetError, match="No boxes were found in RandomPictures"):
            propose_objects(type("RandomPictures", (Unreadable,), {"__getitem__": lambda *_: torch.rand(3, 4, 4)})(2),
                            GroundTruthProposer())  # fmt: skip
        with pytest.raises(CoresetError, match="knows datasets, not single images"):
            GroundTruthProposer().propose(IMAGES)


RESULTS = [
    {"image_id": 20, "category_id": 11, "bbox": [0, 0, 32, 16], "score": 0.9},
    {"image_id": 0, "category_id": 3, "bbox": [50, 5, 30, 35], "score": 0.25},
    {"image_id": 0, "category_id": 11, "bbox": [1, 2, 10, 20], "score": 0.5},
]


class TestPrecomputed:
    def check(self, found: Objects) -> None:
        assert found.image.tolist() == [0, 0, 2]
        assert found.boxes.tolist() == [[50, 5, 60, 40], [1, 2, 11, 22], [0, 0, 32, 16]]
        assert found.labels.tolist() == [0, 2, 2]
        assert found.scores is not None
        assert found.scores.tolist() == pytest.approx([0.25, 0.5, 0.9])
        assert found.class_names == NAMES

    def test_results_beside_a_dataset_with_ids(self, tmp_path: Path) -> None:
        path = examples.write_json(tmp_path / "results.json", RESULTS)
        np.save(tmp_path / "results.npy", np.arange(6, dtype=np.float32).reshape(3, 2))
        dataset = examples.coco_dataset(tmp_path)
        found = propose_objects(dataset, PrecomputedProposer(path, annotations=examples.coco_content()))
        self.check(found)
        assert found.features is not None
        assert found.features.tolist() == [[2.0, 3.0], [4.0, 5.0], [0.0, 1.0]]
        part = propose_objects(Subset(dataset, [2]), PrecomputedProposer(path, class_names={3: "ant", 11: "cat"}))
        assert part.labels.tolist() == [1]
        assert resolve_proposer(path).class_names == ["3", "11"]

    def test_a_file_that_names_images(self, tmp_path: Path) -> None:
        content = examples.coco_content() | {"annotations": RESULTS}
        dataset = examples.voc_dataset(tmp_path)
        for image in content["images"]:
            image["file_name"] = f"some/folder/{image['file_name'].replace('png', 'jpg')}"
        found = propose_objects(dataset, resolve_proposer(examples.write_json(tmp_path / "labels.json", content)))
        self.check(found)

    def test_positions_where_nothing_else_is_told(self) -> None:
        results = [entry | {"image_id": entry["image_id"] // 10} for entry in RESULTS]
        found = propose_objects(Unreadable(3), PrecomputedProposer(results))
        assert found.image.tolist() == [0, 0, 2]
        with pytest.raises(CoresetError, match="has results of image_id 20, and the dataset tells neither"):
            propose_objects(Unreadable(3), PrecomputedProposer(RESULTS))

    def test_results_of_other_images(self, tmp_path: Path) -> None:
        results = [entry | {"image_id": 77} for entry in RESULTS]
        with pytest.raises(CoresetError, match="None of the 3 results of results belongs to an image"):
            propose_objects(examples.coco_dataset(tmp_path), PrecomputedProposer(results))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"score": None}, "Result 1 of results has no score"),
            ({"bbox": [0, 0, 5]}, r"Result 1 of results has the bbox \[0, 0, 5\]"),
            ({"bbox": [0, 0, float("nan"), 5]}, "has the bbox"),
            ({"bbox": [0, 0, -1, 5]}, "has the bbox"),
        ],
    )
    def test_entries_that_are_no_detections(self, change: dict[str, Any], message: str) -> None:
        results = [dict(entry) for entry in RESULTS]
        results[1] |= change
        results[1] = {key: value for key, value in results[1].items() if value is not None}
        with pytest.raises(ValueError, match=message):
            PrecomputedProposer(results)

    def test_boxes_of_another_size_of_the_images(self, tmp_path: Path) -> None:
        results = [RESULTS[0] | {"bbox": [320, 160, 20, 20]}]
        with pytest.raises(ValueError, match="lies outside its image of 32 x 32 pixels"):
            propose_objects(examples.coco_dataset(tmp_path), PrecomputedProposer(results))

    def test_embeddings_of_another_number(self) -> None:
        with pytest.raises(ValueError, match=r"features of results have shape \[2, 4\]"):
            PrecomputedProposer(RESULTS, np.zeros((2, 4)))


def test_a_function_is_a_proposer() -> None:
    proposer = CallableProposer(examples.squares, NAMES)
    assert isinstance(proposer, ObjectProposer)
    assert resolve_proposer(proposer) is proposer
    assert proposer.fingerprint() != CallableProposer(examples.squares, NAMES, key="other").fingerprint()
    assert proposer.module() is None
    network = Toy()
    assert CallableProposer(network, NAMES).module() is network


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("groundtruth", "did you mean 'ground_truth'"),
        ("detector", "for COCO results give a path that ends in .json"),
        ("missing.json", "missing.json does not exist"),
        ("torchvision/resnet18", "does not know the detector 'resnet18'"),
    ],
)
def test_words_that_mean_nothing(word: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        resolve_proposer(word)
    assert "\n" not in str(caught.value)


def test_another_type() -> None:
    with pytest.raises(TypeError, match="proposer is a int"):
        resolve_proposer(3)


def test_classes_are_chosen_by_name() -> None:
    objects = Objects([0, 0, 1], [[0, 0, 1, 1]] * 3, [0, 1, 2], num_images=2, class_names=NAMES)
    assert with_classes(objects, ["cat", "ant"]).labels.tolist() == [1, 0]
    with pytest.raises(ValueError, match="class_names names the class 'cats', .* did you mean 'cat'"):
        with_classes(objects, ["cats"])
