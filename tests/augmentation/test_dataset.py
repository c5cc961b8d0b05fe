"""SDADataset: the same pixels at every read, in every process, after whatever the user's own transform does."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset
from torchvision.datasets import VisionDataset
from torchvision.transforms import v2

from lightning_coreset import Coreset, CoresetDataModule, CoresetError, SDADataset
from lightning_coreset.augmentation import SDASettings, export_images
from lightning_coreset.augmentation.exchange import borders
from lightning_coreset.augmentation.masks import RandomSaliency
from lightning_coreset.data import EvaluationView, read_labels
from tests.augmentation import work
from tests.augmentation.images import Pictures
from tests.helpers.ranks import run_ranks


def expanded(dataset: Any, seen: Path, **settings: Any) -> SDADataset:
    return SDADataset(dataset, cache_dir=seen, **settings)


def pixels_of(dataset: Any, **loader: Any) -> list[torch.Tensor]:
    return [image for batch in DataLoader(dataset, batch_size=3, **loader) for image in batch[0]]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return len(first) == len(second) and all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_half_of_the_items_of_each_class_get_one_more_image(seen: Path) -> None:
    found = expanded(Pictures(10), seen)
    assert len(found) == 15
    assert found.parents.tolist() == sorted(found.parents.tolist())
    assert torch.bincount(found.targets[10:]).tolist() == [3, 2]
    for item in range(10, 15):
        assert found[item][1] == found[found.parent_of(item)][1] == found.targets[item]
        assert not torch.equal(found[item][0], found[found.parent_of(item)][0])


def test_the_first_items_are_the_datasets_own(seen: Path) -> None:
    found = expanded(Pictures(10), seen)
    assert same([found[item][0] for item in range(10)], [image for image, _ in Pictures(10)])
    assert torch.equal(found[-1][0], found[14][0])
    with pytest.raises(IndexError, match="Item 15 of 15"):
        found[15]


def test_two_reads_and_any_number_of_workers_give_the_same_pixels(seen: Path) -> None:
    found = expanded(Pictures(10), seen)
    first = pixels_of(found)
    assert same(first, pixels_of(found))
    assert same(first, pixels_of(found, num_workers=2))
    assert same(first, pixels_of(expanded(Pictures(10), seen), num_workers=1))
    assert not same(first, pixels_of(expanded(Pictures(10), seen, seed=1)))


@pytest.mark.parametrize("ranks", [2, 7])
def test_each_image_is_looked_at_by_one_rank(ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = work.settings_of(Pictures(10))
    looked: list[int] = []
    raw = Pictures.raw
    monkeypatch.setattr(Pictures, "raw", lambda self, item: looked.append(item) or raw(self, item))

    def look(reducer: Any) -> torch.Tensor:
        found = SDADataset.unseen(Pictures(10), settings)
        found.look(reducer=reducer)
        return found.maps

    # In a thread too: those of other tests may have left this one with another number of threads to convolve with.
    (alone,) = run_ranks(1, look)
    looked.clear()
    assert all(torch.equal(maps, alone) for maps in run_ranks(ranks, look))
    assert sorted(looked) == settings.parents.tolist()


@pytest.mark.parametrize("size", [(28, 28), (32, 32), (28, 51)])
def test_foreground_pixels_are_the_originals_and_half_of_the_cells(size: tuple[int, int], seen: Path) -> None:
    found = expanded(Pictures(8, sizes=[size]), seen)
    for item in range(8, 12):
        kept, cells = found.mask(item), min(size) // 2
        assert kept.shape == (cells, cells)
        assert kept.sum() == -(-(cells**2) // 2)
        pixels = kept.repeat_interleave(borders(size[0], cells).diff(), 0)
        pixels = pixels.repeat_interleave(borders(size[1], cells).diff(), 1)
        original = found[found.parent_of(item)][0]
        assert torch.equal(found[item][0][:, pixels], original[:, pixels])
        assert (found[item][0] != original).any(0)[~pixels].float().mean() > 0.5


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("form", ["pil", "array", "tensor", "float"])
def test_images_stay_of_their_kind(form: str, channels: int, seen: Path) -> None:
    dataset = Pictures(6, form=form, channels=channels, sizes=[(28, 28), (31, 44), (60, 30)])
    found = expanded(dataset, seen)
    for item in range(6, 9):
        new, old = found[item][0], found[found.parent_of(item)][0]
        assert type(new) is type(old)
        if isinstance(old, Image.Image):
            assert (new.mode, new.size) == (old.mode, old.size)
        else:
            assert (new.dtype, new.shape) == (old.dtype, old.shape)
        assert (np.asarray(new) != np.asarray(old)).any()


def test_all_forms_show_the_same_pixels(seen: Path) -> None:
    tensors = expanded(Pictures(6), seen)
    for form in ("pil", "array"):
        other = expanded(Pictures(6, form=form), seen)
        for item in range(6, 9):
            assert (np.asarray(other[item][0]).transpose(2, 0, 1) == tensors[item][0].numpy()).all()


class Folder(VisionDataset):
    """As torchvision's datasets are."""

    def __init__(self, transform: Any = None, transforms: Any = None) -> None:
        super().__init__(".", transforms=transforms, transform=transform)
        self.pictures = Pictures(6, form="pil")
        self.targets = self.pictures.targets

    def __len__(self) -> int:
        return 6

    def __getitem__(self, item: int) -> Any:
        image, target = self.pictures[item]
        if self.transforms is not None:
            return self.transforms(image, target)
        return image, target


