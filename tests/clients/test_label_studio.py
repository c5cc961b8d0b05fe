"""Files that a real Label Studio accepts, and its export back: the SDK is strict, the server is real."""

import json
import os
import random
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_coreset.active import ExportToLabel, LabelledPool, Request
from lightning_coreset.active.returned import same_target
from tests.active.annotators import NAMES, Annotator, Files, drawn_boxes, image_files

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]
TOKEN = "0123456789abcdef0123456789abcdef01234567"

label_interface = pytest.importorskip(
    "label_studio_sdk.label_interface", reason="label-studio-sdk not installed: tox run -e labelstudio"
)


def requested(folder: Path, boxes: bool, seed: int) -> tuple[ExportToLabel, LabelledPool, list[Any], str]:
    """A request with predictions: its oracle, pool, tasks and configuration."""
    draw = random.Random(seed)
    paths = image_files(folder / "images", draw, 12)
    names = [name for name in NAMES if "\n" not in name]
    predictions = {}
    for place in range(0, 12, 2):
        predictions[place] = drawn_boxes(draw, 3) if boxes else draw.randrange(len(names))
        if boxes:
            predictions[place]["labels"] %= len(names)
            predictions[place]["scores"] = torch.rand(3, generator=torch.Generator().manual_seed(place))
    oracle = ExportToLabel(
        folder / "files",
        ("label_studio",),
        class_names=names,
        task="detection" if boxes else "auto",
        predictions=predictions,
    )
    pool = LabelledPool(12, journal=folder / "files" / "journal.jsonl")
    pool.request(range(12), round=0)
    oracle.bind(pool)
    oracle.answer(Request(list(range(12)), list(range(12)), 0, Files(paths), unit="boxes" if boxes else "images"))
    tasks = json.loads((folder / "files" / "round_0" / "label_studio_tasks.json").read_text())
    return oracle, pool, tasks, (folder / "files" / "round_0" / "label_studio_config.xml").read_text()


@pytest.mark.parametrize("boxes", [False, True])
def test_the_sdk_finds_no_fault(tmp_path: Path, boxes: bool) -> None:
    _, _, tasks, config = requested(tmp_path, boxes, 0)
    interface = label_interface.LabelInterface(config)
    interface.validate()
    predictions = [prediction for task in tasks for prediction in task.get("predictions", [])]
    assert len(predictions) == 6
    for prediction in predictions:
        assert interface.validate_prediction(prediction, return_errors=True) == []
    # The judge judges: it names a class that is not there.
    wrong = json.loads(json.dumps(predictions[0]).replace(NAMES[0], "cow"))
    region = wrong["result"][0]["value"]
    region["rectanglelabels" if boxes else "choices"] = ["cow"]
    assert interface.validate_prediction(wrong, return_errors=True)


class Server:
    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        environment = os.environ | {
            "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
            "LABEL_STUDIO_BASE_DATA_DIR": str(folder),
            "COLLECT_ANALYTICS": "false",
            "SENTRY_DSN": "",
            "LATEST_VERSION_CHECK": "false",
            "FEATURE_FLAGS_OFFLINE": "true",
        }
        command = [
            *(str(Path(sys.executable).with_name("label-studio")), "start", "--no-browser", "--port", str(self.port)),
            *("--internal-host", "127.0.0.1", "--username", "a@b.co", "--password", "only for this test"),
            *("--user-token", TOKEN),
        ]
        self.log = (folder / "server.log").open("w")
        self.process = subprocess.Popen(command, env=environment, stdout=self.log, stderr=subprocess.STDOUT)

    def call(self, path: str, content: Any = None) -> Any:
        data = None if content is None else json.dumps(content).encode()
        headers = {"Authorization": f"Token {TOKEN}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())

    def wait(self) -> None:
        for _ in range(300):
            assert self.process.poll() is None, Path(self.log.name).read_text()[-2000:]
            try:
                self.call("/api/projects")
            except (urllib.error.URLError, ConnectionError):
                time.sleep(1)
            else:
                return
        pytest.fail("the server did not come up")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if not Path(sys.executable).with_name("label-studio").exists():
        pytest.skip("label-studio not installed: tox run -e labelstudio")
    running = Server(tmp_path_factory.mktemp("label_studio"))
    try:
        running.wait()
        yield running
    finally:
        running.process.terminate()
        running.process.wait(30)
        running.log.close()


@pytest.mark.parametrize("boxes", [False, True])
def test_a_real_server_imports_annotates_and_exports(server: Server, tmp_path: Path, boxes: bool) -> None:
    oracle, pool, tasks, config = requested(tmp_path, boxes, 1)
    project = server.call("/api/projects", {"title": f"boxes {boxes}", "label_config": config})["id"]
    server.call(f"/api/projects/{project}/import", tasks)
    imported = server.call(f"/api/tasks?project={project}&page_size=100&fields=all")["tasks"]
    assert len(imported) == 12
    assert sum(bool(task["predictions"]) for task in imported) == 6

    names = [name for name in NAMES if "\n" not in name]
    annotator = Annotator(tmp_path / "files" / "round_0", random.Random(2), boxes, names)
    for task in imported:
        said = annotator.said[task["data"]["id"]]
        if said != "open":
            result = [] if said == "skip" else annotator.result_of(said)
            server.call(f"/api/tasks/{task['id']}/annotations", {"result": result, "was_cancelled": said == "skip"})

    exported = server.call(f"/api/projects/{project}/export?exportType=JSON&download_all_tasks=true")
    (tmp_path / "export.json").write_text(json.dumps(exported))
    told = oracle.ingest(tmp_path / "export.json")
    assert told.unmatched == []
    done = {name: said for name, said in annotator.said.items() if not isinstance(said, str)}
    assert set(pool.labelled) == set(done)
    assert all(same_target(pool.targets[name], said) for name, said in done.items())
    assert set(pool.skipped) == {name for name, said in annotator.said.items() if said == "skip"}
    assert set(pool.pending) == {name for name, said in annotator.said.items() if said == "open"}
