"""The loop: rounds, reports, and that no crash changes what it does."""

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from lightning_coreset import CoresetError, KCenter
from lightning_coreset.active import CallableOracle, Cost, DatasetOracle, ExportToLabel, LabelledPool
from tests.active.parts import NoisyNet, looped, pooled, random_states
from tests.helpers.lightning_parts import LinearNet, quiet_trainer


def history(path: Path) -> bytes:
    return path.read_bytes()


def test_each_round_labels_its_budget_and_reports_a_line(tmp_path: Path) -> None:
    datamodule = pooled(oracle=DatasetOracle(cost=Cost(per_image=0.5, per_unit=2.0)))
    reports = looped(tmp_path, datamodule, monitor="accuracy").run()
    assert [(line["round"], line["images"], line["units"], line["cost"]) for line in reports] == [
        (0, 12, 12, 30.0),
        (1, 18, 18, 45.0),
        (2, 24, 24, 60.0),
    ]
    for line in reports:
        assert line["metric"] == line["metrics"]["accuracy"]
        assert sum(line["units_by_class"].values()) == line["images"]
    asked = [event for event in datamodule.pool.history if event["event"] == "request"]
    assert [(event["round"], len(event["ids"]), event["about"]["by"]) for event in asked] == [
        (0, 12, "k_center"),
        (1, 6, "entropy"),
        (2, 6, "entropy"),
    ]
    assert len({name for event in asked for name in event["ids"]}) == 24


def test_budgets_of_their_own_for_each_round(tmp_path: Path) -> None:
    reports = looped(tmp_path, pooled(), budget=[3, 5], query="random").run()
    assert [line["images"] for line in reports] == [12, 15, 20]


def test_the_same_seed_gives_the_same_history_whatever_was_drawn_before(tmp_path: Path) -> None:
    histories = []
    for seed, draws in ((0, 1), (0, 100), (1, 1)):
        torch.rand(draws)
        datamodule = pooled(seed=seed)
        looped(tmp_path, datamodule).run()
        histories.append(json.dumps(datamodule.pool.history))
    assert histories[0] == histories[1]
    assert histories[0] != histories[2]


def test_global_random_states_are_as_before(tmp_path: Path) -> None:
    before = random_states()
    looped(tmp_path, pooled(), query="badge").run()
    assert random_states() == before


class Crash(Exception):
    pass


