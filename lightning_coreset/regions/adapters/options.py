"""Generative models that see: the likelihood of each class name as its logit."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lightning_coreset.regions.adapters.adapter import Adapter
from lightning_coreset.regions.views import as_size


def option_likelihood_adapter(
    likelihood: Callable[[Tensor, str], Tensor],
    options: Sequence[str],
    *,
    lengths: Sequence[int] | None = None,
    input_size: int | Sequence[int] | None = None,
) -> Adapter:
    """A model that says how likely an answer is, as a classifier among answers.

    Each crop costs a call for every option: bound it with ``HCSConfig(max_forwards=...)``, which counts them all.

    Args:
        likelihood: Crops ``[n, C, h, w]`` and an option to log-likelihoods of the whole option ``[n]``.
        options: The answers, such as class names.
        lengths: Tokens of each option; given, log-likelihoods are means over tokens, so long names are not unlikely.
        input_size: Of the model's image input.

    Raises:
        ValueError: No options, or lengths of another number.

    Example:
        >>> adapter = option_likelihood_adapter(lambda crops, option: crops.mean((1, 2, 3)) - len(option), ["a", "bee"])
        >>> adapter.forward(torch.zeros(1, 3, 4, 4)), adapter.cost
        (tensor([[-1., -3.]]), 2)
    """
    if not options or (lengths is not None and len(lengths) != len(options)):
        msg = f"{len(options)} options and lengths={lengths!r} are not accepted: give at least one, a length for each."
        raise ValueError(msg)
    shares = [1] * len(options) if lengths is None else list(lengths)

    def forward(crops: Tensor) -> Tensor:
        columns = [likelihood(crops, option) / share for option, share in zip(options, shares, strict=True)]
        return torch.stack(columns, dim=1)

    size = None if input_size is None else as_size(input_size)
    return Adapter(forward, input_size=size, cost=len(options))
