"""From what a user writes as ``proposer=`` to what finds objects."""

import difflib
from pathlib import Path
from typing import Any

from lightning_coreset.detection.ground_truth import GroundTruthProposer
from lightning_coreset.detection.precomputed import PrecomputedProposer
from lightning_coreset.detection.proposals import ObjectProposer
from lightning_coreset.detection.torchvision_proposer import TorchvisionProposer


def resolve_proposer(proposer: Any) -> ObjectProposer:
    """The proposer behind ``proposer=``; networks are built on first use only.

    Args:
        proposer: ``"ground_truth"``, ``"torchvision/<name>"``, a path to COCO results (``.json``), or a proposer.

    Raises:
        ValueError: A word that means nothing, a detector that is not known, a file that cannot be read.
        TypeError: Another type.

    Example:
        >>> type(resolve_proposer("ground_truth")).__name__
        'GroundTruthProposer'
    """
    if isinstance(proposer, str | Path):
        return _from_text(str(proposer))
    if isinstance(proposer, ObjectProposer):
        return proposer
    msg = (
        f"proposer is a {type(proposer).__name__}; 'ground_truth', 'torchvision/<name>', a path to COCO results or an "
        "object with class_names, fingerprint() and propose(images) is accepted: give one of them."
    )
    raise TypeError(msg)


def _from_text(text: str) -> ObjectProposer:
    if text == "ground_truth":
        return GroundTruthProposer()
    if Path(text).suffix == ".json":
        return PrecomputedProposer(text)
    library, _, name = text.partition("/")
    if library == "torchvision" and name:
        return TorchvisionProposer(name)
    words = ["ground_truth", "torchvision/<name>"]
    close = difflib.get_close_matches(text, words, n=1)
    hint = f"did you mean {close[0]!r}?" if close else "for COCO results give a path that ends in .json."
    msg = f"proposer={text!r} is not accepted; accepted are {', '.join(words)} and paths: {hint}"
    raise ValueError(msg)
