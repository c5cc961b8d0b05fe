"""The pass: the same table for any batch size, rank count, worker count and cache; each image looked at once."""

import multiprocessing
import os
import random
import signal
import threading
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_coreset import CoresetError
from lightning_coreset.detection import (
    CallableProposer,
    Objects,
    Proposals,
    TorchvisionProposer,
    propose_images,
    propose_objects,
    proposing,
)
from lightning_coreset.detection.packing import ProposalCache, packed, unpacked
from tests.detection import examples
from tests.detection.examples import NAMES, Scenes, same
from tests.detection.test_proposals import tiny
from tests.detection.work import Counting
from tests.helpers.ranks import run_ranks

WHOLE = propose_objects(Scenes(), Counting())


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposing, "_SHARD_IMAGES", 4)


def test_the_table() -> None:
    assert WHOLE.num_images == 12
    assert WHOLE.counts().sum(dim=1).tolist() == [0, 1, 2, 3] * 3
    assert WHOLE.class_names == NAMES
    assert WHOLE.image_sizes is not None
    assert WHOLE.image_sizes.tolist() == [[20 + image, 30] for image in range(12)]
    assert WHOLE.features is not None
    assert torch.equal(WHOLE.features, WHOLE.features.half().float()), "as it is stored"


@pytest.mark.parametrize("arguments", [{"batch_size": 1}, {"batch_size": 16}, {"num_workers": 2}], ids=str)
def test_batches_and_workers_change_nothing(arguments: dict[str, Any]) -> None:
    same(propose_objects(Scenes(), Counting(), **arguments), WHOLE)


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 13])
def test_ranks_share_the_work_and_all_hold_the_table(ranks: int, tmp_path: Path) -> None:
    proposers = [Counting() for _ in range(ranks)]

    def work(reducer: Any) -> Objects:
        return propose_objects(Scenes(), proposers[reducer.rank], reducer=reducer, cache=tmp_path)

    for found in run_ranks(ranks, work):
        same(found, WHOLE)
    assert sum(proposer.images for proposer in proposers) == 12
    # What some ranks stored another number of them finds.
    proposer = Counting()
    same(propose_objects(Scenes(), proposer, cache=tmp_path), WHOLE)
    assert proposer.images == 0


def test_a_rank_whose_images_show_nothing() -> None:
    class Empty(Scenes):
        def __getitem__(self, index: int) -> Any:
            return super().__getitem__(index if index < 6 else 0)

    alone = propose_objects(Empty(), Counting())
    assert int(alone.image.max()) < 6
    for found in run_ranks(2, lambda reducer: propose_objects(Empty(), Counting(), reducer=reducer)):
        same(found, alone)


def test_all_ranks_stop_when_one_fails() -> None:
    def work(reducer: Any) -> Any:
        proposer: Any = Counting()
        if reducer.rank == 1:
            proposer.class_names = ["one"]
        return propose_objects(Scenes(), proposer, reducer=reducer)

    answers = run_ranks(3, work, keep_errors=True)
    assert all(isinstance(answer, CoresetError) for answer in answers)
    assert "Rank 1 failed at finding objects" in str(answers[0])


