"""How little a model knows of an image: pure functions of logits, the higher the more wanted."""

from typing import Literal

import torch
from torch import Tensor

Measure = Literal["entropy", "margin", "least_confidence"]
MEASURES: tuple[Measure, ...] = ("entropy", "margin", "least_confidence")


def probabilities(logits: Tensor) -> Tensor:
    """Softmax over dimension 1; a single logit is that of the second of two classes.

    Args:
        logits: ``[B, C, ...]``.

    Example:
        >>> probabilities(torch.zeros(1, 1)).tolist()
        [[0.5, 0.5]]
    """
    if logits.shape[1] == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
    # The last digits decide among items of which a network is sure.
    return logits.to(torch.float64).softmax(dim=1)


def model_uncertainty(logits: Tensor, measure: Measure = "entropy") -> Tensor:
    """Uncertainty of each image; with logits for each pixel, the mean over its pixels.

    ``entropy``: ``-sum_c p_c log p_c``; ``margin``: ``1 - (p_1 - p_2)`` of the two largest; ``least_confidence``:
    ``1 - p_1``.

    Args:
        logits: ``[B, C]`` or ``[B, C, ...]``.
        measure: Which of them.

    Returns:
        ``[B]``, float64. O(B C) time for each pixel.

    Example:
        >>> model_uncertainty(torch.tensor([[0.0, 0.0], [9.0, 0.0]]), "margin").round(decimals=2).tolist()
        [1.0, 0.0]
    """
    shares = probabilities(logits)
    if measure == "entropy":
        found: Tensor = -torch.special.xlogy(shares, shares).sum(dim=1)
    elif measure == "margin":
        first, second = shares.topk(2, dim=1).values.unbind(dim=1)
        found = 1 - (first - second)
    elif measure == "least_confidence":
        found = 1 - shares.amax(dim=1)
    else:
        msg = f"measure={measure!r} is not accepted: give {', '.join(map(repr, MEASURES))}."
        raise ValueError(msg)
    return found.flatten(1).mean(dim=1) if found.ndim > 1 else found


def flip_disagreement(logits: Tensor, flipped: Tensor) -> Tensor:
    """Share of pixels on which the prediction of an image and that of its mirror image, turned back, differ.

    Args:
        logits: ``[B, C, H, W]``.
        flipped: Logits of the images mirrored along their width ``[B, C, H, W]``.

    Returns:
        ``[B]``, in [0, 1].

    Example:
        >>> straight = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])
        >>> flip_disagreement(straight, straight.flip(-1)).item(), flip_disagreement(straight, straight).item()
        (0.0, 1.0)
    """
    one, other = logits, flipped.flip(-1)
    if logits.shape[1] == 1:
        different = (one > 0) != (other > 0)
        return different.flatten(1).double().mean(dim=1)
    return (one.argmax(dim=1) != other.argmax(dim=1)).flatten(1).double().mean(dim=1)


def equal_score(logits: Tensor, flipped: Tensor) -> Tensor:
    """EquAL: disagreement with the mirror image plus mean entropy, each in [0, 1].

    Args:
        logits: ``[B, C, H, W]``.
        flipped: Logits of the images mirrored along their width.

    Returns:
        ``[B]``. O(B C H W) time.

    References:
        Golestaneh and Kitani 2020 (importance of self-consistency in active learning for semantic segmentation).

    Example:
        >>> sure = torch.tensor([[[[50.0, 0.0]], [[0.0, 50.0]]]])
        >>> round(equal_score(sure, sure.flip(-1)).item(), 3)
        0.0
    """
    largest = torch.log(torch.tensor(float(max(2, logits.shape[1])), dtype=torch.float64, device=logits.device))
    return flip_disagreement(logits, flipped) + model_uncertainty(logits, "entropy") / largest
