"""A recording on disk: what counts, what replaces what, and what is refused."""

from pathlib import Path

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler

from lightning_coreset import CoresetError, Signals
from lightning_coreset.errors import UnsupportedSourceError
from lightning_coreset.signals.epochs import NOTHING_SEEN, EpochColumns, epoch_columns
from lightning_coreset.signals.recorder import EpochRecord
from lightning_coreset.signals.recording import Recording
from lightning_coreset.signals.sharing import from_all_ranks
from lightning_coreset.signals.tagging import BatchPositions, TaggedItems, tagged_loader
from tests.helpers.ranks import run_ranks

LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def seen(positions: list[int], seed: int = 0) -> EpochColumns:
    logits = torch.randn(len(positions), 3, generator=torch.Generator().manual_seed(seed))
    return epoch_columns(EpochRecord(torch.tensor(positions), logits), LABELS)


def losses(recording: Recording) -> list[list[float]]:
    return recording.signals().losses.tolist()


def test_an_epoch_counts_once_all_ranks_have_written(tmp_path: Path) -> None:
    recording = Recording(tmp_path)
    attempt = recording.begin(LABELS)
    recording.append(seen([0, 1, 2]), 0, attempt, rank=0, ranks=2)
    with pytest.raises(CoresetError, match="holds no whole epoch"):
        recording.signals()
    recording.append(seen([3, 4, 5], 1), 0, attempt, rank=1, ranks=2)
    assert torch.isfinite(recording.signals().losses).all()


def test_what_two_ranks_saw_counts_as_the_last_one_saw_it(tmp_path: Path) -> None:
    recording = Recording(tmp_path)
    parts = [seen([0, 1, 2], 1), seen([2, 3], 2)]
    for rank, part in enumerate(parts):
        recording.append(part, 0, recording.begin(LABELS) if rank == 0 else 1, rank, 2)
    assert recording.signals().losses[0, 2] == parts[1].columns["losses"][0]
    assert torch.equal(recording.signals().logits[2], parts[1].latest["logits"][0])


def test_a_later_attempt_replaces_from_its_first_epoch_on(tmp_path: Path) -> None:
    recording = Recording(tmp_path)
    everything = list(range(6))
    first = recording.begin(LABELS)
    for epoch in range(4):
        recording.append(seen(everything, epoch), epoch, first)
    before = losses(recording)
    second = recording.begin(LABELS)
    assert second == first + 1
    assert losses(recording) == before, "an attempt without a whole epoch changes nothing"
    recording.append(seen(everything, 10), 2, second)
    assert losses(recording) == [*before[:2], seen(everything, 10).columns["losses"].tolist()]
    recording.prune()
    assert recording.epochs == [0, 1, 2]
    assert len(list(tmp_path.glob("epoch-*"))) == 3


def test_pruning_changes_nothing(tmp_path: Path) -> None:
    recording = Recording(tmp_path)
    attempt = recording.begin(LABELS)
    for epoch, positions in enumerate([[0, 1, 2, 3], [4], [0, 1], [0, 1, 2]]):
        recording.append(seen(positions, epoch), epoch, attempt)
    before = recording.signals()
    recording.prune()
    after = recording.signals()
    assert torch.equal(before.logits.nan_to_num(), after.logits.nan_to_num())
    # Item 3 is in the first only, item 4 in the second only.
    assert sorted(path.name[7:13] for path in tmp_path.glob("latest-*")) == ["000000", "000001", "000003"]


def test_repeated_items_count_as_seen_last() -> None:
    logits = torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    found = epoch_columns(EpochRecord(torch.tensor([3, 0, 3]), logits), LABELS)
    assert found.positions.tolist() == [0, 3]
    assert found.columns["margins"].tolist() == [0.0, 1.0]


def test_labels_that_are_no_class_of_the_logits() -> None:
    with pytest.raises(ValueError, match="label of item 2 is 2 and the logits have 2 classes"):
        epoch_columns(EpochRecord(torch.tensor([1, 2]), torch.zeros(2, 2)), LABELS)


@pytest.mark.parametrize("change", [lambda data: data[:-9], lambda data: data[:-1] + bytes([data[-1] ^ 1])])
def test_damage_is_seen(tmp_path: Path, change: object) -> None:
    recording = Recording(tmp_path)
    recording.append(seen([0, 1]), 0, recording.begin(LABELS))
    (path,) = tmp_path.glob("epoch-*")
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(CoresetError, match="cannot be read|its checksum does not fit"):
        Signals.load(tmp_path)


def test_one_file_of_signals(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "recording")
    recording.append(seen([0, 1]), 0, recording.begin(LABELS))
    signals = recording.signals()
    signals.save(tmp_path / "one.safetensors")
    assert Signals.load(tmp_path / "one.safetensors").key == signals.key
    with pytest.raises(ValueError, match="give one that ends in .safetensors"):
        signals.save(tmp_path / "one.pt")
    with pytest.raises(CoresetError, match="holds no signals"):
        Signals.load(tmp_path / "recording" / "pool.safetensors")


