"""select(): arrays in, coreset out, and what it says of bad input."""

import json
import warnings
from typing import Any

import numpy as np
import pytest
import torch

from lightning_coreset import Coreset, Herding, Pool, SubZeroCore, select
from tests.helpers.examples import CLASSWISE, LABEL_FREE, METHODS, RECORDED, SEEING, clouds, pool_of

MANIFEST = (
    "method", "arguments", "resolved", "seed", "budget", "pool_size", "pool_class_counts", "per_class", "ranks",
    "weight_scale", "fingerprint", "versions", "seconds", "peak_bytes",
)  # fmt: skip


@pytest.fixture(scope="module")
def data() -> tuple[torch.Tensor, torch.Tensor]:
    """Three classes of 40, 25 and 35 items."""
    return clouds([40, 25, 35])


@pytest.fixture(autouse=True)
def quiet() -> Any:
    """Small classes make SubZeroCore warn; that has its own test."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "SubZeroCore looks at")
        yield


@pytest.mark.parametrize("method", METHODS)
def test_every_method_answers_a_whole_coreset(method: str, data: tuple[torch.Tensor, torch.Tensor]) -> None:
    features, labels = data
    coreset = select(pool_of(method, features, labels), method=method, ratio=0.2)
    assert isinstance(coreset, Coreset)
    assert len(coreset) == 20
    assert coreset.indices.dtype == torch.int64
    assert len(set(coreset.indices.tolist())) == 20
    assert coreset.weights.dtype == torch.float32
    assert coreset.weights.shape == (20,)
    assert coreset.labels is not None
    assert torch.equal(coreset.labels, labels[coreset.indices])
    assert all(len(column) == 20 for column in coreset.details.values())
    assert tuple(coreset.manifest) == MANIFEST
    assert coreset.manifest == json.loads(json.dumps(coreset.manifest))
    assert coreset.manifest["method"] == method
    assert coreset.manifest["per_class"] == (method in CLASSWISE)
    assert coreset.manifest["pool_class_counts"] == [40, 25, 35]
    assert (coreset.manifest["budget"], coreset.manifest["weight_scale"]) == (20, 5.0)


def test_subzerocore_is_the_default_method(data: tuple[torch.Tensor, torch.Tensor]) -> None:
    assert select(*data, ratio=0.1).manifest["method"] == "subzerocore"


@pytest.mark.parametrize("method", [method for method in LABEL_FREE if method not in RECORDED])
def test_without_labels_the_pool_is_one_group(method: str, data: tuple[torch.Tensor, torch.Tensor]) -> None:
    coreset = select(data[0], method=method, budget=9)
    assert coreset.labels is None
    assert coreset.manifest["per_class"] is False
    assert coreset.manifest["pool_class_counts"] is None
    assert len(set(coreset.indices.tolist())) == 9


@pytest.mark.parametrize("method", [method for method in METHODS if method not in RECORDED])
def test_arrays_tensors_and_pools_give_the_same(method: str, data: tuple[torch.Tensor, torch.Tensor]) -> None:
    features, labels = data
    reference = select(features, labels, method=method, budget=11)
    for other in (
        select(features.numpy(), labels.numpy(), method=method, budget=11),
        select(features.double(), labels.int(), method=method, budget=np.int64(11)),
        select(Pool(features, labels), method=method, budget=11),
        select(features, labels, method=method, ratio=0.11, num_classes=3, device="cpu", seed=np.int64(0)),
    ):
        assert torch.equal(other.indices, reference.indices)
        assert torch.equal(other.weights, reference.weights)


def test_a_selector_object_is_a_method(data: tuple[torch.Tensor, torch.Tensor]) -> None:
    by_object = select(*data, method=SubZeroCore(coverage=0.7, per_class=False), budget=10)
    by_name = select(*data, method="subzerocore", coverage=0.7, per_class=False, budget=10)
    assert torch.equal(by_object.indices, by_name.indices)
    assert by_name.manifest["arguments"]["coverage"] == 0.7
    assert by_name.manifest["per_class"] is False


def test_arguments_of_numpy_reach_the_manifest_as_plain_numbers(data: tuple[torch.Tensor, torch.Tensor]) -> None:
    coreset = select(*data, method="subzerocore", neighbors=np.int64(3), coverage=np.float64(0.5), budget=10)
    json.dumps(coreset.manifest)
    assert coreset.manifest["arguments"]["neighbors"] == 3
    json.dumps(select(data[0], method="k_center", start=np.int64(4), budget=2).manifest)


@pytest.mark.parametrize("method", ["random", "uniform", "prototypes", "typiclust"])
def test_seeds_decide_the_random_choices(method: str, data: tuple[torch.Tensor, torch.Tensor]) -> None:
    arguments = {"clusters": 15} if method == "prototypes" else {}
    first, again, other = (
        select(*data, method=method, budget=30, seed=seed, **arguments).indices for seed in (5, 5, 6)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("method", METHODS)
def test_the_global_random_state_is_not_touched(method: str, data: tuple[torch.Tensor, torch.Tensor]) -> None:
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    select(pool_of(method, *data), method=method, budget=10, seed=3)
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert (np.random.get_state()[1] == numpy_before).all()


@pytest.mark.parametrize("method", METHODS)
def test_the_global_random_state_does_not_matter(method: str, data: tuple[torch.Tensor, torch.Tensor]) -> None:
    pool = pool_of(method, *data)
    torch.manual_seed(1)
    first = select(pool, method=method, budget=10)
    torch.manual_seed(2)
    assert torch.equal(select(pool, method=method, budget=10).indices, first.indices)


@pytest.mark.parametrize("method", METHODS)
def test_arguments_are_not_changed(method: str, data: tuple[torch.Tensor, torch.Tensor]) -> None:
    features, labels = data[0].clone(), data[1].clone()
    pool = pool_of(method, features, labels)
    select(pool, method=method, budget=10, initial=[1, 2], forbidden=[3])
    assert torch.equal(features, data[0])
    assert torch.equal(labels, data[1])
    if pool.signals is not None:
        fresh = pool_of(method, *data).signals
        for name, column in vars(fresh).items():
            assert torch.equal(getattr(pool.signals, name).nan_to_num(-9), column.nan_to_num(-9))


def test_the_fingerprint_follows_the_data(data: tuple[torch.Tensor, torch.Tensor]) -> None:
    features, labels = data
    key = select(features, labels, method="herding", budget=3).manifest["fingerprint"]
    assert select(features, labels, method="random", budget=7).manifest["fingerprint"] == key
    changed = features.clone()
    changed[50, 3] += 1e-4
    assert select(changed, labels, method="herding", budget=3).manifest["fingerprint"] != key
    assert select(features, labels.flip(0), method="herding", budget=3).manifest["fingerprint"] != key


ROWS, LABELS = clouds([10, 10], seed=3)
WITH_NAN = ROWS.clone()
WITH_NAN[7, 2] = float("nan")
WITH_INFINITY = ROWS.clone()
WITH_INFINITY[0, 0] = float("inf")

BAD_INPUT: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
    "nan": ((WITH_NAN, LABELS), {"ratio": 0.5}, "features of item 7 hold NaN or infinite"),
    "infinity": ((WITH_INFINITY, LABELS), {"ratio": 0.5}, "features of item 0 hold NaN or infinite"),
    "not a matrix": ((ROWS[0],), {"ratio": 0.5}, r"features have shape \[16\]: give one row per item"),
    "labels too short": ((ROWS, LABELS[:-1]), {"ratio": 0.5}, r"labels have shape \[19\] for 20 items"),
    "labels too long": ((ROWS, [0] * 21), {"ratio": 0.5}, r"labels have shape \[21\] for 20 items"),
    "labels as fractions": ((ROWS, LABELS + 0.5), {"ratio": 0.5}, "labels are torch.float32: give integers"),
    "label below zero": ((ROWS, LABELS - 1), {"ratio": 0.5}, "label of item .* is -1: classes start at 0"),
    "label too large": ((ROWS, LABELS), {"ratio": 0.5, "num_classes": 1}, "is 1, but num_classes=1 accepts 0 to 0"),
    "an empty class": ((ROWS, LABELS), {"ratio": 0.5, "num_classes": 3}, "Class 2 has no items"),
    "ratio of nothing": ((ROWS, LABELS), {"ratio": 0}, "ratio=0 is not accepted: give a number above 0"),
    "ratio above one": ((ROWS, LABELS), {"ratio": 1.5}, "ratio=1.5 is not accepted: .* at most 1"),
    "budget of nothing": ((ROWS, LABELS), {"budget": 0}, "budget=0 is not accepted"),
    "budget above the pool": ((ROWS, LABELS), {"budget": 21}, "budget=21, but only 20 of 20 items"),
    "budget above the free": ((ROWS,), {"budget": 18, "forbidden": [1, 2], "initial": [3]}, "only 17 of 20 items"),
    "ratio above the free": ((ROWS,), {"ratio": 1.0, "forbidden": [1]}, "ratio=1.0 of 20 items is 20, but only 19"),
    "both": ((ROWS, LABELS), {"ratio": 0.1, "budget": 2}, "Exactly one of ratio and budget .* both"),
    "neither": ((ROWS, LABELS), {}, "Exactly one of ratio and budget .* neither"),
    "unknown method": ((ROWS,), {"budget": 2, "method": "hearding"}, "Unknown method 'hearding'; .*did you mean 'herding'"),
    "overlap": ((ROWS,), {"budget": 2, "initial": [1, 2], "forbidden": [2, 3]}, "initial and forbidden both hold 2"),
    "unknown position": ((ROWS,), {"budget": 2, "initial": [20]}, "initial holds 20, but positions go from 0 to 19"),
    "negative position": ((ROWS,), {"budget": 2, "forbidden": [-1]}, "forbidden holds -1, but positions go from 0"),
    "position twice": ((ROWS,), {"budget": 2, "forbidden": [4, 4]}, "forbidden holds a position twice"),
    "position between": ((ROWS,), {"budget": 2, "initial": [1.5]}, "initial holds torch.float32 values: give positions"),
    "a mask": ((ROWS,), {"budget": 2, "forbidden": torch.ones(20) > 0}, r"forbidden holds torch.bool .*mask.nonzero"),
    "no labels for classes": ((ROWS,), {"budget": 2, "method": "herding", "per_class": True}, "needs labels and got none"),
    "uniform without labels": ((ROWS,), {"budget": 2, "method": "uniform"}, "'uniform' .* needs labels and got none"),
    "uniform over the pool": ((ROWS, LABELS), {"budget": 2, "method": "uniform", "per_class": False}, "per_class=False"),
    "labels beside a pool": ((Pool(ROWS), LABELS), {"budget": 2}, "labels= and num_classes= beside a Pool"),
    "classes beside a pool": ((Pool(ROWS, LABELS),), {"budget": 2, "num_classes": 2}, "beside a Pool"),
    "per_class twice": ((ROWS,), {"budget": 2, "method": Herding(), "per_class": False}, "per_class= beside a selector"),
    "argument twice": ((ROWS,), {"budget": 2, "method": Herding(), "lam": 2}, "lam= beside a selector object"),
    "boxes": ((ROWS,), {"budget": 2, "budget_unit": "boxes"}, "budget_unit='boxes' is not accepted .* give 'images'"),
    "no memory": ((ROWS,), {"budget": 2, "memory_limit": 0}, "memory_limit=0 is not accepted: give a positive number"),
    "memory in words": ((ROWS,), {"budget": 2, "memory_limit": "1GB"}, "memory_limit='1GB' is not accepted"),
    "seed between": ((ROWS,), {"budget": 2, "seed": 0.5}, "seed=0.5 is not accepted: give a whole number"),
    "coverage of all": ((ROWS,), {"budget": 2, "coverage": 1.0}, "coverage=1.0 is not accepted: .* between 0 and 1"),
    "neighbors between": ((ROWS,), {"budget": 2, "neighbors": 2.5}, "neighbors=2.5 is not accepted: give a whole number"),
    "k_solver": ((ROWS,), {"budget": 2, "k_solver": "exact"}, "k_solver='exact' is not accepted: give one of 'log', 'eq9'"),
    "mode": ((ROWS,), {"budget": 2, "mode": "sparse"}, "mode='sparse' is not accepted: give one of 'dense', 'streamed'"),
    "similarity": ((ROWS,), {"budget": 2, "similarity": "rbf"}, "similarity='rbf' is not accepted"),
    "radius": ((ROWS,), {"budget": 2, "radius": "cosine"}, "radius='cosine' is not accepted"),
    "density_power": ((ROWS,), {"budget": 2, "density_power": -1}, "density_power=-1 is not accepted"),
    "lam": ((ROWS,), {"budget": 2, "method": "graph_cut", "lam": 0}, "lam=0 is not accepted: give a positive number"),
    "clusters": ((ROWS,), {"budget": 2, "method": "prototypes", "clusters": "all"}, "clusters='all' is not accepted"),
    "typical neighbors": ((ROWS,), {"budget": 2, "method": "typiclust", "neighbors": 0}, "neighbors=0 is not accepted"),
    "start": ((ROWS,), {"budget": 2, "method": "k_center", "start": 20}, "start=20 is not accepted: give a row from 0 to 19"),
    "start forbidden": (
        (ROWS,), {"budget": 2, "method": "k_center", "start": 3, "forbidden": [3]}, "start=3 is not accepted"
    ),
    "start by class": (
        (ROWS, LABELS), {"budget": 2, "method": "k_center", "start": 3, "per_class": True}, "one item cannot start every"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_told_in_one_line(case: str) -> None:
    args, kwargs, message = BAD_INPUT[case]
    with pytest.raises(ValueError, match=message) as raised:
        select(*args, **kwargs)
    assert "\n" not in str(raised.value)


def test_an_unknown_argument_is_a_type_error_that_lists_the_accepted() -> None:
    with pytest.raises(
        TypeError, match=r"'subzerocore' got the unknown argument 'gama'; accepted are per_class, coverage"
    ):
        select(ROWS, budget=2, gama=0.6)
    with pytest.raises(TypeError, match=r"'herding' got the unknown argument 'mode'"):
        select(ROWS, budget=2, method="herding", mode="dense")


@pytest.mark.parametrize("method", RECORDED)
def test_methods_that_need_signals_say_so(method: str) -> None:
    with pytest.raises(ValueError, match=rf"'{method}' needs training signals and got none: give Pool\(signals="):
        select(Pool(torch.ones(len(LABELS), 2), LABELS), method=method, budget=2)


@pytest.mark.parametrize("method", [method for method in SEEING if method not in RECORDED])
def test_methods_that_need_features_say_so(method: str) -> None:
    with pytest.raises(ValueError, match=rf"'{method}' needs features and the pool has none"):
        select(Pool(labels=LABELS), method=method, budget=2)


@pytest.mark.parametrize("method", ["random", "uniform"])
def test_methods_that_do_not_look_need_no_features(method: str) -> None:
    assert len(select(Pool(labels=LABELS), method=method, budget=4)) == 4
