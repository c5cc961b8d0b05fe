"""Decide which images to label: OFDS with a budget in boxes, on a pool without a single label.

Scenes with scikit-learn's handwritten digits, 10 classes with a long tail, a fifth near duplicates. A detector from
another project (other writers) proposes objects in every image; a threshold and the cost of an image are calibrated on
a small labelled set. OFDS then asks for images in an order in which people may stop at any line; here they label until
the budget of boxes is spent. The same detector is trained on what each method had labelled for the same boxes. Writes a
picture of the request: proposals of the class for which each image was asked in its colour.

    python examples/06_ofds.py [--budget 300] [--pool 600] [--steps 300] [--output ofds.png]
"""

import argparse
import tempfile
from pathlib import Path

import torch
from digit_scenes import PROPOSER_WRITERS, TEST_WRITERS, DigitScenes, digit_scenes
from small_detector import (
    SceneData,
    SceneImages,
    SmallDetector,
    chosen_row,
    draw,
    fitted,
    labelled_part,
    quiet,
    rarest,
    table,
    tested,
    trained_proposer,
)
from torch import Tensor
from torch.utils.data import TensorDataset

from lightning_coreset import Coreset, Pool, select
from lightning_coreset.detection import Calibration, Objects, calibrate, propose_objects, true_units

METHODS = ("ofds", "class_balance", "random")


def request(coreset: Coreset) -> list[int]:
    """Images in the order in which they are to be labelled, the reserve after the others."""
    reserve = coreset.manifest.get("reserve") or {}
    return [*coreset.indices.tolist(), *reserve.get("indices", [])]


def labelled(asked: list[int], units: Tensor, budget: int) -> Tensor:
    """What people label before the first line that would exceed the budget."""
    spent = units[asked].cumsum(0)
    return torch.tensor(asked)[: int((spent <= budget).sum())]


def calibrated(proposer: object, scenes: DigitScenes, path: Path) -> Calibration:
    """Threshold and cost from a labelled set, kept in a file."""
    images = SceneImages(scenes)
    found = calibrate(propose_objects(images, proposer), images.objects, reference="150 scenes of other writers")
    found.save(path)
    return found


def main() -> None:
    """Propose, calibrate, select, label, train, test; a table and a picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--budget", type=int, default=300, help="boxes to be drawn")
    parser.add_argument("--pool", type=int, default=600, help="images without labels")
    parser.add_argument("--steps", type=int, default=300, help="of each training")
    parser.add_argument("--output", type=Path, default=Path("ofds.png"))
    given = parser.parse_args()
    quiet()
    scenes = digit_scenes(given.pool)
    unlabelled = TensorDataset(scenes.images)
    test = SceneImages(digit_scenes(200, seed=1, balanced=True, duplicates=0.0, writers=TEST_WRITERS))
    others = digit_scenes(550, seed=2, balanced=True, duplicates=0.0, writers=PROPOSER_WRITERS)
    for_training, reference = (
        DigitScenes(others.images[part], others.targets[part], others.class_names, others.groups[part])
        for part in (slice(400), slice(400, 550))
    )
    proposer = trained_proposer(for_training, given.steps)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "calibration.json"
        calibration = calibrated(proposer, reference, path)
        proposals = propose_objects(unlabelled, proposer)
        told = f"threshold {calibration.threshold:.2f}, precision {calibration.precision:.2f}"
        print(f"Calibration on {calibration.reference}: {told}, recall {calibration.recall:.2f}")

        # Nobody has seen these yet; they stand for the people who label.
        people = SceneImages(scenes)
        units, rare = true_units(people.objects), rarest(people.objects)
        assert calibration.units is not None
        cost = calibration.units.per_image, calibration.units.per_score
        rows = []
        for method in METHODS:
            arguments = {} if method == "random" else {"calibration": str(path), "charge": "estimate"}
            if method == "random":
                # Twice the images that the budget is expected to pay for: they are labelled until it is spent.
                mean = float(calibration.units.of(proposals).mean())
                arguments = {"budget": min(given.pool, round(2 * given.budget / mean))}
            else:
                arguments |= {"budget": given.budget, "budget_unit": "boxes", "estimate": cost}
            pool = Pool(objects=proposals, images=unlabelled)
            coreset = select(pool, method=method, group_duplicates=True, **arguments)
            chosen = labelled(request(coreset), units, given.budget)
            data = SceneData(labelled_part(people, chosen), test)
            detector = fitted(data, given.steps, detector=SmallDetector(10, rare=rare))
            rows.append([method, *chosen_row(scenes, people.objects, chosen, rare), *tested(detector, data)])
            if method == "ofds":
                show_request(coreset, chosen, calibration.keep(proposals), scenes, given.output)
        table(rows)
    print(f"Picture: {given.output}")


def show_request(coreset: Coreset, chosen: Tensor, proposals: Objects, scenes: DigitScenes, path: Path) -> None:
    """The first lines of the request, and a picture of what the proposer saw there."""
    details = coreset.details
    print("line  image  for class  expected boxes")
    for line, image in enumerate(coreset.indices[:5].tolist()):
        name = scenes.class_names[details["class"][line]]
        print(f"{line + 1:4}  {image:5}  {name:>9}  {details['estimated_units'][line]:14.1f}")
    title = f"OFDS: the first of {len(chosen)} images to label, and the class for which each is asked"
    draw(scenes.images, proposals, coreset.indices.tolist(), details["class"], path, title)


if __name__ == "__main__":
    main()
