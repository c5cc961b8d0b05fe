"""Selections without Lightning: torchrun --nproc_per_node 2 torchrun_select.py FEATURES ANSWERS BUDGET METHOD ..."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from lightning_coreset import Pool, SelectionContext
from lightning_coreset.distributed import ProcessGroupReducer
from lightning_coreset.registry import build_selector


def main() -> None:
    source, answers, budget, *methods = sys.argv[1:]
    dist.init_process_group("gloo")
    # Rows stay on disk until a rank asks for them.
    rows = np.load(source, mmap_mode="r")
    told = {}
    for method in methods:
        asked: list[int] = []

        def embed(positions: torch.Tensor, asked: list[int] = asked) -> torch.Tensor:
            asked.extend(positions.tolist())
            return torch.from_numpy(rows[positions.numpy()])

        coreset = build_selector(method, {"per_class": False}).select(
            Pool(size=len(rows)),
            int(budget),
            seed=3,
            initial=[1, 1_500],
            forbidden=[2, 900],
            context=SelectionContext(embed=embed, reducer=ProcessGroupReducer()),
        )
        told[method] = {"coreset": coreset.to_plain(), "asked": asked}
    Path(answers, f"rank_{dist.get_rank()}.json").write_text(json.dumps(told))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
