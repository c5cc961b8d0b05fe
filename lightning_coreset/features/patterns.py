"""Local patterns of images, as `FreeSel` compares them."""

from torch import Tensor, nn

from lightning_coreset.ops.local_patterns import local_patterns


class LocalPatterns(nn.Module):
    """A network's feature map as a few vectors an image: ``features=LocalPatterns(network)``.

    Args:
        network: Gives maps ``[B, C, H, W]``.
        patterns: Vectors of each image; `FreeSel` takes the same number.
        strongest: Vectors of each map that are looked at.

    Example:
        >>> import torch
        >>> LocalPatterns(nn.Conv2d(3, 8, 3), patterns=2)(torch.rand(4, 3, 9, 9)).shape
        torch.Size([4, 16])
    """

    def __init__(self, network: nn.Module, *, patterns: int = 5, strongest: int = 200) -> None:
        super().__init__()
        self.network = network
        self.patterns = patterns
        self.strongest = strongest

    def forward(self, images: Tensor) -> Tensor:
        """Patterns of a batch ``[B, patterns * C]``."""
        return local_patterns(self.network(images), patterns=self.patterns, strongest=self.strongest)
