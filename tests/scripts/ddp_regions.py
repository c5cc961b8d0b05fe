"""Refine the same scenes on some ranks and keep what each saw: python ddp_regions.py DEVICES ROOT."""

import sys
from pathlib import Path

import torch

from lightning_coreset import RegionRefinement
from tests.helpers.lightning_parts import leave_ranks, quiet_trainer
from tests.regions.models import CONFIG, SIZE, Frozen, loader


def main() -> None:
    devices, root = int(sys.argv[1]), Path(sys.argv[2])
    many = {"strategy": "ddp", "devices": devices} if devices > 1 else {}
    module, callback, boxes = Frozen(), RegionRefinement(CONFIG, input_size=SIZE), []
    module.register_forward_hook(lambda *_: boxes.append(callback.last.boxes))
    trainer = quiet_trainer(root, callbacks=[callback], **many)
    logged = trainer.test(module, loader(batch_size=2), verbose=False)[0]
    assert "forward" not in vars(module)
    root.mkdir(parents=True, exist_ok=True)
    found = {"logits": torch.cat(module.seen), "boxes": torch.cat(boxes), "logged": logged}
    torch.save(found, root / f"{trainer.global_rank}.pt")


if __name__ == "__main__":
    main()
    leave_ranks()