def shrink(image: Any) -> torch.Tensor:
    return v2.functional.resize(v2.functional.pil_to_tensor(image), [9, 9])


def joint(image: Any, target: Any) -> Any:
    return shrink(image), target + 10


class Wrapper:
    def __init__(self, dataset: Any, transform: Any) -> None:
        self.dataset, self.transform = dataset, transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, item: int) -> Any:
        image, target = self.dataset[item]
        return self.transform(image), target


@pytest.mark.parametrize(
    "dataset",
    [
        Pictures(6, form="pil", transform=shrink),
        Folder(transform=shrink),
        Folder(transforms=joint),
        Wrapper(Pictures(6, form="pil"), shrink),
        Subset(Pictures(6, form="pil", transform=shrink), range(6)),
        ConcatDataset([Subset(Folder(transform=shrink), range(4)), Subset(Folder(transform=shrink), [4, 5])]),
    ],
    ids=["attribute", "torchvision", "joint", "wrapper", "subset", "concatenation"],
)
def test_the_users_own_transform_follows(dataset: Any, seen: Path) -> None:
    labels = [0, 1] * 3
    raw = expanded(Pictures(6, form="pil"), seen, labels=labels)
    found = expanded(dataset, seen, labels=labels)
    for item in range(6, 9):
        assert torch.equal(found[item][0], shrink(raw[item][0]))
        assert not torch.equal(found[item][0], found[found.parent_of(item)][0])
        assert torch.equal(found[found.parent_of(item)][0], shrink(raw[found.parent_of(item)][0]))
        assert found[item][1] == found[found.parent_of(item)][1]


def test_a_random_transform_draws_anew_on_the_same_image(seen: Path) -> None:
    found = expanded(Pictures(6, transform=v2.RandomAffine(0, translate=(0.3, 0.3))), seen)
    torch.manual_seed(0)
    assert not torch.equal(found[7][0], found[7][0])
    assert torch.equal(EvaluationView(found, lambda image: image)[7][0], found.image(7))


def test_an_evaluation_view_exchanges_the_transform_of_all_items(seen: Path) -> None:
    view = EvaluationView(expanded(Pictures(6, form="pil", transform=shrink), seen), lambda image: image.size)
    assert [view[item][0] for item in (0, 8)] == [(28, 28), (28, 28)]


def test_labels_are_read_without_images(seen: Path) -> None:
    found = expanded(Pictures(6), seen)
    assert read_labels(found).tolist() == [0, 1] * 3 + [parent % 2 for parent in found.parents.tolist()]
    unlabelled = expanded([image for image, _ in Pictures(4)], seen)
    assert unlabelled.targets is None
    assert len(unlabelled) == 6


def test_other_methods_choose_from_it(seen: Path) -> None:
    source = expanded(Pictures(10), seen)
    datamodule = CoresetDataModule(source, method="herding", ratio=0.4, features="pixels", batch_size=2)
    datamodule.setup("fit")
    assert len(datamodule.train_dataset) == 6
    assert datamodule.coreset.indices.max() >= 10
    assert len(list(datamodule.train_dataloader())) == 3


