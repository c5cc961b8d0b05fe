"""The extractor protocol: what turns images into embeddings."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_coreset.data.views import as_tensor, image_of
from lightning_coreset.errors import CoresetError


class FeatureExtractor(ABC):
    """Turns batches of images into embeddings ``[B, d]``.

    A subclass says what it is (`key`, for the cache), how an image becomes a tensor (`transform`) and how a batch of
    tensors becomes rows (`extract`). One with a network returns it from `module`, so that the pass can move it to the
    trainer's device and put its modes back.

    Attributes:
        batch_size: Rows of every forward pass. It is the extractor's, not the loader's, because the last digits of
            an embedding may depend on it.
        resizes: Whether the transform decides the size of images. Where the source's batch-transfer hooks then give
            them another one, they are resized back: what normalises counts, what resizes does not.

    Example:
        >>> class MeanColor(FeatureExtractor):
        ...     key = "mean color, version 1"
        ...     def extract(self, inputs):
        ...         return inputs.mean(dim=(2, 3))
        >>> MeanColor().extract(torch.ones(2, 3, 4, 4)).shape
        torch.Size([2, 3])
    """

    batch_size: int = 64
    resizes: bool = False

    @property
    @abstractmethod
    def key(self) -> str:
        """What the embeddings depend on, beside the images; part of the cache's key."""

    @abstractmethod
    def extract(self, inputs: Tensor) -> Tensor:
        """Embeddings ``[B, d]`` of a batch of images ``[B, C, H, W]`` on the module's device."""

    def transform(self, normalize: bool = True) -> Callable[[Any], Any] | None:
        """The image transform, PIL image, array or tensor to tensor; None leaves the dataset's own.

        Args:
            normalize: False leaves out what the source's batch-transfer hooks do already (mean and deviation).
        """
        return scaled_tensor

    def inputs(self, batch: Any) -> Tensor:
        """The images of a batch; override it for batches of an unusual form."""
        found = image_of(batch, least_dimensions=2)
        if not isinstance(found, Tensor):
            msg = (
                f"The images of a batch are a {type(found).__name__}; a tensor is accepted: give a features_transform."
            )
            raise CoresetError(msg)
        return found

    def module(self) -> nn.Module | None:
        """The network behind it, built on first use; None where there is none."""
        return None


def scaled_tensor(image: Any) -> Tensor:
    """An image as a float tensor ``[C, H, W]``, integers scaled to [0, 1].

    Example:
        >>> scaled_tensor(torch.tensor([[[255]]], dtype=torch.uint8)).item()
        1.0
    """
    tensor = as_tensor(image)
    if tensor.dtype == torch.uint8:
        return tensor.to(torch.float32) / 255
    return tensor.to(torch.float32)


def with_channels(inputs: Tensor, channels: int, name: str) -> Tensor:
    """Images with the channels a network expects; grey ones are repeated.

    Raises:
        CoresetError: Neither the expected number of channels nor one.
    """
    if inputs.ndim != 4:
        msg = (
            f"{name} got inputs of shape {list(inputs.shape)}; images [B, C, H, W] are accepted: give a "
            "features_transform."
        )
        raise CoresetError(msg)
    inputs = scaled_tensor(inputs)
    if inputs.shape[1] == channels:
        return inputs
    if inputs.shape[1] == 1:
        return inputs.expand(-1, channels, -1, -1)
    msg = (
        f"{name} takes images with {channels} channels and got {inputs.shape[1]}: choose some with "
        "features_transform=, "
        "or give a module of your own as features=."
    )
    raise CoresetError(msg)


def as_rows(output: Any, name: str) -> Tensor:
    """The output of a network as rows ``[B, d]``: maps are averaged, tokens too.

    Raises:
        CoresetError: Another output than a tensor of two to four dimensions.
    """
    if isinstance(output, Tensor):
        if output.ndim == 2:
            return output
        if output.ndim == 3:
            return output.mean(dim=1)
        if output.ndim == 4:
            return output.mean(dim=(2, 3))
    came = f"shape {list(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
    msg = (
        f"{name} gave {came}; [B, d], [B, tokens, d] or [B, C, H, W] is accepted: wrap it in a module that returns one "
        "of them, or in a FeatureExtractor."
    )
    raise CoresetError(msg)


def resized(image: Tensor, largest: int) -> Tensor:
    """An image ``[C, H, W]`` shrunk, antialiased, until no side is longer than ``largest``; small ones as they are."""
    longest = max(image.shape[-2:])
    if image.ndim < 3 or longest <= largest:
        return image
    size = [max(1, round(side * largest / longest)) for side in image.shape[-2:]]
    return torch.nn.functional.interpolate(image.unsqueeze(0), size, mode="bilinear", antialias=True).squeeze(0)
