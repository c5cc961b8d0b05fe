"""Detection from no label at all: OFDS says what to label first, the detector itself what next.

The scenes of 06_ofds.py. Round 0 is chosen by what a detector from another project proposes, within a budget of boxes;
each later round trains a new detector on all labels so far and asks, again for so many boxes, for images of whose boxes
it knows little and that are not alike (PPAL). The people who label are the dataset itself here. Prints a line for each
round of this loop and of one from a random start, and writes a picture of what each round asked for.

    python examples/13_detection_rounds.py [--rounds 4] [--budget 100] [--pool 600] [--steps 300] [--output rounds.png]
"""

import argparse
import logging
from pathlib import Path
from typing import Any

from digit_scenes import PROPOSER_WRITERS, TEST_WRITERS, digit_scenes
from small_detector import SceneImages, SmallDetector, WatchedData, detections, plt, quiet, trained_proposer, trainer_of
from torch.utils.data import Subset

from lightning_coreset import ActiveLearningDataModule
from lightning_coreset.active import ActiveLearningLoop, DatasetOracle
from lightning_coreset.detection import calibrate, propose_objects


def main() -> None:
    """A proposer, two loops; a table and a picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--budget", type=int, default=100, help="boxes to be drawn in each round")
    parser.add_argument("--pool", type=int, default=600, help="images without labels")
    parser.add_argument("--steps", type=int, default=300, help="of each training")
    parser.add_argument("--output", type=Path, default=Path("rounds.png"))
    given = parser.parse_args()
    quiet()
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.ERROR)
    pool = SceneImages(digit_scenes(given.pool))
    test = SceneImages(digit_scenes(200, seed=1, balanced=True, duplicates=0.0, writers=TEST_WRITERS))
    others = digit_scenes(550, seed=2, balanced=True, duplicates=0.0, writers=PROPOSER_WRITERS)
    known = others._replace(images=others.images[:400], targets=others.targets[:400])
    proposer = trained_proposer(known, given.steps)
    # What a proposer's score is worth, and what an image will cost, is learnt from labelled images of that project.
    reference, held = SceneImages(others), range(400, 550)
    seen = propose_objects(Subset(reference, held), proposer)
    calibration = calibrate(seen, reference.objects.subset(held), reference="150 scenes of other writers")
    assert calibration.units is not None
    cost = calibration.units.per_image, calibration.units.per_score
    starts: dict[str, dict[str, Any]] = {"ofds": {"threshold": calibration.threshold, "estimate": cost}, "random": {}}

    reports, asked = {}, {}
    for start, arguments in starts.items():
        datamodule = ActiveLearningDataModule(
            WatchedData(pool, test),
            initial=start,
            initial_args=arguments,
            budget=given.budget,
            budget_unit="boxes",
            oracle=DatasetOracle(),
            # A random order looks at nothing: people go down the list until the boxes are drawn.
            proposer=proposer if start == "ofds" else None,
        )
        loop = ActiveLearningLoop(
            lambda: trainer_of(given.steps, watched=True),
            lambda round: SmallDetector(10, seed=round),
            datamodule,
            query="ppal",
            rounds=given.rounds,
            budget=given.budget,
            monitor="ap50",
            detect=detections,
        )
        reports[start] = loop.run()
        assert datamodule.pool is not None
        labels = [event for event in datamodule.pool.history if event["event"] == "label"]
        asked[start] = [[*event["ids"]] for event in labels]

    print("round" + "".join(f"{start:>12}: images boxes AP50 %" for start in starts))
    for lines in zip(*reports.values(), strict=True):
        cells = [f"{line['images']:20} {line['units']:5.0f} {100 * line['metric']:6.1f}" for line in lines]
        print(f"{lines[0]['round']:5}" + "".join(cells))
    draw(pool, asked["ofds"], given.output)
    print(f"Picture: {given.output}")


def draw(pool: SceneImages, rounds: list[list[int]], path: Path, columns: int = 8) -> None:
    """The first images that each round asked for, with the boxes that were drawn."""
    colors = plt.get_cmap("tab10")
    figure, axes = plt.subplots(len(rounds), columns, figsize=(1.7 * columns, 1.9 * len(rounds) + 0.6), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for row, images in enumerate(rounds):
        for axis, image in zip(axes[row], images, strict=False):
            picture, target = pool[image]
            axis.imshow(picture.permute(1, 2, 0))
            axis.set_title(f"round {row}: image {image}", fontsize=8)
            for (left, top, right, bottom), label in zip(
                target["boxes"].tolist(), target["labels"].tolist(), strict=True
            ):
                edge = {"edgecolor": colors(label - 1), "linewidth": 1.5, "fill": False}
                axis.add_patch(plt.Rectangle((left, top), right - left, bottom - top, **edge))
                axis.text(left, top, pool.class_names[label - 1], color=colors(label - 1), fontsize=7, va="bottom")
    figure.suptitle("What each round had labelled first: OFDS on proposals, then PPAL on the detector's own boxes")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
