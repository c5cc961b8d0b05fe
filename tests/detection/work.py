"""What the ranks of a real process group are asked to do; they import it by name."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lightning_coreset.detection import CallableProposer, Proposals, propose_objects
from lightning_coreset.distributed import current_reducer
from tests.detection import examples


class Counting(CallableProposer):
    """Finds squares, and counts the images it was given."""

    def __init__(self, ends_after: int | None = None) -> None:
        super().__init__(examples.squares, examples.NAMES, key="squares")
        self.images = 0
        self.ends_after = ends_after

    def propose(self, images: Sequence[Tensor]) -> list[Proposals]:
        if self.ends_after is not None and self.images >= self.ends_after:
            raise KeyboardInterrupt
        self.images += len(images)
        return super().propose(images)


def proposed(cache: str | None, failing: int | None = None) -> Any:
    """The table on this rank, and how many images it looked at."""
    reducer, proposer = current_reducer(), Counting()
    if reducer.rank == failing:
        proposer.class_names = ["one"]
    return propose_objects(examples.Scenes(), proposer, reducer=reducer, cache=cache), proposer.images
