"""A recorded run that selects again: python ddp_reselection.py DEVICES ROOT [CHECKPOINT]."""

import sys
import warnings

import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_coreset import CoresetDataModule, TrainingDynamics
from tests.helpers.lightning_parts import DigitsSource, LinearNet, leave_ranks, quiet_trainer


class WatchedNet(LinearNet):
    """Says what every epoch of every rank was about."""

    def on_train_epoch_end(self) -> None:
        sizes = self.trainer.strategy.broadcast(len(self.trainer.datamodule.train_dataset))
        kept = self.trainer.datamodule.coreset
        everyone = self.trainer.strategy.broadcast(None if kept is None else kept.indices.tolist())
        assert everyone == (None if kept is None else kept.indices.tolist()), "ranks hold other selections"
        if self.global_rank == 0:
            print(f"epoch {self.current_epoch}: {len(self.seen[-1])} of {sizes}", flush=True)


def main() -> None:
    devices, root, *checkpoint = sys.argv[1:]
    warnings.filterwarnings("ignore")
    many = {} if devices == "1" else {"strategy": "ddp", "devices": int(devices)}
    keeper = ModelCheckpoint(dirpath=f"{root}/checkpoints", filename="{epoch}", save_top_k=-1)
    trainer = quiet_trainer(
        root,
        max_epochs=6,
        callbacks=[TrainingDynamics(module="body.2"), keeper],
        enable_checkpointing=True,
        num_sanity_val_steps=0,
        **many,
    )
    # Every rank its own state, as in real life.
    torch.manual_seed(0)
    # 101 items: the sampler of two ranks repeats one of them.
    source = DigitsSource(count=101, batch_size=10)
    datamodule = CoresetDataModule(
        source, method="el2n", method_args={"epochs": 20}, ratio=0.3, warmup_epochs=2, reselect_every_n_epochs=2
    )
    trainer.fit(WatchedNet(), datamodule=datamodule, ckpt_path=checkpoint[0] if checkpoint else None)
    if trainer.global_rank == 0:
        datamodule.coreset.save(f"{root}/coreset.json")
        print(f"after {datamodule.coreset.manifest['selected_after_epochs']} epochs", flush=True)


if __name__ == "__main__":
    main()
    leave_ranks()
