"""Files for annotators and back: nothing is lost, nothing is guessed, and a wrong file changes nothing."""

import csv
import json
import random
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lightning_coreset import CoresetError
from lightning_coreset.active import ActiveLearningDataModule, ExportToLabel, LabelledPool, Request
from lightning_coreset.active.returned import same_target
from tests.active.annotators import NAMES, Annotator, Files, image_files
from tests.active.parts import pooled


@pytest.mark.parametrize("group", range(8))
def test_the_round_trip_loses_nothing(group: int, tmp_path: Path) -> None:
    """25 cases each: odd names, empty and cancelled images, doubled entries, files and names, taken in twice."""
    for case in range(group * 25, group * 25 + 25):
        draw = random.Random(case)
        folder = tmp_path / str(case)
        boxes, form = draw.random() < 0.5, draw.choice(["csv", "coco", "label_studio"])
        paths = image_files(folder / "images", draw, draw.randint(2, 9))
        ids = draw.choice([None, [f"{place} {path.name}" for place, path in enumerate(paths)]])
        oracle = ExportToLabel(folder / "to label", (form,), class_names=NAMES, task="detection" if boxes else "auto")
        pool = LabelledPool(len(paths), ids, folder / "to label" / "journal.jsonl")
        asked = draw.sample(pool.ids, draw.randint(1, len(paths)))
        pool.request(asked, round=0)
        unit = "boxes" if boxes else "images"
        oracle.answer(Request(asked, pool.positions(asked).tolist(), 0, Files(paths), unit=unit))
        annotator = Annotator(folder / "to label" / "round_0", draw, boxes)
        data = getattr(annotator, form)()
        if form == "label_studio" and draw.random() < 0.5:
            tasks = json.loads(data)
            data = json.dumps([*tasks, draw.choice(tasks)]).encode()
        filled = folder / f"filled.{'csv' if form == 'csv' else 'json'}"
        filled.write_bytes(data)

        told = oracle.ingest(filled)
        found = LabelledPool.opened(folder / "to label" / "journal.jsonl")
        done = {name: said for name, said in annotator.said.items() if not isinstance(said, str)}
        assert set(found.labelled) == set(told.labelled) == set(done), case
        for name, said in done.items():
            assert same_target(found.targets[name], said), (case, name)
        assert (
            set(found.skipped) == set(told.skipped) == {name for name, said in annotator.said.items() if said == "skip"}
        )
        assert set(found.pending) == {name for name, said in annotator.said.items() if said == "open"}
        assert set(told.empty) == {name for name, said in done.items() if boxes and not len(said["labels"])}
        assert told.unmatched == []
        objects = sum(len(said["labels"]) if boxes else 1 for said in done.values())
        assert found.units_spent == objects

        history = found.history
        again = oracle.ingest(filled)
        assert again.labelled == [] == again.skipped
        assert LabelledPool.opened(folder / "to label" / "journal.jsonl").history == history


def asked_for(tmp_path: Path, boxes: bool = False, **settings: Any) -> tuple[ExportToLabel, LabelledPool]:
    """A request for three of four images, two of which share a name."""
    paths = []
    for place, name in enumerate(["a.png", "b.png", "b.png", "c.png"]):
        path = tmp_path / "images" / str(place) / name
        path.parent.mkdir(parents=True)
        Image.new("RGB", (200, 100)).save(path)
        paths.append(path)
    settings = {"class_names": ["cat", "dog"], "task": "detection" if boxes else "auto"} | settings
    oracle = ExportToLabel(tmp_path / "files", **settings)
    pool = LabelledPool(4, journal=tmp_path / "files" / "journal.jsonl")
    pool.request([2, 0, 1], round=0)
    oracle.answer(Request([2, 0, 1], [2, 0, 1], 0, Files(paths), unit="boxes" if boxes else "images"))
    oracle.bind(pool)
    return oracle, pool


