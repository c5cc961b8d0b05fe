"""Training signals of a whole pool: one row an epoch, one column an item."""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from lightning_coreset.data.fingerprint import stable_key, tensor_key
from lightning_coreset.errors import CoresetError
from lightning_coreset.pool import check_labels

_FORMAT = "signals 1"


@dataclass(frozen=True, eq=False)
class Signals:
    """What training told of each item, epoch by epoch.

    An epoch in which an item was not seen (``limit_train_batches``, a smaller coreset) holds NaN there, ``correct`` -1.

    Attributes:
        labels: Class of each item ``[N]``, int64.
        logits: Logits of each item when it was last seen ``[N, C]``, float32; NaN for items never seen.
        losses: Cross-entropy ``[E, N]``, nats.
        margins: The label's logit less the largest other one ``[E, N]``.
        correct: 1 where the label had the largest logit, 0 where not, -1 where not seen ``[E, N]``, int8.
        errors: ``||softmax - onehot||`` ``[E, N]``, the EL2N score of the epoch.
        feature_norms: ``||[h, 1]||`` of the last layer's input ``[E, N]``; None where it was not recorded.
        embeddings: Input of the last layer when the item was last seen ``[N, h]``; None where not recorded.
        runs: Which training run each epoch belongs to ``[E]``, int64, ascending; several seeds are several runs.

    Example:
        >>> logits = torch.tensor([[[2.0, 0.0], [0.0, 1.0]], [[3.0, 0.0], [2.0, 1.0]]])
        >>> signals = Signals.from_logits(logits, torch.tensor([0, 1]))
        >>> len(signals), signals.margins.tolist(), signals.correct.tolist()
        (2, [[2.0, 1.0], [3.0, -1.0]], [[1, 1], [1, 0]])
    """

    labels: Tensor
    logits: Tensor
    losses: Tensor
    margins: Tensor
    correct: Tensor
    errors: Tensor
    feature_norms: Tensor | None = None
    embeddings: Tensor | None = None
    runs: Tensor | None = None

    def __len__(self) -> int:
        """Number of items ``N``."""
        return len(self.labels)

    @property
    def epochs(self) -> int:
        """Number of epochs ``E``, over all runs."""
        return len(self.losses)

    @classmethod
    def from_logits(cls, logits: Any, labels: Any, embeddings: Any | None = None) -> "Signals":
        """Signals from the logits of every epoch.

        Args:
            logits: ``[E, N, C]``, or ``[N, C]`` for one epoch; a row of NaN is an item that was not seen.
            labels: Class of each item ``[N]``, 0 to C-1.
            embeddings: Input of the last layer ``[N, h]``, or of every epoch ``[E, N, h]``.

        Raises:
            ValueError: Shapes that do not fit, labels that are no classes of the logits, infinite values, or a row that
                is NaN in part.
        """
        epochs = torch.as_tensor(logits).detach().cpu().to(torch.float32)
        epochs = epochs.unsqueeze(0) if epochs.ndim == 2 else epochs
        if epochs.ndim != 3 or 0 in epochs.shape or epochs.shape[2] < 2:
            msg = f"logits have shape {list(epochs.shape)}: give [E, N, C] (or [N, C]) with at least two classes."
            raise ValueError(msg)
        classes = check_labels(labels, epochs.shape[1])
        if int(classes.max()) >= epochs.shape[2]:
            item = int((classes >= epochs.shape[2]).nonzero()[0])
            msg = f"The label of item {item} is {int(classes[item])}, logits have {epochs.shape[2]} classes: mend one."
            raise ValueError(msg)
        _check_rows(epochs, "logits")
        columns = [per_sample(epoch, classes) for epoch in epochs]
        features = _check_embeddings(embeddings, epochs)
        return cls(
            labels=classes,
            logits=_last_seen(epochs),
            **{name: torch.stack([column[name] for column in columns]) for name in columns[0]},
            feature_norms=None if features is None else _with_one(features).expand(len(epochs), -1).clone(),
            embeddings=None if features is None else _last_seen(features),
            runs=torch.zeros(len(epochs), dtype=torch.int64),
        )

    @classmethod
    def load(cls, path: Any) -> "Signals":
        """Read what `save` wrote, or the folder that a `TrainingDynamics` recorded to.

        Raises:
            CoresetError: Nothing is there, it is damaged, or it is something else.
        """
        # Inside, because both modules make signals.
        from lightning_coreset.signals.files import SUFFIX, read_tensors
        from lightning_coreset.signals.recording import Recording

        if not str(path).endswith(SUFFIX):
            return Recording(path).signals()
        tensors, note = read_tensors(path)
        if note.get("format") != _FORMAT:
            msg = f"{path} holds no signals (format {note.get('format')!r}): give a file that Signals.save wrote."
            raise CoresetError(msg)
        return cls(**tensors)

    def save(self, path: Any) -> None:
        """Write one ``.safetensors`` file with a checksum, atomically.

        Raises:
            ValueError: Another suffix.
            OSError: The place cannot be written; what was there before is untouched.
        """
        from lightning_coreset.signals.files import SUFFIX, write_tensors

        if not str(path).endswith(SUFFIX):
            msg = f"path={str(path)!r} is not accepted: give one that ends in {SUFFIX}."
            raise ValueError(msg)
        write_tensors(path, self.tensors(), {"format": _FORMAT})

    def tensors(self) -> dict[str, Tensor]:
        """The columns that are there, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    @property
    def key(self) -> str:
        """A key of everything that is in them."""
        return stable_key({name: tensor_key(value) for name, value in self.tensors().items()})

    def suspects(self) -> Tensor:
        """Positions ``[N]``, most likely label error first; see `lightning_coreset.signals.scores.suspicion`."""
        from lightning_coreset.signals.scores import suspicion

        # Stable, so that ties go to the lowest index; items that no epoch saw come last.
        return suspicion(self).argsort(descending=True, stable=True)

    def followed_by(self, later: "Signals", new_run: bool = False) -> "Signals":
        """These epochs and then those of ``later``, of the same ``N`` items.

        Args:
            later: Signals of the same pool. Its logits count for the items it has seen.
            new_run: It is of another training run: its epochs get numbers of their own in ``runs``, and
                embeddings are the later one's, or none where it has not seen all items, because those of two networks
                cannot stand in one column.

        Raises:
            ValueError: Other labels, or another number of classes.
        """
        if not torch.equal(self.labels, later.labels) or self.logits.shape != later.logits.shape:
            msg = (
                f"Signals of {len(self)} and {len(later)} items with logits {list(self.logits.shape)} and "
                f"{list(later.logits.shape)} do not belong to one pool: give signals with the same labels and classes."
            )
            raise ValueError(msg)
        epochs: dict[str, Any] = {}
        for name in ("losses", "margins", "correct", "errors", "feature_norms"):
            first, second = getattr(self, name), getattr(later, name)
            epochs[name] = None if first is None or second is None else torch.cat([first, second])
        runs = [torch.zeros(one.epochs, dtype=torch.int64) if one.runs is None else one.runs for one in (self, later)]
        shift = int(runs[0].max()) + 1 - int(runs[1].min()) if new_run else int(runs[0].max()) - int(runs[1].min())
        embeddings = None
        if self.embeddings is not None and later.embeddings is not None and not new_run:
            embeddings = _last_seen(torch.stack([self.embeddings, later.embeddings]))
        elif new_run and bool(torch.isfinite(later.logits).all()):
            embeddings = later.embeddings
        return replace(
            self,
            logits=_last_seen(torch.stack([self.logits, later.logits])),
            **epochs,
            embeddings=embeddings,
            runs=torch.cat([runs[0], runs[1] + shift]),
        )

    def subset(self, positions: Tensor) -> "Signals":
        """The signals of some items, in the order given ``[n]``."""
        changed: dict[str, Tensor] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and field.name != "runs":
                by_epoch = field.name in ("losses", "margins", "correct", "errors", "feature_norms")
                changed[field.name] = value[:, positions] if by_epoch else value[positions]
        return replace(self, **changed)


def per_sample(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Loss, margin, correctness and error norm of each item, none of them a mean over a batch.

    Args:
        logits: ``[n, C]``; a row of NaN is an item that was not seen.
        labels: ``[n]``.

    Returns:
        ``losses``, ``margins``, ``errors`` float32 and ``correct`` int8, each ``[n]``. O(n C) time and memory.
    """
    logits = logits.to(torch.float32)
    own = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    others = logits.scatter(1, labels.unsqueeze(1), -torch.inf).amax(dim=1)
    margins = own - others
    seen = torch.isfinite(own)
    residual = logits.softmax(dim=1)
    residual.scatter_add_(1, labels.unsqueeze(1), -torch.ones_like(own).unsqueeze(1))
    # A label that ties with a lower class is not what argmax would have answered.
    lower = torch.arange(logits.shape[1], device=logits.device) < labels.unsqueeze(1)
    tied = ((logits == own.unsqueeze(1)) & lower).any(dim=1)
    correct = ((margins >= 0) & ~tied).to(torch.int8)
    return {
        "losses": torch.nn.functional.cross_entropy(logits, labels, reduction="none"),
        "margins": margins,
        "correct": torch.where(seen, correct, torch.full_like(correct, -1)),
        "errors": torch.linalg.vector_norm(residual, dim=1),
    }


