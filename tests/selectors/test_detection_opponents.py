"""Image-level opponents: random and uniform by objects, HaCON, FreeSel, text retrieval."""

from typing import Any

import numpy as np
import pytest
import torch

from lightning_coreset import Coreset, CoresetError, Pool, select
from lightning_coreset.detection import Objects
from lightning_coreset.features import LocalPatterns
from lightning_coreset.ops.kmeans import kmeans
from lightning_coreset.ops.rows import normalize_rows
from tests.helpers.detection_examples import crowded_pool
from tests.helpers.examples import clouds, normal_rows

OBJECTS = crowded_pool(80, 5)
SHOWS = OBJECTS.counts() > 0
UNITS = OBJECTS.counts().sum(dim=1)


def run(method: str, budget: int = 12, features: Any = None, **arguments: Any) -> Coreset:
    return select(Pool(features, objects=OBJECTS), method=method, budget=budget, **arguments)


@pytest.mark.parametrize("unit", ["images", "boxes"])
@pytest.mark.parametrize("seed", range(3))
def test_random_with_all_classes(unit: str, seed: int) -> None:
    found = run("random", 14, all_classes=True, budget_unit=unit, seed=seed)
    assert bool(SHOWS[found.indices].any(dim=0).all())
    assert found.manifest["units"]["spent"] <= 14
    with pytest.raises(CoresetError, match="None of 1,000 random draws shows every class"):
        run("random", 1, all_classes=True)
    # Where the first draw will do, it is the plain one.
    plain = run("random", 60)
    assert bool(SHOWS[plain.indices].any(dim=0).all())
    assert torch.equal(run("random", 60, all_classes=True).indices, plain.indices)


def test_classes_take_turns_and_draw_what_shows_them() -> None:
    found = run("uniform", 20)
    for place, image in enumerate(found.indices.tolist()):
        assert bool(SHOWS[image, place % 5])
    assert torch.equal(run("uniform", 7).indices, found.indices[:7])
    assert not torch.equal(run("uniform", 20, seed=1).indices, found.indices)
    # No class shows an empty image.
    assert len(run("uniform", 80)) == int(SHOWS.any(dim=1).sum())


def test_quotas_by_ratio_follow_the_images_of_each_class() -> None:
    found = run("uniform", 40, quota="ratio")
    images = SHOWS.sum(dim=0).double()
    wanted = images / images.sum() * 40
    # A class gets its quota, and images of other classes that show it too.
    shown = SHOWS[found.indices].sum(dim=0)
    assert bool((shown >= wanted.floor()).all())
    assert len(found) == 40


def test_the_fullest_images_first() -> None:
    found = run("uniform", 10, most_objects=True)
    first = [image for image in range(80) if bool(SHOWS[image, 0])]
    assert int(found.indices[0]) == max(first, key=lambda image: (int(UNITS[image]), -image))
    assert UNITS[found.indices].sum() > UNITS[run("uniform", 10).indices].sum()


def test_a_number_of_objects_is_drawn_for() -> None:
    found = run("uniform", 10, objects=(38, 42))
    assert 38 <= int(UNITS[found.indices].sum()) <= 42
    with pytest.raises(CoresetError, match="None of 1,000 random draws shows 1000 to 2000 objects"):
        run("uniform", 10, objects=(1000, 2000))


def test_labels_of_images_keep_the_plain_uniform() -> None:
    labels = torch.arange(80) % 4
    plain = select(Pool(labels=labels), method="uniform", budget=8)
    beside = select(Pool(labels=labels, objects=OBJECTS), method="uniform", budget=8)
    assert torch.equal(plain.indices, beside.indices)
    assert not torch.equal(
        select(Pool(labels=labels, objects=OBJECTS), method="uniform", budget=8, quota="ratio").indices, plain.indices
    )


def test_hacon_takes_what_lies_between_two_centres() -> None:
    features, _ = clouds([30, 30, 30], spread=0.3)
    found = select(features, method="hacon", budget=6, clusters=3)
    rows = normalize_rows(features).numpy().astype(np.float64)
    clustered = kmeans(normalize_rows(features), 3)
    away = np.sort(np.linalg.norm(rows[:, None] - clustered.centers.numpy(), axis=2), axis=1)
    margin = away[:, 1] - away[:, 0]
    for label in range(3):
        members = np.nonzero(clustered.assignment.numpy() == label)[0]
        mine = [pick for pick in found.indices.tolist() if pick in members]
        assert mine == members[np.argsort(margin[members], kind="stable")][:2].tolist()
    assert sorted(found.details["cluster"]) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("patterns", [1, 4])
def test_freesel_draws_what_is_new(patterns: int) -> None:
    """Three kinds of image, one of them rare: every draw but the first is of a kind that was not there."""
    kinds = torch.tensor([0] * 40 + [1] * 39 + [2])
    rows = torch.eye(8)[kinds].repeat(1, patterns)
    for seed in range(5):
        found = select(rows, method="freesel", budget=3, patterns=patterns, seed=seed)
        assert sorted(kinds[found.indices].tolist()) == [0, 1, 2]
    with pytest.raises(ValueError, match="features of width 8 do not hold patterns=3"):
        select(rows[:, :8], method="freesel", budget=3, patterns=3)


