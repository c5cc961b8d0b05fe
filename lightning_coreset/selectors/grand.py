"""GraNd: items with long gradients early on."""

from torch import Tensor

from lightning_coreset.selectors.checks import check_whole
from lightning_coreset.selectors.group import Group
from lightning_coreset.selectors.scored import ScoredSelector
from lightning_coreset.signals.scores import grand


class GraNd(ScoredSelector, name="grand"):
    """Items with the longest last-layer gradient, mean over the runs and their first epochs.

    Last-layer GraNd: ``||p - y|| * ||[h, 1]||`` of each item, in closed form; the paper takes the gradient of all
    parameters. O(E N) time, O(N) memory. Paper: Paul et al. 2021.

    Args:
        per_class: Select in each class instead of the whole pool (default: the whole pool).
        epochs: How many epochs from the start of each run count; fewer where a run has fewer.

    Raises:
        ValueError: On selecting with ``epochs`` below 1, or from a recording without the last layer's inputs.

    Example:
        >>> import torch
        >>> from lightning_coreset import Pool, Signals, select
        >>> signals = Signals.from_logits(torch.zeros(2, 2), [0, 0], embeddings=torch.tensor([[1.0], [3.0]]))
        >>> select(Pool(signals=signals), method="grand", budget=1).indices.tolist()
        [1]
    """

    def __init__(self, *, per_class: bool | None = None, epochs: int = 10) -> None:
        super().__init__(per_class=per_class)
        self.epochs = epochs

    def check(self) -> None:
        """Refuse a mean of no epochs."""
        check_whole(epochs=self.epochs)

    def score(self, group: Group) -> Tensor:
        """See `lightning_coreset.signals.scores.grand`."""
        return grand(group.recorded, self.epochs)