def test_what_the_network_saw_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = SDADataset(Pictures(6), cache_dir=tmp_path)
    (shard,) = tmp_path.glob("embeddings/*/*.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr(RandomSaliency, "extract", lambda *_: pytest.fail("the network looks again"))
        assert torch.equal(SDADataset(Pictures(6), cache_dir=tmp_path).maps, first.maps)
    damaged = bytearray(shard.read_bytes())
    damaged[-3] ^= 1
    shard.write_bytes(damaged)
    with pytest.warns(UserWarning, match="is damaged"):
        assert torch.equal(SDADataset(Pictures(6), cache_dir=tmp_path).maps, first.maps)
    other = SDADataset(Pictures(6), cache_dir=tmp_path, seed=1)
    assert not torch.equal(other.maps, first.maps)


def test_the_state_of_others_is_left_alone(seen: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    [*SDADataset(Pictures(4), cache_dir=tmp_path)]
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()


def test_donors_are_other_images() -> None:
    settings = SDASettings(100, torch.arange(0, 100, 5), grid=40, donors=4, seed=0)
    drawn = [settings.donors_of(place) for place in range(20)]
    assert all(len(set(donors)) == 4 and place not in donors for place, donors in enumerate(drawn))
    assert len({donor for donors in drawn for donor in donors}) > 15
    few = SDASettings(3, torch.tensor([0, 2]), grid=40, donors=4, seed=0)
    assert [few.donors_of(place) for place in range(2)] == [[1], [0]]
    assert SDASettings(3, torch.tensor([1]), grid=40, donors=4, seed=0).donors_of(0) == []


def test_a_single_image_keeps_its_background(seen: Path) -> None:
    found = expanded(Pictures(2), seen)
    assert len(found) == 3
    assert torch.equal(found[2][0], found[found.parent_of(2)][0])


def test_settings_survive_json() -> None:
    settings = SDASettings(1000, torch.arange(3, 1000, 7), grid=20, donors=2, seed=-5)
    assert len(settings.to_plain()["parents"]) < 400
    again = SDASettings.from_plain(settings.to_plain())
    assert torch.equal(again.parents, settings.parents)
    assert (again.size, again.grid, again.donors, again.seed) == (1000, 20, 2, -5)
    with pytest.raises(CoresetError, match="no SDA settings"):
        SDASettings.from_plain(settings.to_plain() | {"parents": "?"})


def test_a_read_that_was_not_prepared_is_refused(seen: Path) -> None:
    found = SDADataset.unseen(Pictures(10), work.settings_of(Pictures(10)))
    found.look(torch.tensor([3, 12]), cache=seen)
    assert torch.equal(found[12][0], expanded(Pictures(10), seen)[12][0])
    assert (~found.maps[:, 0].isnan()).sum() == 5
    with pytest.raises(CoresetError, match="given|of a dataset of 10 items, and this one has 6"):
        SDADataset.unseen(Pictures(6), found.settings)
    bare = SDADataset.unseen(Pictures(10), found.settings)
    with pytest.raises(CoresetError, match="has not seen item .* call look"):
        bare[12]


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (TensorDataset(torch.rand(4, 9), torch.tensor([0, 0, 1, 1])), r"shape \[9\]; images are accepted"),
        (TensorDataset(torch.rand(4, 2, 28, 28), torch.tensor([0, 0, 1, 1])), r"\[2, 28, 28\].*1, 3 or 4 channels"),
        ([("a sentence", 0), ("another", 1)], "No image was found"),
        (TensorDataset(torch.rand(4, 3, 1, 28), torch.tensor([0, 0, 1, 1])), "is 1 x 28 pixels; at least 2 x 2"),
    ],
    ids=["vectors", "two channels", "text", "less than a cell"],
)
def test_items_that_are_no_images(dataset: Any, message: str) -> None:
    with pytest.raises(CoresetError, match=message) as raised:
        SDADataset(dataset)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "arguments", [{"augment": 1.5}, {"augment": -0.1}, {"augment": True}, {"grid": 0}, {"donors": 0}, {"donors": 2.5}]
)
def test_arguments_out_of_range(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(arguments))}=.* is not accepted"):
        SDADataset(Pictures(4), **arguments)


def test_chosen_images_as_a_folder(seen: Path, tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    found = expanded(Pictures(10, form="pil"), seen)
    coreset = Coreset(torch.tensor([14, 3, 10, 11, 12]), torch.ones(5))
    written = export_images(found, coreset, tmp_path / "sda", class_names=["../cats", "dogs and more"])
    assert [path.name.split("-")[0] for path in written] == ["00000014", "00000010", "00000011", "00000012"]
    folder = ImageFolder(tmp_path / "sda")
    assert folder.classes == ["0000_cats", "0001_dogs_and_more"]
    for path, label in folder.samples:
        item = int(Path(path).name.split("-")[0])
        assert label == found.targets[item]
        assert (np.asarray(Image.open(path)) == np.asarray(found.image(item))).all()
    assert len(export_images(found, coreset, tmp_path / "all", originals=True)) == 5
    with pytest.raises(CoresetError, match="holds item 15 and this dataset has 15"):
        export_images(found, Coreset(torch.tensor([15]), torch.ones(1)), tmp_path)
