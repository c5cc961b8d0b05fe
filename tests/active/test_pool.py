"""The pool and its journal: what may follow on what, and that nothing is lost or believed by mistake."""

import json
import warnings
from pathlib import Path

import pytest
import torch

from lightning_coreset import CoresetError
from lightning_coreset.active import LabelledPool
from tests.helpers.ranks import run_ranks


def worked(journal: Path | None = None) -> LabelledPool:
    """A pool with something of everything."""
    pool = LabelledPool(8, ids=list("abcdefgh"), journal=journal)
    pool.request(["c", "a", "b"], round=0, about={"by": "k_center"})
    pool.label(["a", "c"], targets={"c": {"boxes": torch.ones(1, 4)}, "a": 3}, round=0, units=[{"cat": 2}, 4])
    pool.skip(["b"])
    pool.label(["h"])
    pool.request(["d", "e"], round=2)
    pool.unlabel(["h"])
    return pool


class TestStates:
    def test_each_item_is_in_one_state(self) -> None:
        pool = worked()
        assert (pool.labelled, pool.pending, pool.skipped) == (["a", "c"], ["d", "e"], ["b"])
        assert pool.unlabelled == ["f", "g", "h"]
        assert (pool.n_labelled, pool.n_pending, pool.round) == (2, 2, 2)

    def test_units_are_spent_once_and_stay_spent(self) -> None:
        pool = worked()
        assert pool.units_spent == 7, "2 + 4 + 1 for the label that was taken back"
        assert pool.units_by_class == {"": 5, "cat": 2}

    def test_targets_come_back_as_they_were(self) -> None:
        pool = worked()
        assert pool.targets["a"] == 3
        assert torch.equal(pool.targets["c"]["boxes"], torch.ones(1, 4))

    def test_one_number_of_units_is_that_of_the_call(self) -> None:
        pool = LabelledPool(4)
        pool.label([0, 1], units=7)
        assert pool.units_spent == 7

    def test_targets_as_a_tensor(self) -> None:
        pool = LabelledPool(4)
        pool.label(torch.tensor([2, 0]), targets=torch.tensor([5, 6]))
        assert pool.targets == {2: 5, 0: 6}

    def test_masks_and_positions(self) -> None:
        pool = worked()
        assert pool.mask("labelled", "skipped").tolist() == [True, True, True, *[False] * 5]
        assert pool.positions(["h", "a"]).tolist() == [7, 0]


