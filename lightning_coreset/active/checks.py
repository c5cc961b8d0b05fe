"""Refusals of the room, each before any work starts, and the keys that tell one dataset from another."""

import os
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from lightning_coreset.active.asking import pending_requests
from lightning_coreset.active.oracles import UNITS, Oracle
from lightning_coreset.active.pool import LabelledPool
from lightning_coreset.data.fingerprint import item_keys, stable_key
from lightning_coreset.detection import ObjectProposer, Objects, resolve_proposer


def check_request(budget: int | None, budget_unit: str, oracle: Oracle | None) -> None:
    """Refuse budgets, units and oracles that are none.

    Raises:
        ValueError: A budget below 1, or an unknown unit.
        TypeError: Something that is no oracle.
    """
    if budget is not None and (isinstance(budget, bool) or not isinstance(budget, int) or budget < 1):
        msg = f"budget={budget!r} is not accepted: give a whole number of at least 1."
        raise ValueError(msg)
    if budget_unit not in UNITS:
        msg = f"budget_unit={budget_unit!r} is not accepted: give {', '.join(map(repr, UNITS))}."
        raise ValueError(msg)
    if oracle is not None and not isinstance(oracle, Oracle):
        msg = (
            f"oracle is a {type(oracle).__name__}; DatasetOracle(), CallableOracle(function), ExportToLabel(folder) or "
            "another Oracle is accepted: give one of them."
        )
        raise TypeError(msg)


def check_clusters(pseudo_classes: bool, num_classes: int | None) -> int | bool:
    """How many pseudo-classes are wanted: a number, True for the default number, False for none.

    Raises:
        ValueError: Fewer than two.
    """
    if num_classes is None:
        return bool(pseudo_classes)
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 2:
        msg = f"num_classes={num_classes!r} is not accepted: give a whole number of clusters, at least 2."
        raise ValueError(msg)
    return num_classes


def journal_path(journal: Any, oracle: Any) -> Path | None:
    """Where a journal lies: ``"auto"`` is beside the files of an oracle that has some."""
    if journal is None:
        return None
    if journal == "auto":
        folder = getattr(oracle, "folder", None)
        return None if folder is None else Path(folder, "journal.jsonl")
    if not isinstance(journal, str | os.PathLike):
        msg = f"journal is a {type(journal).__name__}: give the path of a file, 'auto' or None."
        raise TypeError(msg)
    return Path(journal)


def validation_key(loaders: Any) -> str | None:
    """A key of the items that are validated on; None where they cannot be told.

    Args:
        loaders: What ``val_dataloader`` gave; None where there is none.
    """
    if isinstance(loaders, dict):
        loaders = list(loaders.values())
    parts = loaders if isinstance(loaders, list | tuple) else [loaders]
    keys = []
    for loader in parts:
        if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
            return None
        size, items = item_keys(loader.dataset) if len(loader.dataset) else (0, [])  # type: ignore[arg-type]
        keys.append([size, items])
    return stable_key(keys)


def other_data(word: str, where: str) -> str:
    """The message for data that are not those of round 0."""
    what = "train items" if word == "train" else "validation items"
    return (
        f"The source's {what} are not those of the {where}, and labels and figures belong to those: make the split in "
        "setup() with a fixed seed, or start with another journal."
    )


def nothing_labelled(pool: LabelledPool) -> str:
    """The message for a train loader over nothing."""
    if pool.n_pending:
        asked = pending_requests(pool)[-1]
        return (
            f"{pool.n_labelled} items are labelled, and {pool.n_pending} of round {asked['round']} wait for their "
            "labels: take the answers in (lightning-coreset label ingest, or oracle.ingest), then start again."
        )
    return (
        "Nothing is labelled yet, so there is nothing to train on: give initial= and oracle= to "
        "ActiveLearningDataModule, an ActiveLearningWarmStart callback, or label items with dm.pool.label."
    )


def as_proposer(proposer: Any) -> ObjectProposer | Objects | None:
    """What tells of the images' objects: a proposer, or a table of the whole pool.

    Raises:
        ValueError: A word that means nothing.
        TypeError: Another type.
    """
    return proposer if proposer is None or isinstance(proposer, Objects) else resolve_proposer(proposer)
