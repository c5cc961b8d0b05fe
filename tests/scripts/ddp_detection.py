"""Choose images by their objects on a number of ranks: python ddp_detection.py DEVICES ROOT."""

import json
import sys
import warnings
from pathlib import Path

from torchvision.transforms import Resize

from lightning_coreset import CoresetDataModule
from tests.helpers.detection_parts import BoxCounter, QuadrantProposer, SceneSet, ScenesSource, Unlabelled
from tests.helpers.lightning_parts import leave_ranks, quiet_trainer


def main() -> None:
    devices, root = int(sys.argv[1]), sys.argv[2]
    warnings.filterwarnings("ignore")
    proposer = QuadrantProposer()
    trainer = quiet_trainer(root, **({"strategy": "ddp", "devices": 2} if devices > 1 else {}))
    source = ScenesSource(40)
    datamodule = CoresetDataModule(
        source,
        method="k_center",
        budget=60,
        budget_unit="boxes",
        group_duplicates=True,
        features="pixels",
        features_transform=Resize((16, 16), antialias=True),
    )
    trainer.fit(BoxCounter(), datamodule=datamodule)
    chosen = [datamodule.coreset.indices.tolist()]
    for method in ("csod", "ofds", "class_balance"):
        unlabelled = CoresetDataModule(
            Unlabelled(SceneSet(40)), method=method, budget=40, budget_unit="boxes", proposer=proposer
        )
        unlabelled.trainer = trainer
        unlabelled.setup("fit")
        chosen.append(unlabelled.coreset.indices.tolist())
    told = {"chosen": chosen, "looked_at": proposer.looked_at}
    Path(root, f"rank_{trainer.global_rank}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
    leave_ranks()