class TestMatching:
    def test_by_id_then_by_a_name_that_only_one_has_and_the_rest_is_listed(self, tmp_path: Path) -> None:
        oracle, pool = asked_for(tmp_path)
        tasks = [
            ({"id": 2, "name": "a.png"}, "dog"),
            ({"name": "a.png"}, "cat"),
            ({"name": "b.png"}, "cat"),
            ({"id": 3, "name": "c.png"}, "cat"),
        ]
        found = [
            {"data": data, "annotations": [{"result": [{"type": "choices", "value": {"choices": [label]}}]}]}
            for data, label in tasks
        ]
        (tmp_path / "export.json").write_text(json.dumps(found))
        told = oracle.ingest(tmp_path / "export.json")
        assert pool.targets == {2: 1, 0: 0}
        assert told.unmatched == ["'b.png'", "3"], "two have this name; nobody asked for item 3"
        assert told.summary == "2 labelled, 2 unmatched: 'b.png', 3."

    def test_a_class_by_its_number(self, tmp_path: Path) -> None:
        oracle, pool = asked_for(tmp_path)
        (tmp_path / "filled.csv").write_text("id,label\n0,1\n")
        oracle.ingest(tmp_path / "filled.csv")
        assert pool.targets == {0: 1}

    def test_a_spreadsheet_with_a_byte_order_mark(self, tmp_path: Path) -> None:
        oracle, _pool = asked_for(tmp_path)
        (tmp_path / "filled.csv").write_bytes("id,label\n0,dog\n".encode("utf-8-sig"))
        assert oracle.ingest(tmp_path / "filled.csv").labelled == [0]

    def test_a_turned_box_becomes_the_upright_one_around_it(self, tmp_path: Path) -> None:
        oracle, pool = asked_for(tmp_path, boxes=True)
        value = {"x": 50, "y": 20, "width": 10, "height": 10, "rotation": 90, "rectanglelabels": ["dog"]}
        task = {"data": {"id": 0}, "annotations": [{"result": [{"type": "rectanglelabels", "value": value}]}]}
        (tmp_path / "export.json").write_text(json.dumps([task]))
        oracle.ingest(tmp_path / "export.json")
        # 20 x 10 pixels at (100, 20), turned by a quarter around its upper left corner.
        assert pool.targets[0]["boxes"][0].tolist() == pytest.approx([90, 20, 100, 40])


def export(*annotations: Any, **data: Any) -> str:
    return json.dumps([{"data": {"id": 0} | data, "annotations": list(annotations)}])


def choice(*names: str) -> dict[str, Any]:
    return {"result": [{"type": "choices", "value": {"choices": list(names)}}]}


WRONG = {
    "unknown class": ("json", export(choice("cow")), "task 1 has the class 'cow'; known are cat, dog"),
    "two classes": ("json", export(choice("cat", "dog")), "has 2 classes"),
    "no result": ("json", export({"result": "all"}), "has the result 'all'"),
    "no value": ("json", export({"result": [{}]}), "has a result without a value"),
    "no data": ("json", '[{"image": "a.png"}]', "has no data: give what Label Studio exports as JSON"),
    "no json": ("json", "{", "is no JSON"),
    "other json": ("json", '{"a": 1}', "is neither a COCO file nor Label Studio's JSON export"),
    "other table": ("csv", "name,class\na,b\n", "give a table with id and label"),
    "unknown label": ("csv", "id,label\n1,dog\n0,cow\n", "line 3: the class 'cow' is not known; accepted are cat, dog"),
    "unknown status": ("csv", "id,label,status\n0,dog,maybe\n", "line 2: the status 'maybe' is not known"),
    "two labels": ("csv", "id,label\n0,dog\n0,cat\n", "says different things of '0'"),
    "two tasks": (
        "json",
        json.dumps(json.loads(export(choice("cat"))) + json.loads(export(choice("dog")))),
        r"says different things of \[0\]",
    ),
    "unknown category": (
        "json",
        json.dumps({"images": [{"id": 0, "file_name": "a.png"}], "annotations": [{"image_id": 0, "category_id": 9}]}),
        "the class '9' is not known",
    ),
}


