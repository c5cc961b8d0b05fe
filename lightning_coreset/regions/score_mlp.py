"""ScoreMLP: three layers that learn the analytic importance from embeddings, so that noise need not be encoded."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from lightning_coreset.ops.random import seeded_generator
from lightning_coreset.regions.adapters.adapter import Adapter
from lightning_coreset.regions.config import HCSConfig
from lightning_coreset.regions.encoding import Encoder
from lightning_coreset.regions.refine import refine
from lightning_coreset.regions.views import as_scenes, as_size

_ROWS = 256


class ScoreMLP(nn.Module):
    """Importance of a region from its unit embedding, distilled from unlabelled scenes.

    It takes the place of the four terms as ``HCSConfig(scorer=...)`` and saves the perturbed pass of Eq. 5. It does not
    see neighbours, so it follows the utility well and the synergy less.

    Args:
        width: Of the embeddings.
        hidden: Of the two layers between.
        seed: Of the weights it starts from.

    Example:
        >>> ScoreMLP(8)(torch.zeros(3, 8)).shape
        torch.Size([3])
    """

    def __init__(self, width: int, hidden: int = 64, seed: int = 0) -> None:
        super().__init__()
        self.width, self.seed = width, seed
        # Not their own beginning, which would draw from the global random state.
        first, second, last = (
            skip_init(nn.Linear, *sides) for sides in ((width, hidden), (hidden, hidden), (hidden, 1))
        )
        self.layers = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)
        generator = seeded_generator(seed, "score")
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                bound = layer.in_features**-0.5
                for values in (layer.weight, layer.bias):
                    values.data.uniform_(-bound, bound, generator=generator)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Importance ``[n]`` of unit embeddings ``[n, width]``."""
        scores: Tensor = self.layers(embeddings).squeeze(1)
        return scores

    def distil(self, embeddings: Tensor, scores: Tensor, *, steps: int = 500, rate: float = 0.01) -> float:
        """Learn scores from embeddings by Adam, and return the share of their variance that is explained (R squared).

        Args:
            embeddings: ``[N, width]``.
            scores: ``[N]``.
            steps: Batches of 256 rows.
            rate: The paper's 0.1 is harmful.

        Raises:
            ValueError: Shapes that do not fit.
        """
        if embeddings.ndim != 2 or embeddings.shape[1] != self.width or scores.shape != embeddings.shape[:1]:
            msg = (
                f"embeddings {list(embeddings.shape)} and scores {list(scores.shape)} do not fit: give "
                f"[N, {self.width}] and [N]."
            )
            raise ValueError(msg)
        rows, wanted = embeddings.float(), scores.float()
        optimizer = torch.optim.Adam(self.parameters(), lr=rate, betas=(0.8, 0.999), weight_decay=1e-4)
        generator = seeded_generator(self.seed, "distil")
        # Callers may be inside of an evaluation, which switches gradients off.
        with torch.inference_mode(False), torch.enable_grad():
            rows, wanted = rows.clone(), wanted.clone()
            for _ in range(steps):
                drawn = torch.randint(len(rows), (min(_ROWS, len(rows)),), generator=generator).to(rows.device)
                loss = nn.functional.mse_loss(self(rows[drawn]), wanted[drawn])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        with torch.no_grad():
            spread = (wanted - wanted.mean()).square().mean().clamp(min=torch.finfo(torch.float32).tiny)
            return float(1 - (self(rows) - wanted).square().mean() / spread)


def distilled_score(
    images: Any, forward: Any, config: HCSConfig, *, input_size: int | Sequence[int] | None = None
) -> tuple[ScoreMLP, float]:
    """A `ScoreMLP` that learnt the importance which a configuration gives to regions of unlabelled scenes.

    Args:
        images: As in `refine`.
        forward: As in `refine`; it should give (embedding, logits).
        config: Whose terms are learnt.
        input_size: As in `refine`.

    Returns:
        The network, and the share of the scores' variance that it explains on these scenes.

    Raises:
        ValueError: As `refine`; scenes that are gated have no regions.
    """
    adapter = forward if isinstance(forward, Adapter) else Adapter(forward)
    if input_size is not None:
        adapter = adapter.replace(input_size=as_size(input_size))
    found = refine(images, adapter, replace(config, engine="crop", search="hierarchical"))
    if found.gated or adapter.input_size is None:
        msg = "The scenes are gated, so there are no regions to learn from: give scenes at native resolution."
        raise ValueError(msg)
    encode = Encoder(adapter.forward, as_scenes(images), adapter.input_size, config.chunk)
    rows, scores = [], []
    with torch.no_grad():
        for level in found.terms:
            there = ~level["score"].isnan()
            rows.append(encode(there.nonzero()[:, 0].cpu(), level["boxes"][there.cpu()]).embeddings)
            scores.append(level["score"][there])
    network = ScoreMLP(rows[0].shape[1], seed=config.seed).to(rows[0].device)
    return network, network.distil(torch.cat(rows), torch.cat(scores))
