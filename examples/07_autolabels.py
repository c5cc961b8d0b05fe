"""Pretrain on autolabels of the whole pool, then fine-tune on the few images that people labelled.

As in 06_ofds.py people label until a budget of boxes is spent. The other images are not useless: what the proposer
sees in them, above the threshold with the best F1, is written as a COCO file with scores, and a detector pretrains on
it. Human labels replace autolabels of the same image, also where people saw nothing. Prints a table of four trainings
at the same total of optimizer steps and writes a picture of autolabels in the images that OFDS chose.

    python examples/07_autolabels.py [--budget 300] [--pool 600] [--steps 300] [--output autolabels.png]
"""

import argparse
import tempfile
from pathlib import Path

from digit_scenes import PROPOSER_WRITERS, TEST_WRITERS, DigitScenes, digit_scenes
from small_detector import (
    SceneData,
    SceneImages,
    SmallDetector,
    chosen_row,
    draw,
    fitted,
    quiet,
    rarest,
    table,
    tested,
    trained_proposer,
)
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from lightning_coreset import Pool, select
from lightning_coreset.detection import (
    LabelledImages,
    PrecomputedProposer,
    calibrate,
    propose_objects,
    true_units,
    with_human_labels,
    write_autolabels,
)


def main() -> None:
    """Autolabels, a selection, four trainings; a table and a picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--budget", type=int, default=300, help="boxes to be drawn")
    parser.add_argument("--pool", type=int, default=600, help="images without labels")
    parser.add_argument("--steps", type=int, default=300, help="of each training")
    parser.add_argument("--output", type=Path, default=Path("autolabels.png"))
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
    known = SceneImages(reference)
    seen = propose_objects(known, proposer)
    precise = calibrate(seen, known.objects, "precision", reference="150 scenes of other writers")
    best = calibrate(seen, known.objects, "f1", reference="150 scenes of other writers")
    proposals = propose_objects(unlabelled, proposer)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "autolabels.json"
        count = write_autolabels(path, proposals, ids=range(given.pool), calibration=best)
        print(f"{count} autolabels at F1 {2 * best.precision * best.recall / (best.precision + best.recall):.2f}")
        # As another program would read them; positions are the ids here.
        autolabels = propose_objects(unlabelled, PrecomputedProposer(path))

    people = SceneImages(scenes)
    units, rare = true_units(people.objects), rarest(people.objects)
    assert precise.units is not None
    cost = precise.units.per_image, precise.units.per_score
    coreset = select(
        Pool(objects=proposals, images=unlabelled),
        method="ofds",
        budget=given.budget,
        budget_unit="boxes",
        threshold=precise.threshold,
        estimate=cost,
        group_duplicates=True,
    )
    chosen = coreset.indices[units[coreset.indices].cumsum(0) <= given.budget]
    everything = with_human_labels(autolabels, people.objects, chosen)
    on_autolabels = SceneData(LabelledImages(unlabelled, autolabels), test)
    on_both = SceneData(LabelledImages(unlabelled, everything), test)
    on_people = SceneData(Subset(people, chosen.tolist()), test)

    def trained(name: str, *phases: SceneData) -> list[object]:
        """One detector through all phases, which share the steps."""
        detector = SmallDetector(10, rare=rare)
        for data in phases:
            detector = fitted(data, given.steps // len(phases), detector=detector)
        labelled: Tensor = chosen if on_people in phases or on_both in phases else chosen[:0]
        return [name, *chosen_row(scenes, people.objects, labelled, rare), *tested(detector, on_people)]

    table(
        [
            trained("human labels", on_people),
            trained("autolabels", on_autolabels),
            trained("both together", on_both),
            trained("autolabels, then human", on_autolabels, on_people),
        ]
    )
    title = f"Autolabels in the first of {len(chosen)} images that people label, and the class for which each is asked"
    draw(scenes.images, autolabels, chosen.tolist(), coreset.details["class"], given.output, title)
    print(f"Picture: {given.output}")


if __name__ == "__main__":
    main()