def test_ranks_share_what_they_saw_even_nothing() -> None:
    parts = [seen([0, 1]), NOTHING_SEEN, seen([2], 3)]
    for answer in run_ranks(3, lambda reducer: from_all_ranks(reducer, parts[reducer.rank])):
        assert [part.positions.tolist() for part in answer] == [[0, 1], [], [2]]
        assert torch.equal(answer[2].columns["errors"], parts[2].columns["errors"])


class TestFollowedBy:
    def one(self, seed: int, seen: int = 6) -> Signals:
        logits = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(seed))
        logits[:, seen:] = torch.nan
        return Signals.from_logits(logits, LABELS, logits * 2)

    def test_epochs_stand_in_order_and_the_newest_logits_count(self) -> None:
        first, second = self.one(0), self.one(1, seen=2)
        both = first.followed_by(second)
        assert torch.equal(both.margins[:2], first.margins)
        assert torch.equal(both.margins[2:, :2], second.margins[:, :2])
        assert torch.equal(both.logits, torch.cat([second.logits[:2], first.logits[2:]]))
        assert torch.equal(both.embeddings, 2 * both.logits)
        assert both.runs.tolist() == [0, 0, 0, 0]

    def test_another_run_keeps_its_embeddings_apart(self) -> None:
        first = self.one(0)
        assert first.followed_by(self.one(1), new_run=True).runs.tolist() == [0, 0, 1, 1]
        assert torch.equal(first.followed_by(self.one(1), new_run=True).embeddings, self.one(1).embeddings)
        assert first.followed_by(self.one(1, seen=3), new_run=True).embeddings is None

    def test_other_items_are_refused(self) -> None:
        other = Signals.from_logits(torch.zeros(6, 4), LABELS)
        with pytest.raises(ValueError, match="do not belong to one pool"):
            self.one(0).followed_by(other)


class TestTagging:
    def test_batch_samplers_and_whole_batches(self) -> None:
        told = BatchPositions()
        sampler = BatchSampler(SequentialSampler(range(5)), 2, drop_last=False)
        for loader in (
            DataLoader(range(5), batch_sampler=sampler),
            DataLoader(torch.arange(5), sampler=sampler, batch_size=None),
        ):
            found = [(batch.tolist(), told.next().tolist()) for batch in tagged_loader(loader, told)]
            assert found == [([0, 1], [0, 1]), ([2, 3], [2, 3]), ([4], [4])]

    def test_the_users_loader_stays_as_it_was(self) -> None:
        loader = DataLoader(range(4), batch_size=2)
        tagged_loader(loader, BatchPositions())
        assert type(loader) is DataLoader
        assert [batch.tolist() for batch in loader] == [[0, 1], [2, 3]]

    def test_the_order_and_the_random_numbers_are_the_loaders(self) -> None:
        def drawn(change: object) -> tuple[list, torch.Tensor]:
            torch.manual_seed(4)
            loader = change(DataLoader(range(9), batch_size=2, sampler=RandomSampler(range(9)), num_workers=1))
            return [batch.tolist() for batch in loader], torch.get_rng_state()

        plain, tagged = drawn(lambda loader: loader), drawn(lambda loader: tagged_loader(loader, BatchPositions()))
        assert plain[0] == tagged[0]
        assert torch.equal(plain[1], tagged[1])

    def test_attributes_go_through_the_view(self) -> None:
        class Opened(list):
            handle = None

        items = Opened(range(3))
        view = TaggedItems(items)
        view.handle = 7
        assert (items.handle, view.handle) == (7, 7)

    def test_items_by_name_are_refused(self) -> None:
        loader = DataLoader({"a": 1, "b": 2}, sampler=["a", "b"], batch_size=1)
        with pytest.raises(UnsupportedSourceError, match="draws items by 'a'; whole numbers are accepted"):
            next(iter(tagged_loader(loader, BatchPositions())))


def test_suspects_are_the_ones_whose_labels_were_changed() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.arange(100) % 4
    labels = truth.clone()
    labels[:10] = (labels[:10] + 1) % 4
    strength = torch.linspace(0.5, 4, 6).view(6, 1, 1)
    logits = strength * torch.nn.functional.one_hot(truth, 4) + 0.5 * torch.randn(6, 100, 4, generator=generator)
    logits[:, 99] = torch.nan
    order = Signals.from_logits(logits, labels).suspects()
    assert sorted(order[:10].tolist()) == list(range(10))
    assert order[-1] == 99, "never seen, so nothing is known"
    assert sorted(order.tolist()) == list(range(100))


def test_suspects_that_tie_keep_their_order() -> None:
    signals = Signals.from_logits(torch.zeros(2, 5, 3), torch.zeros(5, dtype=torch.int64))
    assert signals.suspects().tolist() == [0, 1, 2, 3, 4]
