"""ActiveLearningRounds: the pool grows at epoch ends of one fit, and the next epoch sees it."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_coreset.active.checks import check_request
from lightning_coreset.active.datamodule import ActiveLearningDataModule
from lightning_coreset.active.detecting import Detect
from lightning_coreset.active.oracles import Oracle
from lightning_coreset.active.queries import QueryContext, resolve_query, run_query
from lightning_coreset.compat import renew_train_loader, watch_train_loaders
from lightning_coreset.selectors.checks import check_whole


class ActiveLearningRounds(Callback):
    """Asks for more labels while one fit goes on, with the module as it is.

    At the end of every ``every_n_epochs``-th epoch but the last the query chooses ``budget`` unlabelled items, the
    oracle labels them, and the next epoch trains on them too: the train loader is made again, the validation loaders
    are not. Weights and optimizers go on. Labels that people give meanwhile (``lightning-coreset label ingest``) enter
    at the next epoch end. An epoch that is trained again after a crash does not ask again. Schedulers that were told a
    number of steps (``estimated_stepping_batches``) were told that of the first set.

    Args:
        query: As in `ActiveLearningLoop`.
        budget: How much each round may label.
        every_n_epochs: Epochs between rounds.
        rounds: At most so many rounds; None asks as long as items are left.
        oracle: Who answers; None is the datamodule's.
        head: Name of the layer whose input are features of `k_center` and `badge`; None finds it.
        forward: Called with the module and a batch of images instead of the module.
        query_batch_size: Rows of every forward pass of a query.
        detect: Called with the module and a list of items, gives their `Detections`; for the queries on boxes.

    Raises:
        ValueError: Wrong numbers or an unknown query; in ``setup``, nobody who labels.
        TypeError: In ``setup``, another datamodule.

    Example:
        >>> ActiveLearningRounds("margin", budget=50, every_n_epochs=10).every_n_epochs
        10
    """

    def __init__(
        self,
        query: Any = "entropy",
        budget: int = 50,
        every_n_epochs: int = 1,
        rounds: int | None = None,
        oracle: Oracle | None = None,
        *,
        head: str | None = None,
        forward: Callable[[Any, Tensor], Any] | None = None,
        query_batch_size: int = 64,
        detect: Detect | None = None,
    ) -> None:
        check_request(budget, "images", oracle)
        check_whole(every_n_epochs=every_n_epochs, query_batch_size=query_batch_size)
        if rounds is not None:
            check_whole(rounds=rounds)
        self.query = resolve_query(query)
        self.budget = budget
        self.every_n_epochs = every_n_epochs
        self.rounds = rounds
        self.oracle = oracle
        self.head, self.forward, self.detect = head, forward, detect
        self.query_batch_size = query_batch_size
        self._seen = 0
        self._unwatch: Callable[[], None] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Watch the train loaders."""
        if stage != "fit":
            return
        datamodule: Any = getattr(trainer, "datamodule", None)
        if not isinstance(datamodule, ActiveLearningDataModule):
            came = "no datamodule" if datamodule is None else f"a {type(datamodule).__name__}"
            msg = (
                f"ActiveLearningRounds found {came}; an ActiveLearningDataModule is accepted: wrap yours, "
                "trainer.fit(model, datamodule=ActiveLearningDataModule(yours))."
            )
            raise TypeError(msg)
        if (self.oracle or datamodule.oracle) is None:
            msg = "Nobody labels: give oracle=DatasetOracle(), ExportToLabel(...) or another."
            raise ValueError(msg)
        self._end()
        datamodule._later_oracle = self.oracle
        self._unwatch = watch_train_loaders(trainer, _as_it_is)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember what the train loader is over."""
        self._seen = self._datamodule(trainer).opened().n_labelled

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask, and let the next epoch see the answer."""
        datamodule = self._datamodule(trainer)
        pool = datamodule.opened()
        pool.synchronise(datamodule._reducer)
        with datamodule.allowed():
            if self._is_due(trainer, datamodule):
                self._ask(trainer, pl_module, datamodule)
        if pool.n_labelled != self._seen:
            self._seen = pool.n_labelled
            renew_train_loader(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave no trace on the trainer."""
        self._end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave no trace on the trainer."""
        self._end()

    def _is_due(self, trainer: Trainer, datamodule: ActiveLearningDataModule) -> bool:
        pool = datamodule.opened()
        epochs = trainer.current_epoch + 1
        asked = [event["about"]["epoch"] for event in pool.history if "epoch" in event.get("about", {})]
        last = trainer.max_epochs is not None and 0 <= trainer.max_epochs <= epochs
        spent = self.rounds is not None and len(asked) >= self.rounds
        return not (epochs % self.every_n_epochs or last or spent or epochs in asked or not pool.unlabelled)

    def _ask(self, trainer: Trainer, module: LightningModule, datamodule: ActiveLearningDataModule) -> None:
        pool = datamodule.opened()
        context = QueryContext(
            datamodule=datamodule,
            module=module,
            trainer=trainer,
            count=min(self.budget, len(pool.unlabelled)),
            round=pool.round + 1,
            seed=datamodule._seed,
            head=self.head,
            forward=self.forward,
            batch_size=self.query_batch_size,
            detect=self.detect,
        )
        positions = run_query(self.query, context)
        told = {**self.query.told, "epoch": trainer.current_epoch + 1}
        datamodule.ask(positions, round=context.round, budget=self.budget, about=told)
        rank_zero_info(
            f"Round {context.round} after {trainer.current_epoch + 1} epoch(s): {pool.n_labelled} items labelled, "
            f"{pool.n_pending} pending."
        )

    def _datamodule(self, trainer: Trainer) -> ActiveLearningDataModule:
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(datamodule, ActiveLearningDataModule)
        return datamodule

    def _end(self) -> None:
        if self._unwatch is not None:
            self._unwatch()
            self._unwatch = None


def _as_it_is(loader: Any) -> Any:
    return loader
