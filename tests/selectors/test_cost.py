"""Estimates before the work: they follow the sizes, and memory is that of a fresh process."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lightning_coreset import Pool, estimate_cost, list_selectors, select
from lightning_coreset.detection import Objects
from lightning_coreset.selectors.cost import Shown
from tests.helpers.examples import clouds

ROOT = Path(__file__).parents[2]
WIDTH, COUNT = 256, 100

# Largest resident size of a selection above what is resident with the features read.
_MEASURE = """
import sys, threading, time, warnings
import torch
from lightning_coreset import Pool, select
from lightning_coreset.detection import Objects
from lightning_coreset.registry import selector_class
warnings.simplefilter("ignore")
torch.set_num_threads(1)
method, size, width, count = sys.argv[1], *map(int, sys.argv[2:5])
def pool_of(size):
    if "objects" not in selector_class(method).needs:
        return torch.randn(size, width, generator=torch.Generator().manual_seed(0))
    image = torch.arange(7 * size) // 7
    boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0]]).expand(7 * size, 4)
    features = torch.randn(7 * size, width, generator=torch.Generator().manual_seed(0))
    return Pool(objects=Objects(image, boxes, (image + torch.arange(7 * size) % 3) % 20, size, features=features))
rows = pool_of(size)
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * 4096
select(pool_of(200), method=method, budget=10, **eval(sys.argv[5]))
before, peak, done = resident(), 0, threading.Event()
def watch():
    global peak
    while not done.is_set():
        peak = max(peak, resident())
        time.sleep(0.001)
