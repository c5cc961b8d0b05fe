"""What the methods share that choose images by their objects."""

from typing import ClassVar, Literal

from torch import Tensor

from lightning_coreset.detection import Objects
from lightning_coreset.ops.rows import candidate_mask
from lightning_coreset.selectors.base import Selector
from lightning_coreset.selectors.cost import Shown, Work
from lightning_coreset.selectors.facility_location import check_words
from lightning_coreset.selectors.group import Group
from lightning_coreset.selectors.object_rows import usable


class DetectionSelector(Selector):
    """Chooses images by what they show, and spends a budget in images, boxes or masks itself.

    Args:
        per_class: Must stay at its default: an image shows several classes.
        overshoot: In boxes or masks: ``"never"``, or ``"last"`` for one image above the budget.
    """

    needs = frozenset({"objects"})
    shows_classes = True
    #: Whether objects are compared by their embeddings.
    embeds_objects: bool = True
    #: Whether it chooses among labelled objects where there are any, or is to find objects in unlabelled images.
    labelled_objects: ClassVar[bool] = False

    def __init__(self, *, per_class: bool | None = None, overshoot: Literal["never", "last"] = "never") -> None:
        super().__init__(per_class=per_class)
        self.overshoot = overshoot

    def check(self) -> None:
        """Refuse classes of images, and another overshoot."""
        if self.per_class:
            msg = f"per_class=True is not accepted by {self.name!r}: an image shows several classes; leave it out."
            raise ValueError(msg)
        check_words(overshoot=(self.overshoot, ("never", "last")))

    def work(self, size: int, width: int, count: int, memory_limit: int) -> Work:
        """With as many objects as are assumed where nobody knows; see `Shown.assumed`."""
        return self.work_shown(size, width, count, memory_limit, Shown.assumed(size))

    def check_objects(self, objects: Objects | None) -> None:
        """Refuse a pool without any object."""
        assert objects is not None
        if not bool(usable(objects).any()):
            msg = (
                f"{self.name!r} chooses images by their objects, and none of {objects.num_images} images has any: "
                "lower the floor score of the proposer, check its class names, or take 'random'."
            )
            raise ValueError(msg)


def candidates_of(group: Group) -> Tensor:
    """Images that may be picked, as a mask ``[n]``."""
    return candidate_mask(group.size, group.initial, group.forbidden, 1)