def test_freesel_keeps_the_least_distance_to_all_that_is_chosen() -> None:
    """Frequencies of the second draw are those of squared distances to the first."""
    rows = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-1.0, 0.0]])
    seconds = torch.zeros(4)
    for seed in range(600):
        seconds[int(select(rows, method="freesel", budget=1, initial=[0], seed=seed).indices)] += 1
    away = (1 - rows[:, 0]) ** 2
    assert torch.allclose(seconds / 600, away / away.sum(), atol=0.06)


def test_local_patterns_are_the_same_for_every_batch() -> None:
    network = torch.nn.Conv2d(3, 6, 3)
    images = torch.rand(5, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    wrapped = LocalPatterns(network, patterns=5, strongest=50)
    whole = wrapped(images)
    assert whole.shape == (5, 30)
    assert torch.allclose(torch.cat([wrapped(image[None]) for image in images]), whole, atol=1e-5)


def test_text_retrieval_serves_the_class_with_the_fewest_units() -> None:
    features = normal_rows(80, 8)
    texts = normal_rows(5, 8, seed=1)
    found = run("text_retrieval", 60, features, texts=texts.tolist(), budget_unit="boxes")
    scores = (normalize_rows(features) @ normalize_rows(texts).T).numpy()
    served, left, free = np.zeros(5), 60, set(range(80))
    for image, label in zip(found.indices.tolist(), found.details["class"], strict=True):
        assert label == int(np.argmin(served))
        best = max((i for i in sorted(free) if UNITS[i] <= left), key=lambda i: scores[i, label])
        assert image == best
        served[label] += max(1, int(UNITS[image]))
        left -= int(UNITS[image])
        free.remove(image)


@pytest.mark.parametrize("suffix", [".npy", ".json", ".safetensors"])
def test_texts_come_from_files(tmp_path: Any, suffix: str) -> None:
    import json

    from safetensors.torch import save_file

    texts = normal_rows(5, 8, seed=1)
    path = tmp_path / f"texts{suffix}"
    writers = {
        ".npy": lambda: np.save(path, texts.numpy()),
        ".json": lambda: path.write_text(json.dumps(texts.tolist())),
        ".safetensors": lambda: save_file({"texts": texts}, path),
    }
    writers[suffix]()
    rows = normal_rows(80, 8)
    assert torch.equal(
        run("text_retrieval", features=rows, texts=str(path)).indices,
        run("text_retrieval", features=rows, texts=texts.tolist()).indices,
    )


BAD: dict[str, tuple[str, dict[str, Any], str]] = {
    "all classes by class": ("random", {"all_classes": True, "per_class": True}, "beside per_class=True"),
    "quota": ("uniform", {"quota": "half"}, "quota='half' is not accepted: give one of 'equal', 'ratio'"),
    "objects": ("uniform", {"objects": (5, 2)}, r"objects=\(5, 2\) is not accepted"),
    "fullest of a number": ("uniform", {"objects": (2, 5), "most_objects": True}, "most_objects=True beside objects="),
    "clusters": ("hacon", {"clusters": "budget"}, "clusters='budget' is not accepted"),
    "patterns": ("freesel", {"patterns": 0}, "patterns=0 is not accepted"),
    "prompt": ("text_retrieval", {"prompt": "a photo"}, "prompt='a photo' is not accepted"),
    "width": ("text_retrieval", {"texts": [[1.0, 0.0]]}, "texts are 2 wide and features 8"),
    "file": ("text_retrieval", {"texts": "a.txt"}, "texts='a.txt' is not accepted"),
    "by class": ("text_retrieval", {"per_class": True}, "per_class=True is not accepted by 'text_retrieval'"),
    "csod of nothing": ("csod", {"objects": Objects([], [], [], num_images=80)}, "none of 80 images has any"),
    "csod without features": ("csod", {"objects": Objects([0], [[0, 0, 4, 4]], [0], num_images=80)}, "no features"),
    "balance": ("csod", {"balance": -1}, "balance=-1 is not accepted"),
    "lam": ("csod", {"lam": -0.1}, "lam=-0.1 is not accepted"),
    "turns": ("csod", {"class_order": "size"}, "class_order='size' is not accepted"),
    "fill": ("csod", {"fill": "best"}, "fill='best' is not accepted"),
    "sample": ("csod", {"sample_per_class": 0}, "sample_per_class=0 is not accepted"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_in_one_line(case: str) -> None:
    method, given, message = BAD[case]
    table = given.get("objects", OBJECTS)
    objects = table if isinstance(table, Objects) else OBJECTS
    arguments = {name: value for name, value in given.items() if not isinstance(value, Objects)}
    with pytest.raises(ValueError, match=message) as raised:
        select(Pool(normal_rows(80, 8), objects=objects), method=method, budget=5, **arguments)
    assert "\n" not in str(raised.value)


def test_prompts_need_names_and_open_clip() -> None:
    with pytest.raises(ValueError, match="'text_retrieval' needs texts=, or class names"):
        select(normal_rows(9, 4), method="text_retrieval", budget=2)
