"""Paste-back: regions that were looked at again are blended into the whole view's map, the rest of it stays."""

import torch
from torch import Tensor

from lightning_coreset.regions.search import Kept
from lightning_coreset.regions.views import resized


def paste_back(whole: Tensor, kept: Kept, alpha: float) -> Tensor:
    """A scene's map ``[classes, H, W]`` with its kept regions blended in, in probability.

    Pixels outside of them keep their logits bit for bit; inside are logarithms of probabilities. Where regions
    overlap the later one is blended over the earlier.

    Args:
        whole: Logits of the whole view at the scene's size ``[classes, H, W]``.
        kept: Regions with logits ``[k, classes, h, w]``.
        alpha: Share of the regions.

    Returns:
        ``[classes, H, W]``.
    """
    pasted = whole.clone()
    for (x0, y0, x1, y1), logits in zip(kept.boxes.tolist(), kept.logits, strict=True):
        own = resized(logits.unsqueeze(0), (y1 - y0, x1 - x0)).squeeze(0)
        under = pasted[:, y0:y1, x0:x1].float().softmax(dim=0)
        blended = torch.lerp(under, own.float().softmax(dim=0), alpha)
        pasted[:, y0:y1, x0:x1] = blended.clamp(min=torch.finfo(torch.float32).tiny).log().to(pasted.dtype)
    return pasted
