"""A loop of four rounds that may be killed at any moment: python active_loop.py ROOT DEVICES QUERY."""

import sys
import warnings
from pathlib import Path

from lightning_coreset.active import ActiveLearningDataModule, ActiveLearningLoop, DatasetOracle
from tests.active.parts import NoisyNet
from tests.helpers.lightning_parts import DigitsSource, quiet_trainer

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    root, devices, query = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    settings = {} if devices == 1 else {"devices": devices, "strategy": "ddp"}
    # One step an epoch over all labels, so that the gradient of two ranks is that of one up to rounding.
    source = DigitsSource(count=120, batch_size=64, shuffle=False) if query != "noisy" else DigitsSource(count=120)
    datamodule = ActiveLearningDataModule(
        source,
        initial="typiclust",
        budget=12,
        oracle=DatasetOracle(),
        features="pixels",
        journal=root / "journal.jsonl",
    )
    loop = ActiveLearningLoop(
        lambda: quiet_trainer(root, max_epochs=3, **settings),
        NoisyNet,
        datamodule,
        query="entropy" if query == "noisy" else query,
        rounds=4,
        budget=6,
    )
    for report in loop.run():
        print(f"round {report['round']}: {report['images']} images")