def _check_rows(values: Tensor, name: str) -> None:
    missing = torch.isnan(values)
    partly = missing.any(dim=-1) & ~missing.all(dim=-1)
    wrong = partly | torch.isinf(values).any(dim=-1)
    if bool(wrong.any()):
        item = int(wrong.nonzero()[0][-1])
        msg = f"The {name} of item {item} hold infinite values or NaN in part: a whole row of NaN means not seen."
        raise ValueError(msg)


def _check_embeddings(embeddings: Any | None, logits: Tensor) -> Tensor | None:
    if embeddings is None:
        return None
    features = torch.as_tensor(embeddings).detach().cpu().to(torch.float32)
    features = features.unsqueeze(0) if features.ndim == 2 else features
    if features.ndim != 3 or features.shape[1] != logits.shape[1] or len(features) not in (1, len(logits)):
        msg = (
            f"embeddings have shape {list(features.shape)} for logits {list(logits.shape)}: give [N, h] or [E, N, h] "
            "with the same E and N."
        )
        raise ValueError(msg)
    _check_rows(features, "embeddings")
    return features


def _with_one(features: Tensor) -> Tensor:
    """``||[h, 1]||``: the bias sees an input of one ``[E, N]``."""
    return (features.square().sum(dim=2) + 1).sqrt()


def _last_seen(values: Tensor) -> Tensor:
    """The newest row of each item that is not NaN ``[N, C]``."""
    newest = values[-1].clone()
    for epoch in values[:-1].flip(0):
        missing = torch.isnan(newest).all(dim=1)
        newest[missing] = epoch[missing]
    return newest
