"""The pool checks everything once, on entry."""

import numpy as np
import pytest
import torch

from lightning_coreset import Pool

ROWS = torch.arange(12.0).reshape(6, 2)
LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


@pytest.mark.parametrize(
    "features",
    [ROWS.numpy(), ROWS.double(), ROWS.half(), ROWS.int(), ROWS.tolist(), ROWS.clone().requires_grad_()],
    ids=["numpy", "float64", "float16", "int32", "list", "with gradient"],
)
def test_features_of_any_kind_become_one_float32_matrix(features: object) -> None:
    pool = Pool(features)
    assert pool.features is not None
    assert pool.features.dtype == torch.float32
    assert not pool.features.requires_grad
    assert torch.equal(pool.features, ROWS)
    assert len(pool) == pool.size == 6


def test_a_float32_matrix_is_not_copied() -> None:
    assert Pool(ROWS).features is not None
    assert Pool(ROWS).features.data_ptr() == ROWS.data_ptr()  # type: ignore[union-attr]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("item", [0, 5, 16_384, 20_000])
def test_values_that_are_not_finite_name_the_first_item(value: float, item: int) -> None:
    features = torch.zeros(20_001, 2)
    features[item, 1] = value
    features[20_000, 0] = value
    with pytest.raises(ValueError, match=rf"features of item {item} hold NaN or infinite"):
        Pool(features)


def test_finite_values_whose_sum_is_not_are_accepted() -> None:
    assert Pool(torch.full((4, 8), 3e38)).size == 4


def test_a_value_too_large_for_float32_is_not_finite() -> None:
    with pytest.raises(ValueError, match="features of item 1 hold NaN or infinite"):
        Pool(np.array([[1.0], [1e300]]))


@pytest.mark.parametrize("shape", [(6,), (6, 2, 2), (0, 2), (6, 0), ()])
def test_features_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"features have shape .* one row per item, \[N, d\]"):
        Pool(torch.zeros(shape))


def test_features_that_are_no_real_numbers() -> None:
    with pytest.raises(ValueError, match="features are complex"):
        Pool(torch.zeros(3, 2, dtype=torch.complex64))
    with pytest.raises(ValueError, match=r"features are .*: give one row of numbers per item"):
        Pool([["a", "b"], ["c", "d"]])


@pytest.mark.parametrize(
    "labels", [LABELS, LABELS.numpy(), LABELS.tolist(), LABELS.to(torch.uint8), tuple(LABELS.tolist())]
)
def test_labels_of_any_kind_become_int64(labels: object) -> None:
    pool = Pool(ROWS, labels)
    assert pool.labels is not None
    assert pool.labels.dtype == torch.int64
    assert pool.class_counts is not None
    assert pool.class_counts.tolist() == [2, 2, 2]


@pytest.mark.parametrize("labels", [LABELS[:5], torch.cat([LABELS, LABELS]), LABELS[:, None]])
def test_labels_of_another_length_or_shape(labels: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"labels have shape .* for 6 items: give one class per item, \[6\]"):
        Pool(ROWS, labels)


def test_labels_that_are_no_integers() -> None:
    with pytest.raises(ValueError, match=r"labels are torch.float32: give integers"):
        Pool(ROWS, LABELS.float())
    with pytest.raises(ValueError, match=r"labels are .*: give integers"):
        Pool(ROWS, list("aabbcc"))


def test_a_negative_label_says_where_unlabelled_items_belong() -> None:
    with pytest.raises(ValueError, match=r"label of item 3 is -1: .*unlabelled items .*leave labels out"):
        Pool(ROWS, torch.tensor([0, 1, 2, -1, -1, 0]))


def test_a_label_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"label of item 4 is 2, but num_classes=2 accepts 0 to 1"):
        Pool(ROWS, LABELS, num_classes=2)


def test_an_empty_class_when_num_classes_is_given() -> None:
    with pytest.raises(ValueError, match=r"Class 3 has no items \(2 of 5 classes are empty\).*leave num_classes out"):
        Pool(ROWS, LABELS, num_classes=5)


def test_gaps_are_allowed_when_num_classes_is_not_given() -> None:
    pool = Pool(ROWS, [3, 5, 3, 5, 3, 5])
    assert pool.num_classes == 6
    assert pool.class_counts is not None
    assert pool.class_counts.tolist() == [0, 0, 0, 3, 0, 3]


@pytest.mark.parametrize("num_classes", [0, -1, True])
def test_a_number_of_classes_that_is_none(num_classes: int) -> None:
    with pytest.raises(ValueError, match=r"num_classes=.* at least 1"):
        Pool(ROWS, LABELS, num_classes=num_classes)


def test_ids_are_unique_and_as_many_as_items() -> None:
    assert Pool(ROWS, ids=list("abcdef")).ids == list("abcdef")
    with pytest.raises(ValueError, match="ids hold 5 distinct names for 6 items"):
        Pool(ROWS, ids=list("abcdea"))
    with pytest.raises(ValueError, match="one positive number of items"):
        Pool(ROWS, ids=list("abc"))


def test_a_pool_without_features_or_labels_knows_its_size() -> None:
    assert Pool(size=4).size == 4
    assert Pool(labels=LABELS).size == 6
    assert Pool(ids=["a", "b"]).size == 2
    with pytest.raises(ValueError, match="got none of them"):
        Pool()
    with pytest.raises(ValueError, match="one positive number of items"):
        Pool(size=0)
    with pytest.raises(ValueError, match=r"one positive number of items, got .*'features': 6.*'size': 7"):
        Pool(ROWS, size=7)
