"""Choose and train with dq_v2 on a number of ranks: python ddp_dq_v2.py DEVICES ROOT."""

import json
import sys
import warnings
from pathlib import Path

import torch

from lightning_coreset import CoresetDataModule
from lightning_coreset.augmentation.masks import RandomSaliency
from tests.augmentation.test_selection import PictureSource, Watching, hashes
from tests.helpers.lightning_parts import leave_ranks, quiet_trainer

if __name__ == "__main__":
    devices, root = int(sys.argv[1]), sys.argv[2]
    warnings.filterwarnings("ignore")
    RandomSaliency.batch_size = 4
    trainer = quiet_trainer(root, num_sanity_val_steps=0, **({"strategy": "ddp", "devices": 2} if devices > 1 else {}))
    datamodule = CoresetDataModule(
        PictureSource(20), method="dq_v2", ratio=0.6, method_args={"proxy_epochs": 1, "bins": 3}
    )
    network = Watching()
    trainer.fit(network, datamodule=datamodule)
    shown = trainer.strategy.all_gather(torch.tensor(len(network.trained_on)))
    assert len(datamodule.coreset) == 12
    assert int(shown.sum() if devices > 1 else shown) == 12
    # A file each: lines of two processes on one pipe mix.
    Path(root, f"rank_{trainer.global_rank}.json").write_text(json.dumps(hashes(network.trained_on)))
    leave_ranks()
