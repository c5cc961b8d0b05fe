"""ActiveLearningLoop: train, ask, label, again; with a new trainer each round, and through any crash."""

import inspect
import json
import os
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_coreset.active.checks import check_request
from lightning_coreset.active.datamodule import ActiveLearningDataModule
from lightning_coreset.active.detecting import Detect
from lightning_coreset.active.keeping import RoundKeeper, seeded
from lightning_coreset.active.oracles import Oracle
from lightning_coreset.active.pool import LabelledPool
from lightning_coreset.active.queries import QueryContext, resolve_query, run_query
from lightning_coreset.compat import leaves_nothing_behind
from lightning_coreset.data.fingerprint import stable_key
from lightning_coreset.errors import AwaitingLabelsError, CoresetError

_DONE = "round_done"


class ActiveLearningLoop:
    """Rounds of training and asking with the user's own module and trainer.

    Round 0 trains on the datamodule's warm start; before each later round the query chooses ``budget`` more items, with
    what the last round's module says of them, and the oracle labels them. Every rank decides the same from the same
    gathered rows. With a journal (see `ActiveLearningDataModule`, on a disk that all ranks see) a loop that is killed
    and started again goes on from the last whole epoch and ends with the same history, and one whose labels are not
    there yet ends in good order and goes on when it is started again. Random states are seeded for each round and
    epoch, and after `run` they are as before.

    Args:
        trainer_factory: Gives a new trainer for each round; called with the number of the round, or nothing.
        module_factory: Gives the module, called likewise.
        datamodule: The pool.
        query: ``"random"``, ``"k_center"``, ``"entropy"``, ``"margin"``, ``"least_confidence"``, ``"badge"``,
            ``"equal"`` (pixels), ``"ppal"``, ``"box_sum"`` or ``"box_max"`` (boxes); a method or selector (with the
            labelled items as ``initial``); or a function that gets a `QueryContext` and returns ids.
        oracle: Who answers rounds from 1 on; None is the datamodule's.
        rounds: Rounds in all, round 0 included.
        budget: How much each round from 1 on may label: one number, or one for each of them.
        reset: What a round starts from: ``"weights"``, new ones; ``"none"``, those of the round before; or the path of
            a checkpoint.
        seed: Of every random choice; None is the datamodule's.
        monitor: Name of the logged metric that the report shows as ``metric``.
        folder: Where checkpoints of rounds are kept; None is ``rounds`` beside the journal.
        head: Name of the layer whose input are features of `k_center` and `badge`; None finds it.
        forward: Called with the module and a batch of images instead of the module.
        query_batch_size: Rows of every forward pass of a query.
        detect: Called with the module (in evaluation mode) and a list of items, gives their `Detections`; for the
            queries on boxes.

    Attributes:
        reports: One line for each round: round, images, units, units by class, cost, metric, metrics.

    Raises:
        ValueError: Rounds, budgets, a query or a reset that are not accepted.
        TypeError: A datamodule or oracle that is none.
    """

    def __init__(
        self,
        trainer_factory: Callable[..., Trainer],
        module_factory: Callable[..., LightningModule],
        datamodule: ActiveLearningDataModule,
        query: Any = "entropy",
        oracle: Oracle | None = None,
        rounds: int = 5,
        budget: int | Sequence[int] = 100,
        reset: str | os.PathLike[str] = "weights",
        *,
        seed: int | None = None,
        monitor: str | None = None,
        folder: str | os.PathLike[str] | None = None,
        head: str | None = None,
        forward: Callable[[Any, Tensor], Any] | None = None,
        query_batch_size: int = 64,
        detect: Detect | None = None,
    ) -> None:
        for name, factory in (("trainer_factory", trainer_factory), ("module_factory", module_factory)):
            if not callable(factory):
                msg = f"{name} is a {type(factory).__name__}: give a function that makes a new one for each round."
                raise TypeError(msg)
        if not isinstance(datamodule, ActiveLearningDataModule):
            msg = (
                f"datamodule is a {type(datamodule).__name__}; an ActiveLearningDataModule is accepted: wrap it, "
                "ActiveLearningDataModule(datamodule, initial=...)."
            )
            raise TypeError(msg)
        if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
            msg = f"rounds={rounds!r} is not accepted: give a whole number of at least 1, round 0 included."
            raise ValueError(msg)
        self._budgets = _budgets(budget, rounds)
        check_request(None, "images", oracle)
        if oracle is None and datamodule.oracle is None and rounds > 1:
            msg = (
                "Nobody labels: give oracle=DatasetOracle(), ExportToLabel(...) or another, here or to the datamodule."
            )
            raise ValueError(msg)
        self.trainer_factory, self.module_factory = trainer_factory, module_factory
        self.datamodule = datamodule
        self.rounds = rounds
        self.seed = datamodule._seed if seed is None else seed
        self.query = resolve_query(query, self.seed)
        self.oracle = oracle
        self.reset = _check_reset(reset)
        self.monitor = monitor
        self.folder = None if folder is None else Path(folder)
        self.head, self.forward, self.detect = head, forward, detect
        self.query_batch_size = query_batch_size
        self.reports: list[dict[str, Any]] = []
        self.module: LightningModule | None = None
        self.trainer: Trainer | None = None
        self._last_trainers: list[Trainer] = []

    def run(self) -> list[dict[str, Any]]:
        """Train and ask until all rounds are done, nothing is left to label, or labels are awaited.

        Returns:
            `reports`, of rounds before a restart too.

        Raises:
            CoresetError: A trainer that was used before, or trains nothing; another rank failed.
        """
        self.datamodule._later_oracle = self.oracle
        self.datamodule._complete_only = True
        try:
            for round in range(self._first_open_round(), self.rounds):
                with seeded(self.seed, "round", round):
                    if not self._train(round):
                        break
                    if round + 1 < self.rounds and not self._ask(round + 1):
                        break
        except AwaitingLabelsError as error:
            rank_zero_info(str(error))
        finally:
            self.datamodule._complete_only = False
        self.reports = self._reported()
        return self.reports

    def _events(self) -> list[dict[str, Any]]:
        """The history, before the pool is opened too."""
        if self.datamodule.pool is not None:
            return self.datamodule.pool.history
        path = self.datamodule._journal_path
        return LabelledPool.opened(path).history if path is not None and path.exists() else []

    def _reported(self) -> list[dict[str, Any]]:
        found = {event[_DONE]["round"]: event[_DONE] for event in self._events() if _DONE in event}
        return [found[round] for round in sorted(found)]

    def _first_open_round(self) -> int:
        """The first round that is not trained, or whose successor was not asked for yet."""
        done = {report["round"] for report in self._reported()}
        asked = {event["round"] for event in self._events() if event["event"] == "request"}
        for round in range(self.rounds):
            if round not in done or (round + 1 < self.rounds and round + 1 not in asked):
                return round
        return self.rounds

    def _train(self, round: int) -> bool:
        trainer, module = self._fresh_trainer(round), _made(self.module_factory, round)
        self._start_weights(module, round)
        keeper = RoundKeeper(self.seed, round, partial(self._checkpoint, round))
        # Last, so that its checkpoint holds what all other callbacks did.
        trainer.callbacks.append(keeper)  # type: ignore[attr-defined]
        path = self._checkpoint(round)
        resumed = path is not None and _readable(path)
        trainer.fit(
            module,
            datamodule=self.datamodule,
            ckpt_path=str(path) if resumed else None,
            weights_only=True if resumed else None,
        )
        if trainer.interrupted:
            return False
        if not resumed and trainer.global_step == 0:
            msg = (
                f"Round {round} trained no batch: trainer_factory must give a trainer with max_epochs or max_steps of "
                "at least 1."
            )
            raise CoresetError(msg)
        self.trainer, self.module = trainer, module
        if round not in {report["round"] for report in self._reported()}:
            self._report(round, keeper.metrics)
        return True

    def _fresh_trainer(self, round: int) -> Trainer:
        trainer = _made(self.trainer_factory, round)
        if not isinstance(trainer, Trainer):
            msg = f"trainer_factory gave a {type(trainer).__name__}: give a lightning.pytorch.Trainer."
            raise TypeError(msg)
        used = any(trainer is last for last in self._last_trainers) or trainer.fit_loop.epoch_progress.total.ready > 0
        if used:
            msg = (
                "trainer_factory gave a trainer that was used before, whose second fit would train nothing: make a new "
                "one in each call."
            )
            raise CoresetError(msg)
        if leaves_nothing_behind(trainer):
            msg = (
                f"The strategy of trainer_factory ({type(trainer.strategy).__name__}, spawned) ends its processes "
                "after each fit, and with them the module that queries look at: give strategy='ddp'."
            )
            raise CoresetError(msg)
        self._last_trainers.append(trainer)
        return trainer

    def _start_weights(self, module: LightningModule, round: int) -> None:
        if self.reset == "weights":
            return
        if self.reset != "none":
            _load_weights(module, Path(self.reset))
        elif round > 0 and self.module is not None:
            module.load_state_dict(self.module.state_dict())
        elif round > 0:
            path = self._checkpoint(round - 1)
            if path is None or not path.exists():
                msg = (
                    f"reset='none' starts round {round} from the weights of round {round - 1}, and their checkpoint "
                    f"{path} is gone: put it back, or start with reset='weights'."
                )
                raise CoresetError(msg)
            _load_weights(module, path)

    def _checkpoint(self, round: int) -> Path | None:
        """Where a round is kept: a name that follows from its labels, so that no other run goes on from it."""
        journal = self.datamodule._journal_path
        if self.folder is None and journal is None:
            return None
        folder = self.folder or Path(journal).parent / "rounds"  # type: ignore[arg-type]
        told = [event for event in self._events() if event["event"] != "note" and event["round"] <= round]
        return folder / f"round_{round}_{stable_key(told, self.seed)[:12]}" / "last.ckpt"

    def _report(self, round: int, metrics: dict[str, float]) -> None:
        assert self.trainer is not None
        pool = self.datamodule.opened()
        oracle = self.datamodule._oracle_of(round)
        units = pool.units_spent
        report: dict[str, Any] = {
            "round": round,
            "images": pool.n_labelled,
            "units": units,
            "units_by_class": {kind: amount for kind, amount in pool.units_by_class.items() if kind},
            "cost": None if oracle is None else oracle.cost.total(pool.n_labelled, units),
            "metric": metrics.get(self.monitor) if self.monitor else None,
            "metrics": {name: value for name, value in sorted(metrics.items()) if value == value},
        }
        numbers = {"round": round, "images": report["images"], "units": units}
        numbers |= {} if report["cost"] is None else {"cost": report["cost"]}
        numbers |= {f"units_class_{kind}": amount for kind, amount in report["units_by_class"].items()}
        numbers |= report["metrics"]
        for logger in self.trainer.loggers:
            logger.log_metrics({f"active/{name}": float(value) for name, value in numbers.items()}, step=round)
            logger.save()
        pool.note(**{_DONE: report})
        shown = "" if report["metric"] is None else f", {self.monitor} {report['metric']:.4f}"
        rank_zero_info(f"Round {round}: {report['images']} images, {units:g} units{shown}.")

    def _ask(self, round: int) -> bool:
        """Choose and ask for a round; gives whether it can be trained."""
        datamodule, pool = self.datamodule, self.datamodule.opened()
        pool.synchronise(datamodule._reducer)
        if not datamodule.has_round(round):
            budget = self._budgets[round - 1]
            count = min(budget, len(pool.unlabelled))
            if count == 0:
                rank_zero_info(f"Nothing is left to label: the loop ends before round {round}.")
                return False
            context = QueryContext(
                datamodule=datamodule,
                module=self.module,
                trainer=self.trainer,
                count=count,
                round=round,
                seed=self.seed,
                head=self.head,
                forward=self.forward,
                batch_size=self.query_batch_size,
                detect=self.detect,
            )
            positions = run_query(self.query, context)
            datamodule.ask(positions, round=round, budget=budget, about=json.loads(json.dumps(self.query.told)))
        if pool.n_pending:
            rank_zero_info(f"{pool.n_pending} items of round {round} wait for their labels: take them in, start again.")
            return False
        return True