@pytest.mark.parametrize(("suffix", "content", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_file_changes_nothing(tmp_path: Path, suffix: str, content: str, message: str) -> None:
    oracle, pool = asked_for(tmp_path)
    before = list(pool.history)
    (tmp_path / f"filled.{suffix}").write_text(content)
    with pytest.raises(CoresetError, match=message) as error:
        oracle.ingest(tmp_path / f"filled.{suffix}")
    assert "\n" not in str(error.value)
    assert pool.history == before


WRONG_BOXES = {
    "no corners": ("csv", "id,label\n0,dog\n", "is no box; give x_min"),
    "upside down": ("csv", "id,label,x_min,y_min,x_max,y_max\n0,dog,9,1,3,4\n", "is no box"),
    "coco": (
        "json",
        json.dumps({"images": [{"id": 0}], "annotations": [{"image_id": 0, "category_id": 1, "bbox": [1, 2]}]}),
        "is no box; give",
    ),
    "percent": (
        "json",
        export({"result": [{"type": "rectanglelabels", "value": {"x": "left", "rectanglelabels": ["cat"]}}]}),
        "has the box",
    ),
}


@pytest.mark.parametrize(("suffix", "content", "message"), WRONG_BOXES.values(), ids=WRONG_BOXES)
def test_a_wrong_box_changes_nothing(tmp_path: Path, suffix: str, content: str, message: str) -> None:
    oracle, pool = asked_for(tmp_path, boxes=True)
    (tmp_path / f"filled.{suffix}").write_text(content)
    with pytest.raises(CoresetError, match=message):
        oracle.ingest(tmp_path / f"filled.{suffix}")
    assert pool.n_labelled == 0


def test_another_label_than_the_one_that_is_there(tmp_path: Path) -> None:
    oracle, pool = asked_for(tmp_path)
    pool.label([0], targets=[0])
    (tmp_path / "filled.csv").write_text("id,label\n0,dog\n1,dog\n")
    with pytest.raises(CoresetError, match=r"says something else of \[0\] than the label that is there"):
        oracle.ingest(tmp_path / "filled.csv")
    assert pool.pending == [1, 2]
    pool.unlabel([0])
    assert oracle.ingest(tmp_path / "filled.csv").labelled == [0, 1]


def test_a_missing_file_and_a_folder_without_requests(tmp_path: Path) -> None:
    oracle, _ = asked_for(tmp_path)
    with pytest.raises(FileNotFoundError):
        oracle.ingest(tmp_path / "missing.csv")
    with pytest.raises(FileNotFoundError, match="does not exist: give the journal"):
        ExportToLabel(tmp_path / "nothing").ingest(tmp_path / "missing.csv")
    (tmp_path / "files" / "round_0" / "request.json").write_text("{")
    with pytest.raises(CoresetError, match="is no request or is damaged"):
        oracle.ingest(tmp_path / "missing.csv")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"formats": ("csv", "voc")}, r"formats=\('csv', 'voc'\) is not accepted: give some of 'csv', 'coco'"),
        ({"formats": ()}, "is not accepted"),
        ({"task": "masking"}, "task='masking' is not accepted"),
    ],
)
def test_bad_settings(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExportToLabel(tmp_path, **settings)


class TestFiles:
    def test_what_a_round_leaves_on_disk(self, tmp_path: Path) -> None:
        asked_for(tmp_path)
        names = {path.name for path in (tmp_path / "files" / "round_0").iterdir()}
        assert names == {
            "request.json",
            "request.csv",
            "request.coco.json",
            "label_studio_tasks.json",
            "label_studio_config.xml",
        }
        content = json.loads((tmp_path / "files" / "round_0" / "request.json").read_text())
        assert [item["id"] for item in content["items"]] == [2, 0, 1], "the most wanted first"
        assert (content["items"][0]["width"], content["items"][0]["height"]) == (200, 100)

    def test_images_without_a_file_are_written(self, tmp_path: Path) -> None:
        datamodule = pooled("auto", oracle=ExportToLabel(tmp_path))
        datamodule.setup("fit")
        content = json.loads((tmp_path / "round_0" / "request.json").read_text())
        assert len(content["items"]) == 12
        for item in content["items"]:
            assert Path(item["file"]).parent == tmp_path / "round_0" / "images"
            with Image.open(item["file"]) as image:
                assert image.size == (8, 8)
        assert content["class_names"] == [[number, str(number)] for number in range(10)]

    def test_a_request_that_is_there_is_not_written_again(self, tmp_path: Path) -> None:
        oracle = ExportToLabel(tmp_path)
        pooled("auto", oracle=oracle).setup("fit")
        (tmp_path / "round_0" / "request.csv").write_text("half filled in")
        pooled("auto", oracle=oracle).setup("fit")
        assert (tmp_path / "round_0" / "request.csv").read_text() == "half filled in"

    def test_the_request_of_another_run_is_not_mistaken_for_this_ones(self, tmp_path: Path) -> None:
        oracle = ExportToLabel(tmp_path)
        pooled("auto", oracle=oracle).setup("fit")
        (tmp_path / "journal.jsonl").unlink()
        with pytest.raises(CoresetError, match="holds the request of another run, without .* another folder"):
            pooled("auto", oracle=oracle, initial="random").setup("fit")

    def test_nobody_knows_the_classes(self, tmp_path: Path) -> None:
        items = [torch.zeros(1, 4, 4) + place for place in range(5)]
        settings: dict[str, Any] = {"initial": "random", "budget": 2, "features": "pixels"}
        datamodule = ActiveLearningDataModule(items, oracle=ExportToLabel(tmp_path), **settings)
        with pytest.raises(CoresetError, match="Nobody said which classes there are"):
            datamodule.setup("fit")

    def test_the_configuration_names_every_class_as_it_is(self, tmp_path: Path) -> None:
        asked_for(tmp_path, boxes=True, class_names=NAMES)
        text = (tmp_path / "files" / "round_0" / "label_studio_config.xml").read_text()
        root = ElementTree.fromstring(text)
        assert [label.get("value") for label in root.iter("Label")] == NAMES
        assert root.find("RectangleLabels").get("toName") == root.find("Image").get("name")

    def test_autolabels_are_predictions_in_percent(self, tmp_path: Path) -> None:
        target = {
            "boxes": torch.tensor([[20.0, 10, 120, 60]]),
            "labels": torch.tensor([1]),
            "scores": torch.tensor([0.5]),
        }
        asked_for(tmp_path, boxes=True, predictions={0: target})
        tasks = json.loads((tmp_path / "files" / "round_0" / "label_studio_tasks.json").read_text())
        assert [len(task.get("predictions", [])) for task in tasks] == [0, 1, 0]
        (region,) = tasks[1]["predictions"][0]["result"]
        assert region["value"] == {
            "x": 10.0,
            "y": 10.0,
            "width": 50.0,
            "height": 50.0,
            "rotation": 0,
            "rectanglelabels": ["dog"],
        }
        coco = json.loads((tmp_path / "files" / "round_0" / "request.coco.json").read_text())
        assert [entry["bbox"] for entry in coco["annotations"]] == [[20, 10, 100, 50]]

    def test_predictions_that_nobody_confirmed_are_no_labels(self, tmp_path: Path) -> None:
        target = {"boxes": torch.tensor([[20.0, 10, 120, 60]]), "labels": torch.tensor([1])}
        oracle, pool = asked_for(tmp_path, boxes=True, predictions=lambda ids: {0: target})
        for name in ("label_studio_tasks.json", "request.coco.json"):
            told = oracle.ingest(tmp_path / "files" / "round_0" / name)
            assert told.labelled == []
            assert set(told.not_reviewed) == {0, 1, 2}
        assert pool.n_pending == 3


def test_a_budget_in_boxes_releases_what_is_not_needed(tmp_path: Path) -> None:
    oracle = ExportToLabel(tmp_path / "files", ("csv",), class_names=["cat", "dog"])
    pool = LabelledPool(5, journal=tmp_path / "files" / "journal.jsonl")
    pool.request([3, 1, 0, 2], round=0, about={"unit": "boxes", "budget": 3})
    images = [torch.zeros(3, 4, 4)] * 5
    oracle.answer(Request([3, 1, 0, 2], [3, 1, 0, 2], 0, images, budget=3, unit="boxes"))
    rows = [
        "id,label,x_min,y_min,x_max,y_max,status",
        "3,cat,0,0,1,1,",
        "3,dog,0,0,2,2,",
        "1,,,,,,done",
        "0,cat,0,0,1,1,",
    ]
    (tmp_path / "filled.csv").write_text("\n".join(rows))
    told = oracle.ingest(tmp_path / "filled.csv")
    assert (told.labelled, told.empty, told.released) == ([3, 1, 0], [1], [2])
    found = LabelledPool.opened(tmp_path / "files" / "journal.jsonl")
    assert (found.units_spent, found.pending, found.unlabelled) == (3, [], [2, 4])
    assert found.units_by_class == {"0": 2, "1": 1}


def test_status(tmp_path: Path) -> None:
    oracle, pool = asked_for(tmp_path)
    pool.label([0])
    told = oracle.status()
    assert (told["items"], told["labelled"], told["pending"]) == (4, 1, 2)
    assert told["waiting"] == [{"round": 0, "pending": 2}]


def test_reserve_lines_come_last_and_are_marked(tmp_path: Path) -> None:
    oracle = ExportToLabel(tmp_path / "files", ("csv", "label_studio"), class_names=["cat", "dog"])
    items = [torch.zeros(3, 4, 4) + place for place in range(6)]
    datamodule = ActiveLearningDataModule(items, oracle=oracle, features="pixels", budget_unit="boxes")
    datamodule.setup("fit")
    datamodule.ask(torch.tensor([4, 1]), round=0, budget=2, reserve=[5, 0])
    content = json.loads((tmp_path / "files" / "round_0" / "request.json").read_text())
    assert [(item["id"], item["reserve"]) for item in content["items"]] == [
        (4, False),
        (1, False),
        (5, True),
        (0, True),
    ]
    assert content["task"] == "detection"
    rows = list(csv.DictReader((tmp_path / "files" / "round_0" / "request.csv").open()))
    assert [row["reserve"] for row in rows] == ["0", "0", "1", "1"]