class Stopping(pl.Callback):
    """Ends the run at the n-th call of any of its hooks."""

    def __init__(self, after: int) -> None:
        self.left = after

    def _count(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Crash

    def setup(self, *arguments: Any, **named: Any) -> None:
        self._count()

    def on_train_batch_end(self, *arguments: Any, **named: Any) -> None:
        self._count()

    def on_validation_end(self, *arguments: Any, **named: Any) -> None:
        self._count()

    def on_train_epoch_end(self, *arguments: Any, **named: Any) -> None:
        self._count()

    def on_fit_end(self, *arguments: Any, **named: Any) -> None:
        self._count()


@pytest.mark.parametrize("reset", ["weights", "none"])
def test_wherever_it_is_interrupted_it_ends_as_one_that_was_not(tmp_path: Path, reset: str) -> None:
    """Dropout, new weights and shuffling included: the journals are the same byte for byte."""
    whole = tmp_path / "whole" / "journal.jsonl"
    looped(tmp_path, pooled(whole), reset=reset).run()
    for after in range(1, 40, 3):
        journal = tmp_path / f"after_{after}" / "journal.jsonl"
        stopping = Stopping(after)
        for _ in range(3):
            try:
                looped(tmp_path, pooled(journal), reset=reset, trainer={"callbacks": [stopping]}).run()
                break
            except Crash:
                continue
        assert history(journal) == history(whole), after


def test_a_finished_loop_does_nothing_and_one_with_more_rounds_goes_on(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    reports = looped(tmp_path, pooled(journal)).run()
    before = history(journal)
    assert looped(tmp_path, pooled(journal)).run() == reports
    assert history(journal) == before
    assert len(looped(tmp_path, pooled(journal), rounds=4).run()) == 4
    looped(tmp_path, pooled(tmp_path / "four" / "journal.jsonl"), rounds=4).run()
    assert history(journal) == history(tmp_path / "four" / "journal.jsonl")


def test_a_damaged_checkpoint_makes_the_round_start_anew_and_end_the_same(tmp_path: Path) -> None:
    whole = tmp_path / "whole" / "journal.jsonl"
    looped(tmp_path, pooled(whole)).run()
    journal = tmp_path / "journal.jsonl"
    with pytest.raises(Crash):
        looped(tmp_path, pooled(journal), trainer={"callbacks": [Stopping(9)]}).run()
    (kept,) = (tmp_path / "rounds").glob("*/last.ckpt")
    kept.write_bytes(kept.read_bytes()[:100])
    with pytest.warns(UserWarning, match="cannot be read with weights_only .* starts anew"):
        looped(tmp_path, pooled(journal)).run()
    assert history(journal) == history(whole)


def test_checkpoints_of_another_run_are_not_gone_on_from(tmp_path: Path) -> None:
    looped(tmp_path, pooled(tmp_path / "journal.jsonl")).run()
    (tmp_path / "journal.jsonl").unlink()
    datamodule = pooled(tmp_path / "journal.jsonl", initial="random", seed=3)
    looped(tmp_path, datamodule, rounds=1).run()
    assert datamodule.pool.n_labelled == 12


class TestReset:
    def start(self, tmp_path: Path, reset: str, rounds: int = 2) -> list[list[float]]:
        starts, ends = [], []

        class Watched(NoisyNet):
            def on_train_start(self) -> None:
                starts.append(self.body[1].weight.flatten()[:5].tolist())

            def on_train_end(self) -> None:
                ends.append(self.body[1].weight.flatten()[:5].tolist())

        looped(tmp_path, pooled(), reset=reset, module_factory=Watched, rounds=rounds).run()
        return starts, ends

    def test_new_weights_each_round(self, tmp_path: Path) -> None:
        starts, ends = self.start(tmp_path, "weights")
        assert starts[0] != starts[1]
        assert starts[1] != ends[0]

    def test_going_on(self, tmp_path: Path) -> None:
        starts, ends = self.start(tmp_path, "none")
        assert starts[1] == ends[0]

    def test_from_a_checkpoint(self, tmp_path: Path) -> None:
        module = NoisyNet()
        torch.save(module.state_dict(), tmp_path / "autolabels.ckpt")
        starts, _ = self.start(tmp_path, str(tmp_path / "autolabels.ckpt"))
        assert starts[0] == starts[1] == module.body[1].weight.flatten()[:5].tolist()

    def test_of_another_network(self, tmp_path: Path) -> None:
        torch.save(torch.nn.Linear(3, 3).state_dict(), tmp_path / "other.ckpt")
        with pytest.raises(CoresetError, match="do not fit NoisyNet .* give a checkpoint of that module"):
            looped(tmp_path, pooled(), reset=tmp_path / "other.ckpt").run()


def test_loggers_get_a_line_each_round(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="logs", version=0)
    trainer = {"logger": logger}
    looped(tmp_path, pooled(), trainer=trainer, rounds=2).run()
    lines = (tmp_path / "logs" / "version_0" / "metrics.csv").read_text().splitlines()
    names = lines[0].split(",")
    for name in ("active/round", "active/images", "active/units", "active/cost", "active/accuracy"):
        assert name in names
    column = names.index("active/images")
    assert [line.split(",")[column] for line in lines[1:] if line.split(",")[column]] == ["12.0", "18.0"]


class TestAwaitedLabels:
    def test_it_ends_in_good_order_and_goes_on(self, tmp_path: Path) -> None:
        oracle = ExportToLabel(tmp_path / "to_label", formats=("csv",))
        for done in range(3):
            datamodule = pooled("auto", oracle=oracle)
            reports = looped(tmp_path, datamodule).run()
            assert len(reports) == done
            assert datamodule.pool.n_pending == (12, 6, 6)[done]
            labels = datamodule.source.train.tensors[1]
            filled = tmp_path / f"filled_{done}.csv"
            filled.write_text("id,label\n" + "".join(f"{name},{labels[name]}\n" for name in datamodule.pool.pending))
            oracle.ingest(filled)
        assert len(looped(tmp_path, pooled("auto", oracle=oracle)).run()) == 3

    def test_another_process_may_take_labels_in(self, tmp_path: Path) -> None:
        oracle = ExportToLabel(tmp_path, formats=("csv",))
        looped(tmp_path, pooled("auto", oracle=oracle)).run()
        pool = LabelledPool.opened(tmp_path / "journal.jsonl")
        pool.label(pool.pending, targets=[1] * 12)
        datamodule = pooled("auto", oracle=oracle)
        assert len(looped(tmp_path, datamodule).run()) == 1
        assert torch.cat([batch[1] for batch in datamodule.train_dataloader()]).tolist() == [1] * 12


def test_it_ends_where_nothing_is_left_to_label(tmp_path: Path) -> None:
    reports = looped(tmp_path, pooled(count=40), rounds=9, budget=15, query="random").run()
    assert [line["images"] for line in reports] == [12, 27, 40]


def test_an_oracle_of_its_own_for_later_rounds(tmp_path: Path) -> None:
    asked = []

    def answer(ids: list[int]) -> dict[int, int]:
        asked.extend(ids)
        return dict.fromkeys(ids, 7)

    datamodule = pooled()
    looped(tmp_path, datamodule, oracle=CallableOracle(answer), rounds=2).run()
    assert len(asked) == 6
    assert [datamodule.pool.targets[name] for name in asked] == [7] * 6


def test_a_trainer_that_trains_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CoresetError, match="Round 0 trained no batch"):
        looped(tmp_path, pooled(), epochs=0).run()


def test_an_oracle_given_to_the_loop_alone_answers_the_warm_start_too(tmp_path: Path) -> None:
    reports = looped(tmp_path, pooled(oracle=None), oracle=DatasetOracle()).run()
    assert [line["images"] for line in reports] == [12, 18, 24]


def test_processes_that_end_with_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CoresetError, match="ends its processes after each fit, .* give strategy='ddp'"):
        looped(tmp_path, pooled(), trainer={"strategy": "ddp_spawn", "devices": 2}).run()