def _made(factory: Callable[..., Any], round: int) -> Any:
    """What a factory gives; those that ask for it are told the round."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except ValueError:
        parameters = ()  # type: ignore[assignment]
    required = [
        part
        for part in parameters
        if part.default is part.empty and part.kind in (part.POSITIONAL_ONLY, part.POSITIONAL_OR_KEYWORD)
    ]
    return factory(round) if required else factory()


def _budgets(budget: Any, rounds: int) -> list[int]:
    budgets = [budget] * (rounds - 1) if isinstance(budget, int) else list(budget)
    for value in budgets:
        check_request(value, "images", None)
    if isinstance(budget, int):
        check_request(budget, "images", None)
    elif len(budgets) != rounds - 1:
        msg = (
            f"budget holds {len(budgets)} numbers for {rounds} rounds: give one for each round after round 0 "
            f"({rounds - 1}), or one number for all."
        )
        raise ValueError(msg)
    return budgets


def _check_reset(reset: Any) -> str:
    if not isinstance(reset, str | os.PathLike):
        msg = f"reset is a {type(reset).__name__}: give 'weights', 'none' or the path of a checkpoint."
        raise TypeError(msg)
    text = os.fspath(reset)
    if text not in ("weights", "none") and not Path(text).is_file():
        msg = f"reset={text!r} is neither 'weights' nor 'none' nor a file: give one of them."
        raise ValueError(msg)
    return text


def _readable(path: Path) -> bool:
    """Whether there is a checkpoint that can be read safely; else the round starts anew, and ends the same."""
    if not path.exists():
        return False
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        cause = " ".join(str(error).split())[:200]
        warnings.warn(
            f"The checkpoint {path} cannot be read with weights_only ({cause}), and the round starts anew: keep "
            "objects out of the module's hyperparameters to go on inside a round.",
            stacklevel=3,
        )
        return False
    return True


def _load_weights(module: LightningModule, path: Path) -> None:
    """Weights of a Lightning checkpoint or of a plain state dict.

    Raises:
        CoresetError: Weights of another network.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        module.load_state_dict(found.get("state_dict", found))
    except Exception as error:
        cause = " ".join(str(error).split())[:200]
        msg = f"The weights in {path} do not fit {type(module).__name__} ({cause}): give a checkpoint of that module."
        raise CoresetError(msg) from error
