"""ActiveLearningWarmStart: the first items to label are chosen when any script's fit begins."""

from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from lightning_coreset.active.checks import check_request
from lightning_coreset.active.choosing import label_free_selector
from lightning_coreset.active.datamodule import ActiveLearningDataModule
from lightning_coreset.active.oracles import Oracle
from lightning_coreset.coreset import Coreset
from lightning_coreset.selectors.base import Selector


class ActiveLearningWarmStart(Callback):
    """Chooses and asks for round 0 of an `ActiveLearningDataModule` that was built without ``initial=``.

    In ``setup("fit")``, after the datamodule's, so that whatever asks for the train loader finds the labels there. Does
    nothing where the journal holds a round 0, and says what was chosen.

    Args:
        initial: A method without training signals (`list_selectors`), or a selector.
        budget: How much may be labelled.
        budget_unit: What the budget counts: ``"images"``, ``"boxes"`` or ``"masks"``.
        oracle: Who answers; None is the datamodule's.
        proposer: What the images show, as `Objects` of the whole pool, for methods that choose by it; None is the
            datamodule's.
        initial_args: Arguments of the method.

    Attributes:
        coreset: What was chosen; None where it had been chosen before.

    Raises:
        ValueError: A wrong budget, unit or method; in ``setup``, ``initial=`` here and in the datamodule.
        TypeError: In ``setup``, another datamodule.

    Example:
        >>> ActiveLearningWarmStart("typiclust", budget=100).budget
        100
    """

    def __init__(
        self,
        initial: Selector | str = "typiclust",
        budget: int = 100,
        budget_unit: Literal["images", "boxes", "masks"] = "images",
        oracle: Oracle | None = None,
        proposer: Any = None,
        initial_args: dict[str, Any] | None = None,
    ) -> None:
        check_request(budget, budget_unit, oracle)
        self.initial = label_free_selector(initial, initial_args)
        self.budget = budget
        self.budget_unit = budget_unit
        self.oracle = oracle
        self.proposer = proposer
        self.coreset: Coreset | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make the warm start, unless it was made before."""
        if stage != "fit":
            return
        datamodule: Any = getattr(trainer, "datamodule", None)
        if not isinstance(datamodule, ActiveLearningDataModule):
            came = "no datamodule" if datamodule is None else f"a {type(datamodule).__name__}"
            msg = (
                f"ActiveLearningWarmStart found {came}; an ActiveLearningDataModule is accepted: wrap yours, "
                "trainer.fit(model, datamodule=ActiveLearningDataModule(yours))."
            )
            raise TypeError(msg)
        if datamodule.has_initial:
            msg = (
                "initial= in ActiveLearningWarmStart and in ActiveLearningDataModule is not accepted: one of them "
                "makes the warm start, leave it out of the other."
            )
            raise ValueError(msg)
        self.coreset = datamodule.warm_start(
            self.initial, self.budget, self.budget_unit, self.oracle, proposer=self.proposer
        )
        if self.coreset is None:
            pool = datamodule.opened()
            rank_zero_info(
                f"The journal holds a round 0, and nothing is chosen anew: {pool.n_labelled} items labelled, "
                f"{pool.n_pending} pending."
            )