class TestTheCache:
    def test_a_second_pass_looks_at_nothing(self, tmp_path: Path) -> None:
        for cache in (tmp_path, "memory://proposals-tests"):
            same(propose_objects(Scenes(), Counting(), cache=cache), WHOLE)
            again, dataset = Counting(), Scenes()
            same(propose_objects(dataset, again, cache=cache, dataset_key=None), WHOLE)
            assert again.images == 0

    @pytest.mark.parametrize("after", range(0, 12, 2))
    def test_an_interrupted_pass_goes_on_after_its_last_whole_shard(self, tmp_path: Path, after: int) -> None:
        with pytest.raises(KeyboardInterrupt):
            propose_objects(Scenes(), Counting(after), cache=tmp_path, batch_size=2)
        proposer = Counting()
        same(propose_objects(Scenes(), proposer, cache=tmp_path, batch_size=2), WHOLE)
        assert proposer.images == 12 - after // 4 * 4

    def test_a_killed_process_leaves_whole_shards(self, tmp_path: Path) -> None:
        context = multiprocessing.get_context("fork")

        def work() -> None:
            class Killed(Counting):
                def propose(self, images: Sequence[Tensor]) -> list[Proposals]:
                    if self.images >= 6:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return super().propose(images)

            propose_objects(Scenes(), Killed(), cache=tmp_path, batch_size=1)

        process = context.Process(target=work)
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        proposer = Counting()
        same(propose_objects(Scenes(), proposer, cache=tmp_path), WHOLE)
        assert proposer.images == 8

    def test_a_damaged_shard_is_made_again(self, tmp_path: Path) -> None:
        propose_objects(Scenes(), Counting(), cache=tmp_path)
        path = sorted(tmp_path.rglob("*.safetensors"))[1]
        path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
        proposer = Counting()
        with pytest.warns(UserWarning, match="is damaged .*; its items are looked at again"):
            same(propose_objects(Scenes(), proposer, cache=tmp_path), WHOLE)
        assert proposer.images == 4

    def test_another_proposer_finds_nothing_there(self, tmp_path: Path) -> None:
        propose_objects(Scenes(), Counting(), cache=tmp_path)
        other = CallableProposer(examples.squares, NAMES, key="others")
        propose_objects(Scenes(), other, cache=tmp_path)
        assert len(list((tmp_path / "proposals").iterdir())) == 2

    def test_a_full_disk_costs_the_cache_only(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: Any) -> None:
            msg = "No space left on device"
            raise OSError(msg)

        monkeypatch.setattr(ProposalCache, "write", full)
        with pytest.warns(UserWarning, match="could not be written to .*No space left"):
            same(propose_objects(Scenes(), Counting(), cache=tmp_path), WHOLE)

    def test_thresholds_change_without_a_new_pass(self, tmp_path: Path) -> None:
        from lightning_coreset.detection import Calibration

        for threshold in (0.1, 0.2, 0.05):
            proposer = Counting()
            objects = propose_objects(Scenes(), proposer, cache=tmp_path)
            kept = Calibration(threshold, "f1", "").keep(objects)
            assert kept.scores is not None
            assert objects.scores is not None
            assert len(kept) == int((objects.scores >= threshold).sum())
            assert proposer.images in (0, 12)
        assert proposer.images == 0


def test_networks_are_moved_and_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("fasterrcnn_mobilenet_v3_large_320_fpn").train()
    proposer = TorchvisionProposer(model, ["a", "b", "c"], floor=0.0)
    one = propose_objects(Scenes(3), proposer, batch_size=1)
    assert model.training
    same(propose_objects(Scenes(3), proposer, batch_size=3), one)


def test_threads_and_random_numbers_stay_as_they_are() -> None:
    class Drawing(Counting):
        def propose(self, images: Sequence[Tensor]) -> list[Proposals]:
            torch.rand(3), np.random.rand(), random.random()
            seen.append((torch.get_num_threads(), threading.active_count()))
            return super().propose(images)

    seen: list[tuple[int, int]] = []
    before = torch.get_num_threads(), threading.active_count()
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # type: ignore[index]
    same(propose_objects(Scenes(), Drawing()), WHOLE)
    assert {one[0] for one in seen} == {before[0]}
    assert torch.get_num_threads() == before[0]
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # type: ignore[index]
    assert random.getstate() == states[2]


def test_a_bar_hears_of_every_image() -> None:
    told: list[Any] = []

    class Bar:
        def update(self, n: int = 1) -> None:
            told.append(n)

    @contextmanager
    def progress(total: int, description: str) -> Any:
        told.append((total, description))
        yield Bar()

    propose_objects(Scenes(), Counting(), progress=progress, batch_size=5)
    assert told == [(12, "Finding objects"), 5, 5, 2]


def test_grey_images_and_pictures_from_disk(tmp_path: Path) -> None:
    proposer = TorchvisionProposer(tiny("fasterrcnn_mobilenet_v3_large_320_fpn"), ["a", "b", "c"], floor=0.0)
    dataset = examples.coco_dataset(tmp_path, transforms=lambda image, target: (None, None))
    found = propose_objects(dataset, proposer)
    assert found.image_sizes is not None
    assert found.image_sizes.tolist() == [list(size) for size in examples.SIZES], "before any transform"


