"""Masks for annotators and back, as COCO files: no pixel is lost, and a wrong file changes nothing."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from lightning_coreset import ActiveLearningDataModule, CoresetError
from lightning_coreset.active import ExportToLabel, LabelledPool, Request
from lightning_coreset.active.plain import from_plain, to_plain
from lightning_coreset.detection.masks import counts_of, encoded, polygons_of
from tests.active.annotators import Files

SIZE = 40, 30


def blob(draw: random.Random, holes: bool) -> Tensor:
    """A disc, with a hole in it where holes are allowed."""
    rows, columns = torch.meshgrid(torch.arange(SIZE[0]), torch.arange(SIZE[1]), indexing="ij")
    distance = (rows - draw.randrange(SIZE[0])) ** 2 + (columns - draw.randrange(SIZE[1])) ** 2
    radius = draw.randrange(2, 15)
    return (distance < radius**2) & (distance >= (radius // 2) ** 2 * holes)


def as_coco(mask: Tensor, form: str) -> Any:
    if form == "polygons":
        return polygons_of(mask)
    counts = counts_of(mask)
    return {"size": list(mask.shape), "counts": encoded(counts) if form == "text" else counts}


def asked_for(folder: Path, count: int = 4, **settings: Any) -> tuple[ExportToLabel, LabelledPool, list[Path]]:
    paths = []
    for place in range(count):
        paths.append(folder / "images" / f"{place}.png")
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (SIZE[1], SIZE[0])).save(paths[-1])
    oracle = ExportToLabel(folder / "files", "coco", class_names=["cat", "dog"], **settings)
    pool = LabelledPool(count, journal=folder / "files" / "journal.jsonl")
    pool.request(range(count), round=0)
    oracle.answer(Request(list(range(count)), list(range(count)), 0, Files(paths), unit="masks"))
    oracle.bind(pool)
    return oracle, pool, paths


def filled(folder: Path, said: dict[int, Any], **changes: Any) -> Path:
    """The request's own file with objects in it."""
    content = json.loads((folder / "files" / "round_0" / "request.coco.json").read_text())
    for image in content["images"]:
        image |= {"reviewed": image["id"] in said, **changes}
        for mask, label, form in said.get(image["id"], []):
            rows, columns = torch.nonzero(mask, as_tuple=True)
            corner = [int(columns.min()), int(rows.min())]
            entry = {
                "id": len(content["annotations"]) + 1,
                "image_id": image["id"],
                "category_id": label,
                "bbox": [*corner, int(columns.max()) + 1 - corner[0], int(rows.max()) + 1 - corner[1]],
            }
            content["annotations"].append(entry | ({"segmentation": as_coco(mask, form)} if form else {}))
    path = folder / "filled.json"
    path.write_text(json.dumps(content))
    return path


def test_no_pixel_is_lost(tmp_path: Path) -> None:
    """Polygons, run lengths as numbers and as text, holes, images without objects; taken in twice, read from disk."""
    for case in range(15):
        draw = random.Random(case)
        folder = tmp_path / str(case)
        oracle, _, _ = asked_for(folder)
        said: dict[int, Any] = {}
        for place in draw.sample(range(4), draw.randint(1, 4)):
            forms = [draw.choice(["polygons", "numbers", "text"]) for _ in range(draw.randrange(4))]
            said[place] = [(blob(draw, holes=form != "polygons"), draw.randrange(2), form) for form in forms]
            said[place] = [part for part in said[place] if part[0].any()]
        path = filled(folder, said)
        told = oracle.ingest(path)
        assert set(told.labelled) == set(said), case
        assert set(told.empty) == {place for place, objects in said.items() if not objects}
        found = LabelledPool.opened(folder / "files" / "journal.jsonl")
        for place, objects in said.items():
            target = found.targets[place]
            assert target["labels"].tolist() == [label for _, label, _ in objects]
            assert target["masks"].shape == (len(objects), *SIZE)
            assert target["masks"].dtype == torch.uint8
            for mask, (expected, _, _) in zip(target["masks"], objects, strict=True):
                assert torch.equal(mask.bool(), expected), case
        assert found.units_spent == sum(len(objects) for objects in said.values())
        assert oracle.ingest(path).labelled == []


