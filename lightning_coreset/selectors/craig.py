"""CRAIG: facility location on last-layer gradients."""

from typing import Literal, cast

from lightning_coreset.ops.facility_location import facility_location_greedy, plan_mode
from lightning_coreset.ops.gradients import Gradients, GradientSimilarity
from lightning_coreset.ops.similarity import SimilarityRows, choose_mode, represented_by
from lightning_coreset.selectors.base import Selector
from lightning_coreset.selectors.cost import Work, facility_work
from lightning_coreset.selectors.facility_location import check_words
from lightning_coreset.selectors.group import Group, Picks
from lightning_coreset.signals.gradients import last_layer_gradients


class Craig(Selector, name="craig"):
    """Items such that every item of the pool has one whose gradient is like its own; weights are cluster sizes.

    Facility location with similarity ``c - ||g_i - g_j||`` between last-layer gradients ``(p - y) [h, 1]^T``, or
    ``p - y`` where the recording has no embeddings ``h``. O(n^2 (C + h)) time for a class of ``n`` items; ``4 n^2``
    bytes, or O(n (C + h)) streamed, with the same picks. Paper: Mirzasoleiman et al. 2020.

    Args:
        per_class: Select in each class (default), or in the whole pool.
        mode: ``"dense"``, ``"streamed"``, or None to choose by the memory limit.

    Raises:
        ValueError: On selecting with another word, or from a recording that lacks an item.

    Example:
        >>> import torch
        >>> from lightning_coreset import Pool, Signals, select
        >>> logits = torch.tensor([[3.0, 0.0], [3.1, 0.0], [3.0, 0.0], [3.2, 0.0], [0.0, 4.0]])
        >>> signals = Signals.from_logits(logits, [0, 0, 0, 0, 0])
        >>> coreset = select(Pool(signals=signals), method="craig", budget=2)
        >>> coreset.indices.tolist(), (coreset.weights * coreset.manifest["weight_scale"]).tolist()
        ([0, 4], [4.0, 1.0])
    """

    needs = frozenset({"signals"})
    weighted = True
    per_class_default = True

    def __init__(self, *, per_class: bool | None = None, mode: Literal["dense", "streamed"] | None = None) -> None:
        super().__init__(per_class=per_class)
        self.mode = mode

    def check(self) -> None:
        """Refuse unknown words."""
        check_words(mode=(self.mode, ("dense", "streamed", None)))

    def work(self, size: int, width: int, count: int, memory_limit: int) -> Work:
        """That of facility location in the exact mode that will run, and distances by way of six matrices."""
        plan = plan_mode(size, self.mode or choose_mode(size, memory_limit))
        greedy = facility_work(plan, size, width, count)
        block = 24 * size * min(size, 2_048 if plan.mode == "dense" else 256)
        return greedy._replace(operations=4 * greedy.operations, bytes=greedy.bytes + block)

    def select_group(self, group: Group) -> Picks:
        """See `lightning_coreset.ops.facility_location`."""
        own = GradientSimilarity(group_gradients(group), mode=self.mode, memory_limit=group.memory_limit)
        # Facility location reads rows and blocks, whichever similarity they hold.
        similarity = cast(SimilarityRows, own)
        indices, gains = facility_location_greedy(
            similarity, group.count, initial=group.initial, forbidden=group.forbidden, advance=group.advance
        )
        return Picks(indices, gains, represented_by(similarity, indices), resolved={"mode": own.mode})


def group_gradients(group: Group) -> Gradients:
    """Last-layer gradients of a group's items, on the device where it is selected from."""
    device = group.initial.device
    return Gradients(*(factor.to(device) for factor in last_layer_gradients(group.recorded)))
