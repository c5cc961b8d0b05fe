"""A run whose feature pass is slow enough to be killed: python slow_pass.py ROOT."""

import json
import sys
import time

import torch
from torch.utils.data import TensorDataset

from lightning_coreset import CoresetDataModule
from tests.helpers.lightning_parts import CountingExtractor, digit_tensors


class SlowExtractor(CountingExtractor):
    def extract(self, inputs: torch.Tensor) -> torch.Tensor:
        time.sleep(0.02)
        return super().extract(inputs)


if __name__ == "__main__":
    images, labels = digit_tensors(1797)
    # Four copies, each a little brighter, make a pool of several shards.
    pool = torch.cat([images * factor for factor in (1.0, 0.9, 0.8, 0.7)])
    extractor = SlowExtractor("slow")
    datamodule = CoresetDataModule(
        TensorDataset(pool, labels.repeat(4)),
        method="k_center",
        budget=100,
        features=extractor,
        cache_dir=f"{sys.argv[1]}/coresets",
    )
    datamodule.setup("fit")
    print(json.dumps({"indices": datamodule.coreset.indices.tolist(), "forwards": extractor.forwards}))
