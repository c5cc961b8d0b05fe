"""Select with every method under a strategy: python ddp_fit.py STRATEGY DEVICES ROOT METHOD [METHOD ...]."""

import sys
import warnings

import torch

from lightning_coreset import CoresetDataModule, Proxy
from tests.helpers.lightning_parts import DigitsSource, LinearNet, leave_ranks, quiet_trainer


def main() -> None:
    strategy, devices, root, *methods = sys.argv[1:]
    warnings.filterwarnings("ignore")
    for method in methods:
        many = {} if devices == "1" else {"strategy": strategy, "devices": int(devices)}
        trainer = quiet_trainer(f"{root}/{method}", **many)
        # A network as extractor: embeddings of different items on each rank.
        torch.manual_seed(0)
        network = LinearNet()
        datamodule = CoresetDataModule(
            DigitsSource(),
            method=method,
            ratio=0.1,
            features=network.body,
            signals=Proxy("linear", epochs=2, seeds=3),
            weights="resample",
        )
        trainer.fit(network, datamodule=datamodule)
        if datamodule.coreset is not None:
            kept = datamodule.coreset.indices.tolist()
            everyone = trainer.strategy.broadcast(kept)
            assert kept == everyone, f"rank {trainer.global_rank} holds another selection"
            if trainer.global_rank == 0:
                print(f"{method}: {trainer.num_training_batches} batches", flush=True)


if __name__ == "__main__":
    main()
    leave_ranks()
