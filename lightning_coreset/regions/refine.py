"""refine: scenes in, an answer and where it was found out. A pure function; the model is never changed."""

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_coreset.regions.adapters.adapter import Adapter, evaluating
from lightning_coreset.regions.adapters.fidelity import LEAST_FIDELITY
from lightning_coreset.regions.config import HCSConfig
from lightning_coreset.regions.encoding import Encoder, parse
from lightning_coreset.regions.fusion import fuse_regions, weights_of
from lightning_coreset.regions.lattice import lattice
from lightning_coreset.regions.levels import forwards_of, is_gated, plan_levels, zoom_of
from lightning_coreset.regions.refinement import Refinement, covered_share
from lightning_coreset.regions.scan import scan
from lightning_coreset.regions.search import Answer, Kept, Whole, hierarchical
from lightning_coreset.regions.segmentation import paste_back
from lightning_coreset.regions.views import Scenes, TensorScenes, as_scenes, as_size, resized, whole_boxes

#: What ``search="auto"`` is where objects need not sit on a grid; see "HCS" in benchmarks/RESULTS.md.
DEFAULT_SEARCH = "lattice"
# Choices that only the hierarchical search knows.
_OF_LEVELS = (
    *("levels", "exhaustive", "max_forwards", "select", "eps", "utility", "synergy", "overlap", "scorer"),
    *("w_re", "normalize"),
)
#: Above this zoom an even spread of so few crops sees next to nothing of a scene.
MOST_ZOOM_OF_A_LATTICE = 12.0
#: Temperatures, in nats, of the weights of windows by the energy of their logits and by their loss.
ENERGY_TAU, LOSS_TAU = 4.0, 0.25


def refine(
    images: Any,
    forward: Callable[[Tensor], Any],
    config: HCSConfig | None = None,
    *,
    features: Callable[[Tensor], Tensor] | None = None,
    head: Callable[[Tensor], Tensor] | None = None,
    input_size: int | Sequence[int] | None = None,
    labels: Tensor | None = None,
) -> Refinement:
    """Look at a few regions of wide scenes with a frozen model and fuse what it says of them.

    Scenes whose zoom (scene side / input side) is below ``config.min_zoom`` are given to the model as they are. There
    is no guarantee: where one object fills the frame regions are harmful, and no rule without labels tells.

    Args:
        images: ``[B, C, H, W]`` at native resolution, normalised as the model takes them; or what `open_scene` returns.
        forward: Crops ``[n, C, h, w]`` to logits, (embedding, logits), or logits of each pixel; or an `Adapter`.
        config: The choices; None is the defaults.
        features: Scenes to a map ``[B, d, h, w]``, for ``scan`` and ``dense``; with ``head``.
        head: Pooled rows ``[n, d]`` to logits.
        input_size: Side of the model's input, or (height, width); an adapter may know it.
        labels: The truth ``[B]``: for `Refinement.accuracy`, and in the loss only with ``config.analysis``.

    Returns:
        The same, up to rounding, for any chunk and any split into batches.

    Raises:
        ValueError: Input, output or choices that are not accepted, with what is.

    Example:
        >>> scenes = torch.zeros(1, 3, 64, 64)
        >>> scenes[:, 1, 40:56, 8:24] = 9  # a green thing
        >>> found = refine(scenes, lambda crops: crops.mean((2, 3)), HCSConfig(search="hierarchical"), input_size=16)
        >>> found.logits.argmax().item(), found.n_forwards, found.depth
        (1, 17, 1)
    """
    adapter = _adapter_of(forward, features, head, input_size)
    return refine_with(images, adapter, HCSConfig() if config is None else config, labels=labels, warn=_warn)


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=5)


