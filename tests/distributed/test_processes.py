"""Two real ranks over gloo."""

import time
from pathlib import Path

import pytest
import torch

from lightning_coreset.distributed import EpochWeightedSampler
from lightning_coreset.distributed.reducer import current_reducer
from tests.distributed import work
from tests.helpers.examples import LABEL_FREE, METHODS
from tests.helpers.processes import ProcessPool

pytestmark = pytest.mark.ddp


def test_the_reducer_is_that_of_the_group(processes: ProcessPool) -> None:
    assert processes.run(work.who) == [(0, 2, "ProcessGroupReducer"), (1, 2, "ProcessGroupReducer")]
    assert type(current_reducer()).__name__ == "SerialReducer"


@pytest.mark.parametrize("lengths", [[3, 3], [1, 5], [0, 4], [4, 0], [0, 0]])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.uint8])
def test_ragged_tensors_are_gathered(processes: ProcessPool, lengths: list[int], dtype: torch.dtype) -> None:
    expected = [
        (torch.arange(length * 2).reshape(length, 2) + 1000 * rank).to(dtype) for rank, length in enumerate(lengths)
    ]
    for gathered in processes.run(work.gather_lengths, lengths, 2, dtype):
        assert [part.dtype for part in gathered] == [dtype, dtype]
        assert [part.tolist() for part in gathered] == [part.tolist() for part in expected]


def test_json_is_gathered(processes: ProcessPool) -> None:
    notes = [{"rank": rank, "note": "ü" * rank, "empty": [], "none": None} for rank in (0, 1)]
    assert processes.run(work.gather_notes) == [notes, notes]


@pytest.mark.parametrize("failing", [[0], [1], [0, 1]])
def test_all_ranks_fail_when_one_does(processes: ProcessPool, failing: list[int]) -> None:
    answers = processes.run(work.fail_together, failing, keep_errors=True)
    for rank, answer in enumerate(answers):
        if rank in failing:
            assert answer == f"KeyError: 'rank {rank} has a reason'"
        else:
            assert answer.startswith(
                f"CoresetError: Rank {failing[0]} failed at this test and all ranks stop: KeyError:"
            )
    assert processes.run(work.still_in_step) == [[0, 1], [0, 1]]


def test_no_rank_fails_when_none_does(processes: ProcessPool) -> None:
    assert processes.run(work.fail_together, []) == ["went on", "went on"]


def test_weighted_samples_are_one_sequence_dealt_out(processes: ProcessPool) -> None:
    weights = [0.0, 1.0, 2.0, 0.5, 3.0]
    first, second = processes.run(work.sampled, weights, 3)
    whole = EpochWeightedSampler(torch.tensor(weights), seed=7, num_replicas=1)
    for epoch in range(3):
        assert len(first[epoch]) == len(second[epoch]) == 3
        whole.set_epoch(epoch)
        dealt = [item for pair in zip(first[epoch], second[epoch], strict=True) for item in pair]
        assert dealt[:5] == list(whole)
    assert len({tuple(epoch) for epoch in first}) > 1


@pytest.mark.parametrize("on_demand", [False, True], ids=["features in the pool", "embedded on demand"])
@pytest.mark.parametrize("per_class", [True, False], ids=["by class", "whole pool"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore:SubZeroCore looks at")
def test_two_ranks_give_the_answer_of_one(
    processes: ProcessPool, method: str, per_class: bool, on_demand: bool
) -> None:
    arguments = {"per_class": per_class} if method in LABEL_FREE else {}
    expected, everything = work.selected(method, arguments, 30, on_demand)
    answers = processes.run(work.selected, method, arguments, 30, on_demand)
    for coreset, _ in answers:
        assert work.comparable(coreset) == work.comparable(expected)
    # Each item is embedded once, by one of the ranks.
    assert sorted(item for _, asked in answers for item in asked) == sorted(everything)
    if on_demand and everything:
        assert all(asked for _, asked in answers)


def test_an_image_that_cannot_be_read_stops_all_ranks(processes: ProcessPool) -> None:
    for rank in (0, 1):
        answers = processes.run(work.embedding_fails_on, rank, keep_errors=True)
        assert answers[rank] == "OSError: an image cannot be read"
        assert "CoresetError" in answers[1 - rank]
        assert "an image cannot be read" in answers[1 - rank]
    assert processes.run(work.still_in_step) == [[0, 1], [0, 1]]


@pytest.mark.parametrize("method", ["facility_location", "k_center"])
def test_ranks_with_different_data_or_networks_are_told(processes: ProcessPool, method: str) -> None:
    first, second = processes.run(work.set_up, "nothing", method)
    assert first == second
    for differs, told in (("the split", "train datasets"), ("the network", "networks as features=")):
        for answer in processes.run(work.set_up, differs, method, keep_errors=True):
            assert answer.startswith(f"CoresetError: 2 ranks hold different {told}, and one selection must fit all")
            assert "seed_everything" in answer
    assert processes.run(work.still_in_step) == [[0, 1], [0, 1]]


@pytest.mark.parametrize("method", ["facility_location", "k_center"])
def test_weights_that_cannot_be_had_are_told_on_every_rank(processes: ProcessPool, method: str, tmp_path: Path) -> None:
    started = time.monotonic()
    for answer in processes.run(work.without_weights, method, str(tmp_path), keep_errors=True):
        assert answer.startswith("WeightsUnavailableError: The weights of timm/resnet18.a1_in1k could not be loaded")
        assert "features='pixels'" in answer
    assert time.monotonic() - started < 60
    assert processes.run(work.still_in_step) == [[0, 1], [0, 1]]
