"""A real detector on real photographs: FastestDet, trained on COCO, over tiny COCO and VOC."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_coreset import Pool, select
from lightning_coreset.detection import (
    Calibration,
    Objects,
    TorchvisionProposer,
    calibrate,
    propose_objects,
    read_objects,
    with_classes,
    write_autolabels,
)
from lightning_coreset.detection.matching import match
from lightning_coreset.detection.rows import joined_tables
from tests.detection.examples import same
from tests.helpers.fastestdet import load_fastestdet
from tests.helpers.zipped import ZippedCoco

pytestmark = [pytest.mark.data, pytest.mark.slow]

FIVE = ["car", "person", "cat", "train", "bus"]


def proposer_of(root: Path) -> TorchvisionProposer:
    model, names = load_fastestdet(root)
    return TorchvisionProposer(model, names)


@pytest.fixture(scope="module")
def tiny_coco(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Objects, Objects]:
    """Proposals and annotations of its 100 images, in the five classes that VOC5 has too."""
    sides: list[list[Any]] = [[], []]
    for split in ("train", "val"):
        dataset = ZippedCoco(data_root, "tiny_coco", split)
        sides[0].append(propose_objects(dataset, proposer_of(data_root)))
        sides[1].append(read_objects(dataset))
    proposals, truth = (with_classes(joined_tables(parts), FIVE) for parts in sides)
    return proposals, truth


def test_a_threshold_from_one_set_holds_on_another(data_root: Path, tiny_coco: tuple[Objects, Objects]) -> None:
    calibration = calibrate(*tiny_coco, reference="tiny COCO")
    assert 0.7 < calibration.threshold < 0.85
    assert calibration.precision >= 0.95
    dataset = torch.utils.data.Subset(ZippedCoco(data_root, "voc5", "val"), range(100))
    proposals = with_classes(propose_objects(dataset, proposer_of(data_root)), FIVE)
    truth = read_objects(dataset)
    assert truth is not None
    found = match(calibration.keep(proposals), truth)
    assert float(found.hits.float().mean()) > 0.85
    assert 0.15 < int(found.hits.sum()) / int(found.objects.sum()) < 0.6


def test_the_reference_point_of_the_weights(tiny_coco: tuple[Objects, Objects]) -> None:
    f1 = calibrate(*tiny_coco, "f1")
    assert f1.precision > 0.6
    assert f1.recall > 0.3
    assert f1.threshold < calibrate(*tiny_coco).threshold


def test_two_threads_change_last_digits_and_no_pick(data_root: Path) -> None:
    """Convolutions of two threads round differently, by 2e-6 in a score."""
    dataset = torch.utils.data.Subset(ZippedCoco(data_root, "tiny_coco", "val"), range(6))
    one = propose_objects(dataset, proposer_of(data_root))
    torch.set_num_threads(2)
    try:
        two = propose_objects(dataset, proposer_of(data_root))
    finally:
        torch.set_num_threads(1)
    assert torch.equal(one.labels, two.labels)
    assert one.scores is not None
    assert two.scores is not None
    assert torch.allclose(one.scores, two.scores, atol=1e-4)
    for method in ("ofds", "class_balance"):
        picks = [select(Pool(objects=found), method=method, budget=4, threshold=0.3).indices for found in (one, two)]
        assert torch.equal(*picks)


def test_batches_and_a_warm_cache_change_no_bit(data_root: Path, tmp_path: Path) -> None:
    dataset = torch.utils.data.Subset(ZippedCoco(data_root, "tiny_coco", "val"), range(6))
    whole = propose_objects(dataset, proposer_of(data_root), cache=tmp_path, batch_size=1)
    same(propose_objects(dataset, proposer_of(data_root), batch_size=16), whole)
    same(propose_objects(dataset, proposer_of(data_root), cache=tmp_path, num_workers=1), whole)
    assert whole.features is not None
    assert whole.features.shape[1] == 96


def test_autolabels_of_real_photographs(data_root: Path, tmp_path: Path) -> None:
    dataset = torch.utils.data.Subset(ZippedCoco(data_root, "voc5", "val"), range(20))
    objects = propose_objects(dataset, proposer_of(data_root))
    count = write_autolabels(tmp_path / "auto.json", objects, calibration=Calibration(0.5, "f1", "tiny COCO"))
    back = Objects.from_targets(tmp_path / "auto.json")
    assert len(back) == count > 10
    assert back.num_images == 20