def refine_with(
    images: Any, adapter: Adapter, config: HCSConfig, *, labels: Tensor | None = None, warn: Callable[[str], object]
) -> Refinement:
    """`refine` with a model that is adapted already, and a way of warning."""
    scenes = as_scenes(images)
    size = adapter.input_size
    if size is None:
        msg = "input_size is not known: give the side of the model's input, or an adapter that knows it."
        raise ValueError(msg)
    truth = _checked_labels(labels, scenes, config)
    zoom = zoom_of(scenes.size, size)
    with torch.no_grad(), _modes(adapter):
        if is_gated(zoom, config):
            return _gated(scenes, adapter, size, zoom, truth, warn)
        return _Run(scenes, adapter, size, config, truth, zoom, warn).refine()


def _adapter_of(forward: Any, features: Any, head: Any, input_size: Any) -> Adapter:
    adapter = forward if isinstance(forward, Adapter) else Adapter(forward)
    if not callable(adapter.forward):
        msg = f"forward is a {type(forward).__name__}: give a callable that turns crops into logits."
        raise ValueError(msg)
    given = {"features": features, "head": head}
    given["input_size"] = None if input_size is None else as_size(input_size)
    return adapter.replace(**{name: value for name, value in given.items() if value is not None})


def _modes(adapter: Adapter) -> AbstractContextManager[Any]:
    module = adapter.module if adapter.module is not None else adapter.forward
    return evaluating(module) if isinstance(module, nn.Module) else nullcontext()


def _checked_labels(labels: Any, scenes: Scenes, config: HCSConfig) -> Tensor | None:
    if labels is None:
        if config.analysis:
            msg = "analysis=True needs labels=: the loss is the cross-entropy with the truth."
            raise ValueError(msg)
        return None
    truth = torch.as_tensor(labels)
    if truth.ndim != 1 or len(truth) != scenes.count or truth.is_floating_point():
        msg = f"labels are {truth.dtype} {list(truth.shape)} for {scenes.count} scenes: give one class number for each."
        raise ValueError(msg)
    return truth


def _gated(
    scenes: Scenes,
    adapter: Adapter,
    size: tuple[int, int],
    zoom: float,
    labels: Tensor | None,
    warn: Callable[[str], object],
) -> Refinement:
    if zoom <= 1:
        warn(
            f"Scenes of {scenes.size[0]} x {scenes.size[1]} pixels are no larger than the model's input of {size[0]} x "
            f"{size[1]}: there is nothing to refine; give images at native resolution, not resized."
        )
    if isinstance(scenes, TensorScenes):
        images = scenes.images
    else:
        images = scenes.crops(torch.arange(scenes.count), whole_boxes(scenes), scenes.size)
    embedding, logits = parse(adapter.forward(images), scenes.count)
    return Refinement(
        logits,
        logits,
        boxes=torch.zeros(scenes.count, 0, 4, dtype=torch.int64),
        weights=torch.zeros(scenes.count, 0),
        area=torch.ones(scenes.count),
        depth=0,
        n_forwards=adapter.cost,
        n_pixels=adapter.cost * scenes.size[0] * scenes.size[1] / (size[0] * size[1]),
        n_calls=1,
        gated=True,
        size=scenes.size,
        engine="gated",
        labels=labels,
        embedding=embedding,
    )