def test_factories_that_ask_are_told_the_round(tmp_path: Path) -> None:
    rounds = []

    def module(round: int) -> NoisyNet:
        rounds.append(round)
        return NoisyNet()

    looped(tmp_path, pooled(), module_factory=module).run()
    assert rounds == [0, 1, 2]


def test_a_validation_split_that_moves_is_refused(tmp_path: Path) -> None:
    class Moving(type(pooled().source)):
        def setup(self, stage: str | None = None) -> None:
            super().setup(stage)
            order = torch.randperm(200)
            images, labels = self.held_out.tensors
            self.held_out = torch.utils.data.TensorDataset(images[order], labels[order])

    with pytest.raises(CoresetError, match="validation items are not those of the journal"):
        looped(tmp_path, pooled(source=Moving(count=120))).run()


REFUSED = {
    "no loop without a pool": ({"datamodule": LinearNet()}, TypeError, "an ActiveLearningDataModule is accepted: wrap"),
    "a trainer": ({"trainer_factory": quiet_trainer(".")}, TypeError, "trainer_factory is a Trainer: give a function"),
    "no rounds": ({"rounds": 0}, ValueError, "rounds=0 is not accepted"),
    "half a round": ({"rounds": 1.5}, ValueError, "rounds=1.5 is not accepted"),
    "no budget": ({"budget": 0}, ValueError, "budget=0 is not accepted"),
    "budgets": ({"budget": [3]}, ValueError, r"1 numbers for 3 rounds: give one for each round after round 0 \(2\)"),
    "unknown query": ({"query": "entropi"}, ValueError, "Unknown query 'entropi'; .* did you mean 'entropy'"),
    "query that needs signals": ({"query": "forgetting"}, ValueError, "looks at training"),
    "query of another kind": ({"query": 7}, TypeError, "query is a int"),
    "reset": ({"reset": "nothing"}, ValueError, "reset='nothing' is neither 'weights' nor 'none' nor a file"),
    "oracle": ({"oracle": "me"}, TypeError, "oracle is a str; DatasetOracle"),
    "nobody labels": ({"datamodule": pooled(initial=None, oracle=None)}, ValueError, "Nobody labels: give oracle="),
}


@pytest.mark.parametrize(("settings", "kind", "message"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_refused_before_any_work(tmp_path: Path, settings, kind, message: str) -> None:
    with pytest.raises(kind, match=message) as error:
        looped(tmp_path, **({"datamodule": pooled()} | settings))
    assert "\n" not in str(error.value)


def test_selectors_as_queries_count_the_labelled_items_as_chosen(tmp_path: Path) -> None:
    """Farthest-first in two rounds is farthest-first in one: the labelled items are its centres."""
    datamodule = pooled()
    looped(tmp_path, datamodule, query=KCenter(), rounds=2).run()
    chosen = [name for event in datamodule.pool.history if event["event"] == "request" for name in event["ids"]]
    at_once = pooled(budget=18)
    at_once.setup("fit")
    assert chosen == at_once.coreset.indices.tolist()