class TestBadProposers:
    def found(self, answer: Any, names: Sequence[str] = NAMES) -> Objects:
        class Proposer:
            class_names = names

            def fingerprint(self) -> str:
                return "bad"

            def propose(self, images: Sequence[Tensor]) -> Any:
                return answer(images)

        return propose_objects(Scenes(), Proposer())

    @pytest.mark.parametrize(
        ("answer", "message"),
        [
            (lambda images: examples.squares(images)[1:], "returned proposals of 7 images and was given 8"),
            (lambda images: [*examples.squares(images), *examples.squares(images[:1])], "of 9 images and was given 8"),
            (lambda images: [{} for _ in images], "returned a dict for an image: return Proposals"),
            (lambda images: [Proposals([[0, 0, 1, 1]], [3], [0.5], size=(20, 30)) for _ in images], "proposed class 3"),
            (lambda images: [Proposals([], [], [], size=(20, 30)) for _ in images], "found no object in any of 12"),
        ],
    )
    def test_one_line_says_what_is_wrong(self, answer: Any, message: str) -> None:
        with pytest.raises(CoresetError, match=message) as caught:
            self.found(answer)
        assert "\n" not in str(caught.value)

    def test_features_that_half_precision_cannot_hold(self) -> None:
        with pytest.raises(CoresetError, match="beyond 65,504"):
            self.found(lambda images: [Proposals([[0, 0, 1, 1]], [0], [0.5], [[1e6]], (20, 30)) for _ in images])

    def test_features_of_several_widths(self) -> None:
        def answer(images: Sequence[Tensor]) -> list[Proposals]:
            return [
                Proposals([[0, 0, 1, 1]], [0], [0.5], [[1.0] * (1 + image.shape[-2] % 2)], (20, 30)) for image in images
            ]

        with pytest.raises(CoresetError, match="features of 1 and 2 columns"):
            self.found(answer)

    def test_boxes_that_belong_to_another_image(self) -> None:
        class Encoder:
            def fingerprint(self) -> str:
                return "one"

            def encode(self, images: Any, boxes: Any) -> list[Tensor]:
                return [torch.ones(len(part), 1) for part in boxes]

        from lightning_coreset.detection import GroundTruthProposer

        targets = [{"boxes": [[0, 0, 80, 10]], "labels": [0]}] * 12
        with pytest.raises(CoresetError, match="Boxes of image 0 reach beyond its 30 x 20 pixels"):
            propose_objects(Scenes(), GroundTruthProposer(targets), encoder=Encoder())


def test_packed_and_back() -> None:
    parts = [
        Proposals([], [], [], size=(5, 6)),
        Proposals([[0, 0, 2, 2], [1, 1, 3, 3]], [2, 0], [0.5, 0.25], [[1.0], [2.0]], (4, 4), [[0, 16], [5, 2, 9]]),
    ]
    back = unpacked(packed(parts))
    for first, second in zip(parts, back, strict=True):
        assert torch.equal(first.boxes, second.boxes)
        assert torch.equal(first.labels, second.labels)
        assert first.size == second.size
    assert back[1].masks == [[0, 16], [5, 2, 9]]
    assert unpacked(packed(parts[:1]))[0].features is None
    assert unpacked(packed([])) == []


def test_a_cold_and_a_warm_part_are_the_same(tmp_path: Path) -> None:
    def thirds(images: Sequence[Tensor]) -> list[dict[str, Any]]:
        one = {"boxes": [[0, 0, 4, 4]], "labels": [0], "scores": [0.5], "features": [[1 / 3]]}
        return [one for _ in images]

    proposer = CallableProposer(thirds, ["thing"])
    cold, warm = (propose_images(Scenes(1), proposer, cache=tmp_path)[0] for _ in range(2))
    assert cold.features is not None
    assert warm.features is not None
    assert torch.equal(cold.features, warm.features)


def test_the_part_of_a_rank_keeps_masks(tmp_path: Path) -> None:
    class Segmenter(nn.Module):
        def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
            masks = [torch.zeros(1, 1, *image.shape[-2:]) for image in images]
            for mask in masks:
                mask[..., 2:5, 3:7] = 0.9
            box = {
                "boxes": torch.tensor([[3.0, 2.0, 7.0, 5.0]]),
                "labels": torch.ones(1),
                "scores": torch.tensor([0.5]),
            }
            return [box | {"masks": mask} for mask in masks]

    proposer = TorchvisionProposer(Segmenter(), ["thing"])
    for _ in range(2):
        parts = propose_images(Scenes(3), proposer, cache=tmp_path)
        assert [part.masks for part in parts] == [[[3 * height + 2, *[3, height - 3] * 3, 3, 24 * height - 5]]
                                                  for height in (20, 21, 22)]  # fmt: skip
