"""EL2N: items whose softmax was far from their label early on."""

from torch import Tensor

from lightning_coreset.selectors.checks import check_whole
from lightning_coreset.selectors.group import Group
from lightning_coreset.selectors.scored import ScoredSelector
from lightning_coreset.signals.scores import el2n


class EL2N(ScoredSelector, name="el2n"):
    """Items with the largest mean ``||softmax - onehot||`` over the runs and their first epochs.

    O(E N) time, O(N) memory. Paper: Paul et al. 2021, who average ten runs; one run is noisy.

    Args:
        per_class: Select in each class instead of the whole pool (default: the whole pool).
        epochs: How many epochs from the start of each run count; fewer where a run has fewer.

    Raises:
        ValueError: On selecting with ``epochs`` below 1.

    Example:
        >>> import torch
        >>> from lightning_coreset import Pool, Signals, select
        >>> signals = Signals.from_logits(torch.tensor([[4.0, 0.0], [0.0, 4.0], [1.0, 1.0]]), [0, 0, 0])
        >>> select(Pool(signals=signals), method="el2n", budget=2).indices.tolist()
        [1, 2]
    """

    def __init__(self, *, per_class: bool | None = None, epochs: int = 10) -> None:
        super().__init__(per_class=per_class)
        self.epochs = epochs

    def check(self) -> None:
        """Refuse a mean of no epochs."""
        check_whole(epochs=self.epochs)

    def score(self, group: Group) -> Tensor:
        """See `lightning_coreset.signals.scores.el2n`."""
        return el2n(group.recorded, self.epochs)