class _Run:
    """One refinement that is not gated."""

    def __init__(
        self,
        scenes: Scenes,
        adapter: Adapter,
        size: tuple[int, int],
        config: HCSConfig,
        labels: Tensor | None,
        zoom: float,
        warn: Callable[[str], object],
    ) -> None:
        self.scenes, self.adapter, self.size, self.labels, self.zoom = scenes, adapter, size, labels, zoom
        self.warn = warn
        self.config = self._with_saliency(config)
        self.truth = labels if config.analysis else None
        self.encode = Encoder(adapter.forward, scenes, size, config.chunk)
        self.engine = self._engine()

    def refine(self) -> Refinement:
        """Run the engine, fuse, count."""
        if self.engine in ("scan", "dense"):
            return self._from_map()
        # Wrong levels are told before the model works.
        most = None if self.config.max_forwards is None else max(2, self.config.max_forwards // self.adapter.cost)
        config = self.config if most is None else replace(self.config, max_forwards=most)
        levels = plan_levels(self.zoom, self.scenes.size, config, self.warn)
        seen = self.encode(torch.arange(self.scenes.count), whole_boxes(self.scenes))
        if seen.segments and (self.truth is not None or config.loss in ("pseudo", "vote") or config.fuse == "feature"):
            msg = (
                f"analysis, loss='pseudo' or 'vote' and fuse='feature' are of classification; the model gave a map "
                f"{list(seen.logits.shape)}: give loss='entropy', another fuse and no analysis."
            )
            raise ValueError(msg)
        if self.truth is not None and int(self.truth.max()) >= seen.logits.shape[1]:
            msg = f"labels hold {int(self.truth.max())}, but the model knows {seen.logits.shape[1]} classes."
            raise ValueError(msg)
        whole = Whole.of(seen, config)
        if self._spreads(seen.segments):
            answer = lattice(self.encode, self.scenes, forwards_of(levels) - 1, whole, config, self.truth)
        else:
            answer = hierarchical(self.encode, self.scenes, levels, whole, config, self.truth)
        if seen.segments:
            return self._pasted(answer, whole)
        fused = [fuse_regions(kept, config.fuse, config.tau, self.adapter.head) for kept in answer.kept]
        logits = torch.stack([one for one, _ in fused])
        if self.engine == "mask":
            logits = self._masked(answer.kept)
            answer.forwards += 1
        return self._result(logits, whole.logits, [weights for _, weights in fused], answer)

    def _from_map(self) -> Refinement:
        if self.adapter.features is None or self.adapter.head is None:
            msg = (
                f"engine={self.engine!r} needs a feature map: give features= and head=, an adapter that has them "
                "(from_module), or engine='crop'."
            )
            raise ValueError(msg)
        if not isinstance(self.scenes, TensorScenes):
            msg = f"engine={self.engine!r} needs scenes in memory: give engine='crop' for what open_scene() returns."
            raise ValueError(msg)
        again = self.engine == "scan"
        config = self.config
        answer, whole = scan(
            self.encode, self.scenes, self.adapter.features, self.adapter.head, config, self.truth, again
        )
        weighed = config.fuse in ("softmax", "feature")
        energetic = again and weighed and config.scan_weight == "energy"
        tau = LOSS_TAU if config.scan_tau is None or energetic else config.scan_tau
        energy_tau = (config.scan_tau or ENERGY_TAU) if energetic else None
        fuse = "prob" if weighed else config.fuse
        fused = [fuse_regions(kept, fuse, tau, self.adapter.head, energy_tau) for kept in answer.kept]
        native = self.scenes.size[0] * self.scenes.size[1] / (self.size[0] * self.size[1])
        pixels = native + int(answer.forwards.max()) - 1
        logits = torch.stack([one for one, _ in fused])
        return self._result(logits, whole.logits, [weights for _, weights in fused], answer, pixels)

    def _masked(self, kept: list[Kept]) -> Tensor:
        """Logits of the scenes with everything but the kept regions black."""
        parts = []
        for image, one in enumerate(kept):
            box = torch.tensor([[0, 0, self.scenes.size[1], self.scenes.size[0]]])
            view = self.scenes.crops(torch.tensor([image]), box, self.scenes.size)
            black = torch.zeros_like(view)
            for x0, y0, x1, y1 in one.boxes.tolist():
                black[..., y0:y1, x0:x1] = view[..., y0:y1, x0:x1]
            parts.append(parse(self.adapter.forward(resized(black, self.size)), 1)[1])
            self.encode.calls += 1
        return torch.cat(parts)

    def _pasted(self, answer: Answer, whole: Whole) -> Refinement:
        full = resized(whole.logits, self.scenes.size)
        maps = torch.stack(
            [paste_back(one, kept, self.config.alpha) for one, kept in zip(full, answer.kept, strict=True)]
        )
        weights = [weights_of(kept.scores, "mean", self.config.tau) for kept in answer.kept]
        return self._result(maps, full, weights, answer)

    def _result(
        self, logits: Tensor, whole: Tensor, weights: list[Tensor], answer: Answer, pixels: float | None = None
    ) -> Refinement:
        boxes = torch.zeros(self.scenes.count, answer.most, 4, dtype=torch.int64)
        shares = torch.zeros(self.scenes.count, answer.most)
        for image, (kept, own) in enumerate(zip(answer.kept, weights, strict=True)):
            boxes[image, : len(kept.boxes)] = kept.boxes
            shares[image, : len(own)] = own
        fused = None
        if all(kept.rows is not None for kept in answer.kept):
            fused = torch.stack([_weighed_rows(kept, own) for kept, own in zip(answer.kept, weights, strict=True)])
        forwards = int(answer.forwards.max()) * self.adapter.cost
        return Refinement(
            logits,
            whole,
            boxes,
            shares,
            area=covered_share(boxes, self.scenes.size),
            depth=answer.depth,
            n_forwards=forwards,
            n_pixels=float(forwards if pixels is None else pixels),
            n_calls=self.encode.calls * self.adapter.cost,
            gated=False,
            size=self.scenes.size,
            engine=self.engine,
            terms=answer.terms,
            analysis=self.truth is not None,
            labels=self.labels,
            embedding=fused,
        )

    def _engine(self) -> str:
        if self.config.engine != "auto":
            return self.config.engine
        mapped = self.adapter.features is not None and self.adapter.head is not None
        fidelity = self.adapter.fidelity
        mapped = mapped and (fidelity is None or fidelity >= LEAST_FIDELITY)
        in_memory = isinstance(self.scenes, TensorScenes)
        crops = self._asks_for_levels() or self.config.w_ro
        return "scan" if mapped and in_memory and not crops else "crop"

    def _asks_for_levels(self) -> bool:
        """Whether a choice speaks of the hierarchical search."""
        plain = HCSConfig()
        asked = any(getattr(self.config, name) != getattr(plain, name) for name in _OF_LEVELS)
        return asked or self.config.search == "hierarchical"

    def _spreads(self, segments: bool) -> bool:
        if self.config.search != "auto":
            return self.config.search == "lattice" and not segments and self.engine == "crop"
        wide = self.zoom >= MOST_ZOOM_OF_A_LATTICE
        return DEFAULT_SEARCH == "lattice" and not (
            segments or wide or self.engine == "mask" or self.config.saliency is not None or self._asks_for_levels()
        )

    def _with_saliency(self, config: HCSConfig) -> HCSConfig:
        """A saliency that was computed and has the size of the scenes."""
        if config.saliency is None:
            return config
        saliency = config.saliency
        if callable(saliency):
            if not isinstance(self.scenes, TensorScenes):
                msg = "saliency= is a callable, but the scenes are not in memory: give an array."
                raise ValueError(msg)
            saliency = saliency(self.scenes.images)
        maps = torch.as_tensor(saliency)
        if maps.shape not in (self.scenes.size, (self.scenes.count, *self.scenes.size)) or bool((maps < 0).any()):
            msg = (
                f"saliency has shape {list(maps.shape)} or negative values: give [H, W] or [B, H, W] of "
                f"{list(self.scenes.size)}, zero or more."
            )
            raise ValueError(msg)
        return replace(config, saliency=maps)


def _weighed_rows(kept: Kept, weights: Tensor) -> Tensor:
    """Mean embedding of the regions that were encoded, which come first ``[d]``."""
    assert kept.rows is not None
    own = weights[: len(kept.rows)]
    own = own / own.sum().clamp(min=torch.finfo(own.dtype).tiny)
    return (own.unsqueeze(1) * kept.rows.to(own.dtype)).sum(dim=0).to(kept.rows.dtype)
