"""A recorded run that kills itself in its third epoch: python killed_recording.py ROOT."""

import os
import signal
import sys
from typing import Any

import torch

from lightning_coreset import TrainingDynamics
from tests.helpers.lightning_parts import DigitsSource, LinearNet, quiet_trainer


class Dying(LinearNet):
    def training_step(self, batch: Any) -> torch.Tensor:
        if self.current_epoch == 2 and self.trainer.global_step % 4 == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().training_step(batch)


if __name__ == "__main__":
    trainer = quiet_trainer(sys.argv[1], max_epochs=4, callbacks=[TrainingDynamics(module="body.2")])
    trainer.fit(Dying(), datamodule=DigitsSource(count=50))
