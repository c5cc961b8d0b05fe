"""One table of objects: its order, its parts, and what it refuses."""

from typing import Any

import pytest
import torch

from lightning_coreset.detection import Objects

BOXES = [[0.0, 0.0, 4.0, 4.0], [1.0, 1.0, 3.0, 2.0], [2.0, 0.0, 8.0, 6.0]]


def table(**changed: Any) -> Objects:
    columns: dict[str, Any] = {"image": [2, 0, 2], "boxes": BOXES, "labels": [1, 0, 2], "num_images": 4}
    return Objects(**columns | changed)


def test_rows_are_in_ascending_image_and_stay_together() -> None:
    objects = table(scores=[0.1, 0.2, 0.3], features=[[1.0], [2.0], [3.0]], crowd=[False, True, False])
    assert objects.image.tolist() == [0, 2, 2]
    assert objects.labels.tolist() == [0, 1, 2]
    assert objects.scores is not None
    assert objects.scores.tolist() == pytest.approx([0.2, 0.1, 0.3])
    assert objects.boxes.tolist() == [BOXES[1], BOXES[0], BOXES[2]]


def test_counts_hold_every_image_and_class() -> None:
    assert table().counts().tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 1], [0, 0, 0]]
    assert table(class_names=["a", "b", "c", "d"]).counts().shape == (4, 4)
    assert table().areas().tolist() == [2.0, 16.0, 36.0]


def test_a_pool_without_objects() -> None:
    objects = Objects([], [], [], num_images=3, class_names=["a", "b"])
    assert objects.boxes.shape == (0, 4)
    assert objects.counts().tolist() == [[0, 0]] * 3


def test_a_subset_renumbers_images_in_the_order_asked_for() -> None:
    part = table(image_sizes=[[6, 8], [7, 7], [9, 9], [5, 5]], units=[1, 0, 2, 0]).subset([2, 0])
    assert part.image.tolist() == [0, 0, 1]
    assert part.labels.tolist() == [1, 2, 0]
    assert part.image_sizes is not None
    assert part.image_sizes.tolist() == [[9, 9], [6, 8]]
    assert part.units is not None
    assert part.units.tolist() == [2, 1]
    assert table().where(torch.tensor([True, False, True])).labels.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image": [2, 0, 4]}, "image of object 2"),
        ({"labels": [0, -1, 0]}, "labels of object 1"),
        ({"class_names": ["a", "b"]}, r"labels of object 2 \(image 2\) are 2: classes 0 to 1"),
        ({"boxes": [*BOXES[:2], [0.0, 0.0, float("nan"), 1.0]]}, "finite pixels"),
        ({"boxes": [*BOXES[:2], [5.0, 0.0, 4.0, 1.0]]}, "x1 <= x2"),
        ({"image_sizes": [[9, 9], [9, 9], [5, 5], [9, 9]]}, "inside their image"),
        ({"scores": [0.0, 0.5, 1.5]}, "scores of object 2"),
        ({"scores": [0.0, float("nan"), 1.0]}, "scores of object 1"),
        ({"features": [[1.0], [float("inf")], [0.0]]}, "features of object 1"),
        ({"labels": [0, 1]}, r"labels of objects have shape \[2\]"),
        ({"boxes": [[0.0, 1.0]] * 3}, r"boxes of objects have shape \[3, 2\]"),
        ({"image_sizes": [[9, 9]]}, "image_sizes have shape"),
        ({"units": [1.0, -1.0, 0.0, 0.0]}, "units of images"),
    ],
)
def test_what_cannot_be_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        table(**changed)
