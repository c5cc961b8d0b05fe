"""One rank meets a broken image: python ddp_failure.py ROOT."""

import sys

import torch

from lightning_coreset import CoresetDataModule
from tests.helpers.lightning_parts import CountingExtractor, DigitsSource, LinearNet, quiet_trainer


class Fragile(CountingExtractor):
    def extract(self, inputs: torch.Tensor) -> torch.Tensor:
        if torch.distributed.get_rank() == 1:
            raise OSError("broken image file")
        return super().extract(inputs)


if __name__ == "__main__":
    datamodule = CoresetDataModule(DigitsSource(), method="facility_location", ratio=0.1, features=Fragile())
    quiet_trainer(sys.argv[1], strategy="ddp", devices=2).fit(LinearNet(), datamodule=datamodule)