watcher = threading.Thread(target=watch)
watcher.start()
select(rows, method=method, budget=count, **eval(sys.argv[5]))
done.set()
watcher.join()
print(peak - before)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident size is read from /proc")
@pytest.mark.parametrize(
    ("method", "size", "arguments"),
    [
        ("facility_location", 9_000, {"per_class": False, "mode": "dense"}),
        ("facility_location", 5_000, {"per_class": False, "mode": "streamed"}),
        ("subzerocore", 9_000, {"per_class": False, "mode": "dense"}),
        ("graph_cut", 60_000, {"per_class": False}),
        ("k_center", 60_000, {}),
        ("csod", 8_000, {}),
        ("ofds", 8_000, {}),
        ("text_retrieval", 60_000, {"texts": [[0.5] * WIDTH, [-0.5] * WIDTH]}),
        ("dq_v2", 6_000, {"augment": 0, "bins": 2, "per_class": False}),
    ],
)
def test_memory_is_told_within_half_of_what_is_taken(method: str, size: int, arguments: dict[str, object]) -> None:
    command = [sys.executable, "-c", _MEASURE, method, *map(str, (size, WIDTH, COUNT)), repr(arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    features = 4 * size * WIDTH * (7 if method in ("csod", "ofds") else 1)
    asked = {name: value for name, value in arguments.items() if name != "per_class"}
    told = estimate_cost(method, size, WIDTH, COUNT, **asked)
    assert told.peak_bytes == features + told.extra_bytes
    assert 1 / 1.5 < told.peak_bytes / (features + int(done.stdout)) < 1.5


@pytest.mark.parametrize("method", list_selectors())
def test_every_method_tells_more_for_more(method: str) -> None:
    small, large = estimate_cost(method, 500, 16, 20), estimate_cost(method, 2_000, 64, 80)
    assert 0 < small.seconds < large.seconds
    assert 0 < small.extra_bytes < large.extra_bytes


@pytest.mark.parametrize("method", list_selectors())
@pytest.mark.parametrize("doubled", ["n", "d", "k"])
def test_no_size_takes_less_when_it_doubles(method: str, doubled: str) -> None:
    sizes = {"n": 3_000, "d": 32, "k": 60}
    small = estimate_cost(method, **sizes)
    large = estimate_cost(method, **sizes | {doubled: 2 * sizes[doubled]})
    # Host time of steps aside, seconds follow one measured speed, so that they compare.
    assert large.seconds >= small.seconds
    assert large.extra_bytes >= small.extra_bytes
    assert large.peak_bytes >= small.peak_bytes


@pytest.mark.parametrize("method", ["csod", "ofds", "class_balance"])
def test_objects_count_where_images_are_chosen_by_them(method: str) -> None:
    few, many = (estimate_cost(method, 1_000, 64, 50, objects=objects) for objects in (2_000, 20_000))
    assert few.seconds < many.seconds
    assert few.extra_bytes < many.extra_bytes
    assert few.peak_bytes < many.peak_bytes
    assert estimate_cost(method, 1_000, 64, 50) == estimate_cost(method, 1_000, 64, 50, objects=7_000, num_classes=80)
    assert estimate_cost("random", 1_000, 64, 50) == estimate_cost("random", 1_000, 64, 50, objects=7_000)


def test_classes_of_objects_never_part_a_pool() -> None:
    few, many = (estimate_cost("text_retrieval", 100, 8, 10, num_classes=classes) for classes in (2, 200))
    assert few.extra_bytes < many.extra_bytes
    assert few == estimate_cost("text_retrieval", 100, 8, 10, class_names=["cat", "dog"])
    assert estimate_cost("csod", 100, 8, 10, num_classes=200).extra_bytes > 4 * 700 * 8


def test_new_images_count_as_items() -> None:
    plain, augmented = (estimate_cost("dq_v2", 1_000, 64, 50, augment=share) for share in (0, 0.5))
    assert augmented == estimate_cost("dq_v2", 1_500, 64, 50, augment=0)
    assert plain.peak_bytes < augmented.peak_bytes


def test_what_images_show_is_counted() -> None:
    objects = Objects([0, 0, 0, 2, 2], [[0, 0, 4, 4]] * 5, [1, 1, 0, 1, 3], num_images=3)
    assert Shown.of(objects) == Shown(objects=5, pairs=4, classes=4, largest=3)
    nothing = Objects([], [], [], num_images=3)
    assert Shown.of(nothing) == Shown(objects=0, pairs=0, classes=1, largest=0)


def test_classes_share_the_memory_and_ranks_the_time() -> None:
    whole = estimate_cost("facility_location", 40_000, 64, 400, memory_limit=10**12)
    by_class = estimate_cost("facility_location", 40_000, 64, 400, num_classes=100, memory_limit=10**12)
    assert by_class.extra_bytes < whole.extra_bytes / 50
    over_ranks = estimate_cost("facility_location", 40_000, 64, 400, num_classes=100, ranks=4, memory_limit=10**12)
    assert over_ranks.seconds == pytest.approx(by_class.seconds / 4)


def test_the_mode_is_that_which_will_run() -> None:
    assert estimate_cost("subzerocore", 1_000, 8, 10, memory_limit=10**9).mode == "dense"
    assert estimate_cost("subzerocore", 1_000, 8, 10, memory_limit=10**3).mode == "streamed"
    assert estimate_cost("facility_location", 1_000_000, 8, 10).mode == "partitioned"
    assert estimate_cost("facility_location", 1_000, 8, 10, mode="stochastic").mode == "stochastic"
    assert estimate_cost("k_center", 1_000, 8, 10).mode is None


def test_who_listens_hears_it_before_the_work(caplog: pytest.LogCaptureFixture) -> None:
    rows, labels = clouds([30, 20])
    select(rows, labels, method="herding", budget=10)
    assert not caplog.records
    with caplog.at_level(logging.INFO, logger="lightning_coreset"):
        select(rows, labels, method="facility_location", budget=10)
    assert "facility_location (dense): 10 of 50 items in 2 group(s), about" in caplog.text


@pytest.mark.parametrize("method", ["csod", "ofds", "class_balance"])
def test_the_true_number_of_objects_is_told(method: str, caplog: pytest.LogCaptureFixture) -> None:
    objects = Objects(
        torch.arange(30) // 2, [[0, 0, 4, 4]] * 30, [0, 1] * 15, num_images=15, features=torch.randn(30, 8)
    )
    with caplog.at_level(logging.INFO, logger="lightning_coreset"):
        select(Pool(objects=objects), method=method, budget=6, budget_unit="boxes")
    assert f"{method}: 3 of 15 items, 30 objects in 1 group(s), about" in caplog.text


@pytest.mark.parametrize("sizes", [(0, 1, 1), (10, 0, 1), (10, 1, 0), (10, 1, 11)])
def test_sizes_that_do_not_fit(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="are not accepted: give whole numbers of at least 1"):
        estimate_cost("random", *sizes)
    with pytest.raises(ValueError, match="num_classes=11"):
        estimate_cost("random", 10, 1, 1, num_classes=11)
    with pytest.raises(ValueError, match="objects=0"):
        estimate_cost("csod", 10, 1, 1, objects=0)
    with pytest.raises(TypeError, match="unknown argument 'mod'"):
        estimate_cost("facility_location", 10, 1, 1, mod="dense")