REFUSED = {
    "unknown": (lambda pool: pool.label(["a", "x", "y"]), "ids 'x', 'y' are unknown to this pool of 8 items"),
    "double": (lambda pool: pool.label(["f", "g", "f", "g"]), "ids 'f', 'g' are given more than once"),
    "labelled already": (lambda pool: pool.label(["a", "f", "c"]), "ids 'a', 'c' are labelled already"),
    "request of labelled": (lambda pool: pool.request(["a"]), "takes unlabelled items, and id 'a' is labelled already"),
    "request of two kinds": (lambda pool: pool.request(["a", "d"]), "id 'd' is pending already and id 'a' is labelled"),
    "skip of labelled": (lambda pool: pool.skip(["c"]), "skip takes unlabelled or pending items"),
    "unlabel of unlabelled": (lambda pool: pool.unlabel(["f"]), "id 'f' is unlabelled"),
    "one name": (lambda pool: pool.label("a"), r"ids='a' is one name; a list is accepted: give \['a'\]"),
    "targets short": (lambda pool: pool.label(["f", "g"], targets=[1]), "targets hold 1 for 2 ids"),
    "targets foreign": (lambda pool: pool.label(["f"], targets={"g": 1}), "targets by id lack or do not know"),
    "units negative": (lambda pool: pool.label(["f"], units=[-1]), "units of id 'f' are -1: give a number of at least"),
    "round": (lambda pool: pool.label(["f"], round=1.5), "round=1.5 is not accepted"),
    "id": (lambda pool: pool.label([1.5]), "The id 1.5 is a float: give a str or an int"),
}


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_changes_nothing(call, message: str, tmp_path: Path) -> None:
    pool = worked(tmp_path / "journal.jsonl")
    before, lines = list(pool.history), (tmp_path / "journal.jsonl").read_bytes()
    with pytest.raises(ValueError, match=message) as error:
        call(pool)
    assert "\n" not in str(error.value)
    assert (pool.history, (tmp_path / "journal.jsonl").read_bytes()) == (before, lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n=0 is not accepted"),
        ({"n": 2.0}, "n=2.0 is not accepted"),
        ({"n": 3, "ids": ["a", "b"]}, "ids hold 2 names"),
        ({"n": 2, "ids": ["a", "a"]}, "1 of them distinct"),
        ({"n": 2, "journal": "s3://bucket/journal"}, "give a file on a local disk"),
    ],
)
def test_pools_that_are_none(arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LabelledPool(**arguments)


def test_targets_that_cannot_be_written_down() -> None:
    with pytest.raises(TypeError, match="A target holds a object"):
        LabelledPool(3).label([0], targets=[object()])


class TestJournal:
    def test_a_new_pool_stands_where_the_last_one_stood(self, tmp_path: Path) -> None:
        first = worked(tmp_path / "journal.jsonl")
        second = LabelledPool(8, ids=list("abcdefgh"), journal=tmp_path / "journal.jsonl")
        third = LabelledPool.opened(tmp_path / "journal.jsonl")
        for pool in (second, third):
            assert pool.history == first.history
            assert torch.equal(pool.mask("pending"), first.mask("pending"))
            assert pool.units_by_class == first.units_by_class
            assert torch.equal(pool.targets["c"]["boxes"], torch.ones(1, 4))

    def test_wherever_a_crash_cuts_it_a_prefix_is_left_and_work_goes_on(self, tmp_path: Path) -> None:
        """The law: for each length of the file the pool holds whole events, and the next one is appended whole."""
        whole = worked(tmp_path / "whole.jsonl")
        data = (tmp_path / "whole.jsonl").read_bytes()
        head = data.index(b"\n") + 1
        for length in range(head, len(data) + 1, 3):
            path = tmp_path / f"cut_{length}.jsonl"
            path.write_bytes(data[:length])
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                pool = LabelledPool(8, ids=list("abcdefgh"), journal=path)
            torn = data[:length][-1:] != b"\n"
            assert [bool("not written whole" in str(warning.message)) for warning in said] == [True] * torn
            assert pool.history == whole.history[: len(pool.history)]
            assert len(pool.history) == data[:length].count(b"\n") - 1
            pool.label(["g"])
            again = LabelledPool.opened(path)
            assert again.history == pool.history
            assert "g" in again.labelled

    def test_a_file_cut_within_its_first_line(self, tmp_path: Path) -> None:
        path = tmp_path / "journal.jsonl"
        path.write_bytes(b'{"event": "po')
        with pytest.warns(UserWarning, match="not written whole"):
            pool = LabelledPool(3, journal=path)
        pool.label([1])
        assert LabelledPool.opened(path).labelled == [1]

    def test_a_short_line_after_a_long_one_that_was_cut(self, tmp_path: Path) -> None:
        path = tmp_path / "journal.jsonl"
        worked(path)
        whole = path.read_bytes()
        path.write_bytes(whole + b'{"event": "label", "ids": [' + b"1, " * 500)
        with pytest.warns(UserWarning, match="not written whole"):
            pool = LabelledPool.opened(path)
        pool.label(["g"])
        assert path.read_bytes()[len(whole) :].count(b"\n") == 1
        assert path.read_bytes().endswith(b'"ids": ["g"]}\n')

    def test_a_damaged_line_in_the_middle_is_an_error(self, tmp_path: Path) -> None:
        path = tmp_path / "journal.jsonl"
        worked(path)
        lines = path.read_bytes().split(b"\n")
        lines[2] = lines[2][:20]
        path.write_bytes(b"\n".join(lines))
        with pytest.raises(CoresetError, match="is damaged at byte .* others follow it"):
            LabelledPool.opened(path)

    def test_the_journal_of_another_pool_is_an_error(self, tmp_path: Path) -> None:
        path = tmp_path / "journal.jsonl"
        worked(path)
        with pytest.raises(CoresetError, match="pool with 8 items, and this one has 9"):
            LabelledPool(9, journal=path)
        with pytest.raises(CoresetError, match="pool with other ids"):
            LabelledPool(8, journal=path)
        (tmp_path / "other.jsonl").write_text('{"event": "label", "ids": [0]}\n')
        with pytest.raises(CoresetError, match="is not the journal of a pool"):
            LabelledPool.opened(tmp_path / "other.jsonl")
        with pytest.raises(FileNotFoundError, match="give the journal"):
            LabelledPool.opened(tmp_path / "missing.jsonl")

    def test_two_processes_take_turns(self, tmp_path: Path) -> None:
        path = tmp_path / "journal.jsonl"
        one, other = LabelledPool(6, journal=path), LabelledPool(6, journal=path)
        one.label([0])
        other.label([1])
        one.label([2])
        with pytest.raises(ValueError, match="id 2 is labelled already"):
            other.label([2])
        other.refresh()
        assert one.labelled == [0, 1, 2] == other.labelled == LabelledPool.opened(path).labelled

    def test_a_full_disk_changes_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "journal.jsonl"
        pool = worked(path)
        whole, history = path.read_bytes(), list(pool.history)
        written = []

        def half(descriptor: int, data: bytes) -> int:
            if written:
                raise OSError(28, "No space left on device")
            written.append(data)
            return real(descriptor, data[: len(data) // 2])

        real = __import__("os").write
        monkeypatch.setattr("lightning_coreset.active.journal.os.write", half)
        with pytest.raises(OSError, match="No space"):
            pool.label(["g"])
        assert pool.history == history
        monkeypatch.undo()
        with pytest.warns(UserWarning, match="not written whole"):
            pool.label(["f"])
        assert path.read_bytes().startswith(whole)
        assert LabelledPool.opened(path).labelled == ["a", "c", "f"]

    def test_each_event_is_one_line_of_json(self, tmp_path: Path) -> None:
        path = tmp_path / "journal.jsonl"
        pool = LabelledPool(2, ids=["a\nb", 'ü,"\ud800'], journal=path)
        pool.label(['ü,"\ud800'], targets=["line\nbreak"])
        lines = path.read_bytes().splitlines()
        assert len(lines) == 2
        assert json.loads(lines[1])["targets"] == ["line\nbreak"]
        assert LabelledPool.opened(path).labelled == ['ü,"\ud800']


class TestCheckpoints:
    def test_a_checkpoint_behind_the_journal_changes_nothing(self) -> None:
        pool = worked()
        history = list(pool.history)
        pool.replay(history[:2])
        assert pool.history == history

    def test_a_checkpoint_ahead_of_the_journal_is_written_to_it(self, tmp_path: Path) -> None:
        whole = worked()
        pool = LabelledPool(8, ids=list("abcdefgh"), journal=tmp_path / "journal.jsonl")
        pool.request(["c", "a", "b"], round=0, about={"by": "k_center"})
        pool.replay(whole.history)
        assert LabelledPool.opened(tmp_path / "journal.jsonl").history == whole.history

    def test_different_ways_are_an_error(self) -> None:
        pool = worked()
        other = LabelledPool(8, ids=list("abcdefgh"))
        other.request(["c", "a"], round=0)
        with pytest.raises(CoresetError, match="differ from event 1 on"):
            other.replay(pool.history)


def test_ranks_hold_what_the_first_one_holds() -> None:
    def work(reducer) -> list:
        pool = LabelledPool(5)
        if reducer.rank == 0:
            pool.label([3], targets=[{"boxes": torch.ones(2, 4)}])
        pool.synchronise(reducer)
        return [pool.labelled, pool.history]

    answers = run_ranks(3, work)
    assert answers[0][0] == [3]
    assert answers[0] == answers[1] == answers[2]
