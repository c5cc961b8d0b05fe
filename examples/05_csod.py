"""Train a detector on few labelled images: CSOD, against random images and the most crowded ones.

Scenes with scikit-learn's handwritten digits, 10 classes with a long tail, a fifth near duplicates. All images have
boxes; training on all of them is what costs too much. CSOD embeds the boxes by a detector that somebody has from
another project (here: trained on other writers' digits), and picks images that are typical of their class and unlike
those it has. Every method gets the same number of images and optimizer steps. Prints a table and writes a picture:
chosen images, the boxes for which each was chosen in the colour of their class.

    python examples/05_csod.py [--budget 60] [--pool 600] [--steps 300] [--output csod.png]
"""

import argparse
from pathlib import Path

from digit_scenes import PROPOSER_WRITERS, TEST_WRITERS, digit_scenes
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

from lightning_coreset import CoresetDataModule

METHODS = ("csod", "class_balance", "random")


def main() -> None:
    """Select, train, test, for each method; a table and a picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--budget", type=int, default=60, help="images to train on")
    parser.add_argument("--pool", type=int, default=600, help="labelled images")
    parser.add_argument("--steps", type=int, default=300, help="of each training")
    parser.add_argument("--output", type=Path, default=Path("csod.png"))
    given = parser.parse_args()
    quiet()
    scenes = digit_scenes(given.pool)
    pool = SceneImages(scenes)
    test = SceneImages(digit_scenes(200, seed=1, balanced=True, duplicates=0.0, writers=TEST_WRITERS))
    others = digit_scenes(400, seed=2, balanced=True, duplicates=0.0, writers=PROPOSER_WRITERS)
    proposer = trained_proposer(others, given.steps)
    rare = rarest(pool.objects)

    rows = []
    for method in METHODS:
        # The one line that changes in a script that trains on everything.
        data = CoresetDataModule(
            SceneData(pool, test), method=method, budget=given.budget, proposer=proposer, cache_dir=None
        )
        detector = fitted(data, given.steps, detector=SmallDetector(10, rare=rare))
        chosen = data.coreset.indices
        rows.append([method, *chosen_row(scenes, pool.objects, chosen, rare), *tested(detector, data)])
        if method == "csod":
            title = f"CSOD: the first images of {len(chosen)} of {given.pool}, and the class for which each was chosen"
            draw(scenes.images, pool.objects, chosen.tolist(), data.coreset.details["class"], given.output, title)
    detector = fitted(SceneData(pool, test), given.steps, detector=SmallDetector(10, rare=rare))
    everything = chosen_row(scenes, pool.objects, pool.objects.image.new_tensor(range(len(pool))), rare)
    rows.append(["everything", *everything, *tested(detector, SceneData(pool, test))])
    table(rows)
    print(f"Picture: {given.output}")


if __name__ == "__main__":
    main()
