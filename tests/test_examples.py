"""The numbered scripts run, each in its quick form."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if re.match(r"\d\d_", path.name))

NO_METRIC = "faster-coco-eval is not installed: the extra [detection]"

# Arguments that make a script quick; where it reads real data, it is marked so.
QUICK = [
    pytest.param("00_digits.py", ["--steps=5", "--seeds=1", "--output=digits.png"], id="00_digits"),
    # On scikit-learn's digits where LIGHTNING_CORESET_DATA is not set.
    pytest.param("01_cifar10.py", ["--quick", "--steps=5", "--ratios", "0.3"], id="01_cifar10"),
    pytest.param("02_dq_v2.py", ["--quick", "--output=dq_v2.png", "--cache=cache"], id="02_dq_v2"),
    *(
        pytest.param(
            f"{name}.py",
            ["--pool=150", "--steps=30", f"--budget={budget}", "--output=boxes.png"],
            id=name,
            marks=pytest.mark.skipif(importlib.util.find_spec("faster_coco_eval") is None, reason=NO_METRIC),
        )
        for name, budget in (("05_csod", 20), ("06_ofds", 80), ("07_autolabels", 80))
    ),
    pytest.param("08_wide_scenes.py", ["--digits", "--steps=20", "--scenes=4"], id="08_wide_scenes"),
    pytest.param("09_prompts.py", ["--digits", "--steps=5", "--scenes=4"], id="09_prompts"),
    pytest.param("10_segmentation.py", ["--digits", "--steps=5", "--scenes=4"], id="10_segmentation"),
    pytest.param(
        "11_active_learning.py", ["--rounds=2", "--budget=15", "--epochs=2", "--folder=runs"], id="11_active_learning"
    ),
    pytest.param("12_labels_there_and_back.py", ["--epochs=2", "--folder=to_label"], id="12_labels_there_and_back"),
    pytest.param(
        "13_detection_rounds.py",
        ["--rounds=2", "--budget=40", "--pool=120", "--steps=30", "--output=rounds.png"],
        id="13_detection_rounds",
        marks=pytest.mark.skipif(importlib.util.find_spec("faster_coco_eval") is None, reason=NO_METRIC),
    ),
]


@pytest.mark.examples
@pytest.mark.parametrize(("script", "arguments"), QUICK)
def test_script(script: str, arguments: list[str], tmp_path: Path) -> None:
    environment = os.environ | {"MPLBACKEND": "Agg"}
    command = [sys.executable, str(FOLDER / script), *arguments]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_every_numbered_script_has_a_quick_form() -> None:
    assert [path.name for path in SCRIPTS] == sorted(str(quick.values[0]) for quick in QUICK)