def test_autolabels_go_along_and_are_no_labels(tmp_path: Path) -> None:
    mask = blob(random.Random(3), holes=True)
    seen = {"boxes": [[0, 0, 9, 9]], "labels": [1], "scores": [0.5], "masks": mask[None]}
    oracle, _, _ = asked_for(tmp_path, predictions={2: seen})
    path = tmp_path / "files" / "round_0" / "request.coco.json"
    (entry,) = json.loads(path.read_text())["annotations"]
    assert entry["segmentation"] == as_coco(mask, "text")
    assert entry["area"] == int(mask.sum())
    assert oracle.ingest(path).labelled == []


def test_training_sees_them(tmp_path: Path) -> None:
    class Own(Dataset[Any]):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> Any:
            return torch.full((3, *SIZE), index), {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long()}

    oracle = ExportToLabel(tmp_path / "files", "coco", class_names=["cat", "dog"])
    datamodule = ActiveLearningDataModule(Own(), oracle=oracle, budget_unit="masks", cache_dir=None)
    datamodule.setup("fit")
    datamodule.ask(torch.tensor([3, 1]), round=0)
    mask = blob(random.Random(1), holes=True)
    oracle.ingest(filled(tmp_path, {1: [(mask, 1, "numbers")]}, width=SIZE[1], height=SIZE[0]))
    (item,) = datamodule.labelled_items()
    assert torch.equal(item[1]["masks"][0].bool(), mask)


WRONG = {
    "no masks": (None, {}, r"image '0.png' has a 1 without a segmentation: draw masks"),
    "another size": ("text", {"height": 41}, r"image '0.png' has a segmentation that is none \(A mask of 1200 pixels"),
    "no size": ("text", {"width": 0}, r"image '0.png' has the size 0 x 40, and masks need one"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_changes_nothing(case: str, tmp_path: Path) -> None:
    form, changes, message = WRONG[case]
    oracle, pool, _ = asked_for(tmp_path)
    before = pool.history
    path = filled(tmp_path, {0: [(blob(random.Random(0), holes=True), 1, form)]}, **changes)
    with pytest.raises(CoresetError, match=message):
        oracle.ingest(path)
    assert pool.history == before


def test_other_files_hold_no_masks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"formats=\('csv', 'coco'\) is not accepted for masks"):
        ExportToLabel(tmp_path, ("csv", "coco"), task="masks")
    oracle, _, paths = asked_for(tmp_path)
    for name, content in (("filled.csv", "id,label\n0,dog\n"), ("export.json", "[]")):
        (tmp_path / name).write_text(content)
        with pytest.raises(CoresetError, match="masks come as COCO files alone"):
            oracle.ingest(tmp_path / name)
    other = ExportToLabel(tmp_path / "other")
    with pytest.raises(ValueError, match="handed over as COCO files: give formats='coco'"):
        other.answer(Request([0], [0], 0, Files(paths), unit="masks"))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
def test_run_lengths_are_what_a_journal_holds(dtype: torch.dtype) -> None:
    masks = torch.stack([blob(random.Random(seed), holes=True) for seed in range(3)]).to(dtype)
    plain = to_plain({"masks": masks})
    assert len(json.dumps(plain)) < masks.numel() / 4
    back = from_plain(json.loads(json.dumps(plain)))["masks"]
    assert back.dtype == dtype
    assert torch.equal(back, masks)


@pytest.mark.parametrize(
    "other", [torch.full((2, 3, 3), 7, dtype=torch.uint8), torch.zeros(0, 4, 4, dtype=torch.uint8)]
)
def test_what_is_no_mask_is_written_as_it_is(other: Tensor) -> None:
    back = from_plain(json.loads(json.dumps(to_plain(other))))
    assert back.dtype == other.dtype
    assert torch.equal(back, other)
