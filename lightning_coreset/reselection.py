"""Selecting again while training goes on: when, and from what was recorded so far."""

from collections.abc import Callable
from typing import Any

from lightning_coreset.compat import renew_train_loader
from lightning_coreset.errors import CoresetError
from lightning_coreset.recording import RecordedPool, RecordingCallback
from lightning_coreset.selectors.base import Selector
from lightning_coreset.signals import Signals
from lightning_coreset.signals.epochs import EpochColumns, whole_signals
from lightning_coreset.signals.sharing import from_all_ranks


class Reselection:
    """The schedule of a data module, and the signals of its own run.

    Epochs 0 to ``warmup - 1`` train on everything; then the first selection is made, and a new one after each
    ``every`` further epochs. Selections are made when the last batch of an epoch is done, on all ranks from the same
    gathered signals, before validation and any checkpoint of that moment.

    Args:
        every: Epochs between selections; 0 selects once.
        warmup: Epochs on everything before the first selection.

    Raises:
        ValueError: A number below 0.

    Example:
        >>> schedule = Reselection(every=2, warmup=3)
        >>> [epochs for epochs in range(10) if schedule.is_due(epochs)]
        [3, 5, 7, 9]
    """

    def __init__(self, every: int, warmup: int) -> None:
        for name, value in (("reselect_every_n_epochs", every), ("warmup_epochs", warmup)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                msg = f"{name}={value!r} is not accepted: give a whole number of epochs, 0 for none."
                raise ValueError(msg)
        self.every = every
        self.warmup = warmup
        self.recorded: Signals | None = None
        self._follower: _Follower | None = None
        self._trained = False

    @property
    def active(self) -> bool:
        """Whether anything is selected during training."""
        return self.every > 0 or self.warmup > 0

    def check(self, selector: Selector, signals: Any) -> None:
        """Refuse what cannot work, before any work starts.

        Raises:
            ValueError: A method without signals that shall select again, one with signals that gets none, or two
                sources of signals for one selection.
        """
        needs = "signals" in selector.needs
        name = "reselect_every_n_epochs" if self.every else "warmup_epochs"
        if self.active and not needs:
            msg = (
                f"{name}={self.every or self.warmup} with {selector.name!r} is not accepted: it does not look at "
                "training and would choose the same items again, give a method that needs signals, such as 'el2n'."
            )
            raise ValueError(msg)
        if self.warmup and signals is not None:
            msg = (
                f"warmup_epochs={self.warmup} beside signals= is not accepted: the first selection needs one source of "
                "signals, leave one of them out."
            )
            raise ValueError(msg)
        if needs and not self.warmup and signals is None:
            msg = (
                f"{selector.name!r} needs training signals and got none: give signals=Proxy(...) (a short training in "
                "setup), signals= with a recording of TrainingDynamics or its path, or warmup_epochs=."
            )
            raise ValueError(msg)

    def is_due(self, epochs: int) -> bool:
        """Whether to select when so many epochs are done."""
        since = epochs - self.warmup
        return epochs > 0 and (since == 0 or (since > 0 and self.every > 0 and since % self.every == 0))

    def begin(self, trainer: Any) -> bool:
        """A ``fit`` begins; gives whether it is a new run, which forgets the one before."""
        new = self._trained and (trainer is None or trainer.current_epoch == 0)
        if new:
            self.recorded, self._trained = None, False
        last = getattr(trainer, "max_epochs", None)
        smoke_test = trainer is not None and trainer.fast_dev_run
        if self.warmup and last is not None and 0 <= last <= self.warmup and not smoke_test:
            msg = (
                f"warmup_epochs={self.warmup} leaves none of max_epochs={last} for the coreset: give a smaller "
                "warmup or more epochs."
            )
            raise CoresetError(msg)
        return new

    def follow(self, trainer: Any, pool: Callable[[], RecordedPool], select: Callable[[Any, int], None]) -> None:
        """Record the run from now on.

        A `TrainingDynamics` among the trainer's callbacks says which part of the module gives logits.

        Args:
            trainer: In ``setup``.
            pool: Gives labels and positions of the current train loader.
            select: Called with the trainer and the number of epochs done, when a selection is due.
        """
        self.unfollow(trainer)
        told = [callback for callback in trainer.callbacks if isinstance(callback, RecordingCallback)]
        module, embeddings = (told[0].module, told[0].module is not None) if told else (None, False)
        self._follower = _Follower(self, pool, select, module, embeddings)
        # First, because a checkpoint of the same moment must hold the new selection.
        trainer.callbacks.insert(0, self._follower)

    def unfollow(self, trainer: Any) -> None:
        """Leave no trace on the trainer."""
        if self._follower is not None:
            self._follower.detach()
            if trainer is not None and self._follower in trainer.callbacks:
                trainer.callbacks.remove(self._follower)
            self._follower = None

    def restore(self, recorded: Signals) -> None:
        """Go on with the signals of a checkpoint."""
        self.recorded, self._trained = recorded, True

    def learn(self, parts: list[EpochColumns], pool: RecordedPool) -> None:
        """Add an epoch that all ranks have seen."""
        epoch = whole_signals(pool.labels, [parts])
        self.recorded = epoch if self.recorded is None else self.recorded.followed_by(epoch)
        self._trained = True


class _Follower(RecordingCallback):
    def __init__(
        self,
        schedule: Reselection,
        pool: Callable[[], RecordedPool],
        select: Callable[[Any, int], None],
        module: str | None,
        embeddings: bool,
    ) -> None:
        super().__init__(module, embeddings)
        self._schedule = schedule
        self._current_pool = pool
        self._select = select

    def pool(self, trainer: Any, loader: Any) -> RecordedPool:
        return self._current_pool()

    def keep(self, trainer: Any, epoch: int, seen: EpochColumns) -> None:
        self._schedule.learn(from_all_ranks(self.reducer(trainer), seen), self._current_pool())
        if self._schedule.is_due(epoch + 1):
            self._select(trainer, epoch + 1)
            renew_train_loader(trainer)
