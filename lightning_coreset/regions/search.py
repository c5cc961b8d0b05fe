"""The hierarchical search: all images of a level at once, from coarse cells to the cells inside the kept ones."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lightning_coreset.ops.random import seeded_generator
from lightning_coreset.ops.rows import accumulator_dtype
from lightning_coreset.regions import importance
from lightning_coreset.regions.config import HCSConfig
from lightning_coreset.regions.encoding import Encoded, Encoder
from lightning_coreset.regions.grid import cell_boxes, children, partners
from lightning_coreset.regions.levels import Level
from lightning_coreset.regions.losses import FLOOR, LITERAL_FLOOR, RegionSets, RowLoss, row_loss
from lightning_coreset.regions.selection import choose
from lightning_coreset.regions.views import Scenes

# Candidates whose pairs are scored at a time.
_SCORED = 4_096


@dataclass
class Kept:
    """Regions that a scene is reduced to.

    Attributes:
        boxes: ``[k, 4]``.
        scores: Importance ``[k]``.
        logits: As the model gave them ``[k, classes, ...]``.
        rows: Embeddings ``[k, d]``, or None.
    """

    boxes: Tensor
    scores: Tensor
    logits: Tensor
    rows: Tensor | None


@dataclass
class Whole:
    """The whole views of all scenes.

    Attributes:
        logits: As the model gave them ``[B, classes, ...]``.
        values: In the precision of sums; in segmentation the loss of each ``[B, 1]``.
    """

    logits: Tensor
    values: Tensor

    @classmethod
    def of(cls, encoded: Encoded, config: HCSConfig) -> "Whole":
        """From what the model said of the whole views."""
        return cls(encoded.logits, values_of(encoded.logits, config))


@dataclass
class Answer:
    """What an engine found.

    Attributes:
        kept: Of each scene.
        terms: Of each level, by name.
        depth: Levels of the deepest search.
        most: Regions that a scene may keep.
        forwards: Of each scene ``[B]``.
    """

    kept: list[Kept]
    forwards: Tensor
    terms: list[dict[str, Tensor]] = field(default_factory=list)
    depth: int = 0
    most: int = 0


def values_of(logits: Tensor, config: HCSConfig) -> Tensor:
    """What is averaged over the members of a set ``[n, classes]``; the mean loss of the pixels ``[n, 1]``."""
    if logits.ndim == 2:
        return logits.to(accumulator_dtype(logits.device))
    pixels = logits.movedim(1, -1).flatten(1, 2)
    # An image at a time: the precision of sums doubles what maps take.
    wide = accumulator_dtype(logits.device)
    losses = [_own_loss(config)(rows.unsqueeze(0).to(wide)).mean(dim=1) for rows in pixels]
    return torch.stack(losses)


def _own_loss(config: HCSConfig) -> RowLoss:
    empty = torch.zeros(1, 1)
    return row_loss(config.loss, empty, empty.unsqueeze(0))


def hierarchical(
    encode: Encoder,
    scenes: Scenes,
    levels: tuple[Level, ...],
    whole: Whole,
    config: HCSConfig,
    labels: Tensor | None,
) -> Answer:
    """Search all scenes, level by level.

    O(candidates) forwards; beside them O(m (m + d + classes)) a scene and level. Memory is the crops of a chunk, and
    ``candidates x (d + classes)`` numbers.

    Args:
        encode: The model.
        scenes: The scenes.
        levels: Coarse to fine.
        whole: Their whole views.
        config: The choices.
        labels: The truth ``[B]``, in analysis only.
    """
    nothing = Kept(torch.empty(0, 4, dtype=torch.int64), *(torch.empty(0),) * 2, None)
    answer = Answer([nothing] * scenes.count, torch.ones(scenes.count, dtype=torch.int64), depth=len(levels))
    # What another scene of the batch keeps must not show in a scene's answer.
    uneven = config.eps is not None or config.select == "greedy"
    answer.most = max(level.keep for level in levels) if uneven else levels[-1].keep
    cells = [torch.arange(levels[0].grid.cells)] * scenes.count
    height, width = scenes.size
    for number, level in enumerate(levels):
        boxes = cell_boxes(level.grid, height, width, config.overlap)
        counts = torch.tensor([len(one) for one in cells])
        if not bool(counts.any()):
            answer.depth = number
            break
        flat = torch.cat(cells)
        images = torch.repeat_interleave(torch.arange(scenes.count), counts)
        encoded = encode(images, boxes[flat])
        perturbed = None
        if config.w_ro and config.scorer is None:
            noise = Perturbation(config, number, flat)
            perturbed = encode(images, boxes[flat], noise.add).embeddings
        answer.forwards += counts * (1 if perturbed is None else 2)

        record: dict[str, Tensor] = {}
        starts = counts.cumsum(0) - counts
        for group in _groups(counts):
            places = starts[group].unsqueeze(1) + torch.arange(int(counts[group[0]]))
            scored = _Group(config, number, level, flat[places], boxes[flat[places]], scenes.size)
            kept, terms, stopped = scored.search(encoded, perturbed, places, whole, group, labels)
            _note(record, terms, group, scenes.count, int(counts.max()))
            kept = kept.cpu()
            for place, image in enumerate(group.tolist()):
                positions = kept[place][kept[place] >= 0]
                rows = places[place][positions]
                answer.kept[image] = Kept(
                    boxes[flat[rows]],
                    terms["score"][place].cpu()[positions],
                    encoded.logits[rows],
                    None if encoded.rows is None else encoded.rows[rows],
                )
                cells[image] = flat[rows][:0] if stopped[place] else flat[rows]
        for image in (counts == 0).nonzero().flatten().tolist():
            cells[image] = cells[image][:0]
        answer.terms.append(record)
        if number + 1 < len(levels):
            cells = [children(one, level.grid, levels[number + 1].grid) for one in cells]
    return answer


def _groups(counts: Tensor) -> Iterator[Tensor]:
    """Scenes with equally many candidates, some at a time: there is one group unless a search stopped early."""
    for count in counts[counts > 0].unique().tolist():
        yield from torch.nonzero(counts == count).flatten().split(max(1, _SCORED // count))


def _note(record: dict[str, Tensor], terms: dict[str, Tensor], group: Tensor, scenes: int, most: int) -> None:
    """Enter the terms of some scenes among those of all; NaN, -1 or False where a scene has fewer candidates."""
    for name, values in terms.items():
        if name not in record:
            fill: Any = torch.nan if values.is_floating_point() else (False if values.dtype == torch.bool else -1)
            shape = (scenes, most, *values.shape[2:]) if values.ndim > 1 else (scenes,)
            record[name] = torch.full(shape, fill, dtype=values.dtype, device=values.device)
        index = group.to(values.device)
        if values.ndim > 1:
            record[name][index, : values.shape[1]] = values
        else:
            record[name][index] = values


@dataclass(frozen=True)
class _Group:
    """Scenes of a level with equally many candidates."""

    config: HCSConfig
    number: int
    level: Level
    cells: Tensor
    boxes: Tensor
    size: tuple[int, int]

    def search(
        self,
        encoded: Encoded,
        perturbed: Tensor | None,
        places: Tensor,
        whole: Whole,
        group: Tensor,
        labels: Tensor | None,
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Kept positions ``[b, keep]``, terms, and which scenes stop here ``[b]``."""
        config = self.config
        logits = encoded.logits[places.flatten()]
        values = values_of(logits, config).unflatten(0, places.shape)
        device = values.device
        embeddings = encoded.embeddings[places.flatten()].unflatten(0, places.shape)
        seen = whole.values[group.to(device)]
        if encoded.segments:
            loss: RowLoss = _only_column
        else:
            loss = row_loss(config.loss, seen, values, None if labels is None else labels[group].to(device))
        sets = RegionSets(values, loss)
        single, lost = sets.each(), loss(seen).unsqueeze(1)
        floored = importance.floor_of(lost, encoded.logits.shape[1], FLOOR)
        sides = (self.boxes[..., 2:] - self.boxes[..., :2]).to(device, values.dtype)
        area = sides.prod(dim=-1) / (self.size[0] * self.size[1])

        terms = {"loss": single}
        again = None if perturbed is None else perturbed[places.flatten()].unflatten(0, places.shape)
        terms |= self.terms(sets, single, lost, floored, area, embeddings, again)
        terms["score"] = self.score(terms, embeddings)
        if self.number == 0 and config.saliency is not None:
            terms["score"] = terms["score"] * _saliency_of(config.saliency, self.boxes, group).to(terms["score"])
        allowed = lost.clamp(min=LITERAL_FLOOR) * (config.eps or 0)
        violating = None if config.eps is None else (lost - single).abs() > allowed
        kept = choose(config, self.level.keep, self.number, terms, sets, embeddings, area, lost, floored, violating)
        chosen = torch.zeros_like(single, dtype=torch.bool).scatter_reduce_(1, kept.clamp(min=0), kept >= 0, "amax")
        apart = (lost.squeeze(1) - sets.of(chosen)).abs()
        stopped = torch.zeros(len(kept), dtype=torch.bool) if config.eps is None else (apart > allowed.squeeze(1)).cpu()
        terms |= {"cells": self.cells, "boxes": self.boxes, "kept": chosen}
        terms["eps"] = apart / lost.squeeze(1).clamp(min=LITERAL_FLOOR)
        return kept, terms, stopped

    def terms(
        self,
        sets: RegionSets,
        single: Tensor,
        whole: Tensor,
        floored: Tensor,
        area: Tensor,
        embeddings: Tensor,
        perturbed: Tensor | None,
    ) -> dict[str, Tensor]:
        """Those of the four terms that count ``[b, m]``."""
        config = self.config
        found = {"ut": importance.utility(single, whole, floored, area, config.lam, config.utility)}
        if config.w_re:
            found["re"] = importance.representativeness(embeddings)
        if perturbed is not None:
            found["ro"] = importance.robustness(embeddings, perturbed)
        if config.w_sy:
            index, counts = partners(self.cells, self.level.grid)
            device = single.device
            found["sy"] = importance.synergy(sets, index.to(device), counts.to(device), floored, config.synergy)
        if config.normalize == "minmax":
            found = {name: importance.minmax(term) for name, term in found.items()}
        return found

    def score(self, terms: dict[str, Tensor], embeddings: Tensor) -> Tensor:
        """S = S_ut + w_re S_re + w_ro S_ro + w_sy S_sy (Eq. 7), or what the scorer says."""
        config = self.config
        if config.scorer is not None:
            scored = config.scorer(embeddings.flatten(0, 1).float())
            return scored.reshape(embeddings.shape[:2]).to(embeddings.dtype)
        score = terms["ut"]
        for name, weight in (("re", config.w_re), ("ro", config.w_ro), ("sy", config.w_sy)):
            if name in terms:
                score = score + weight * terms[name]
        return score


def _only_column(values: Tensor) -> Tensor:
    return values.squeeze(-1)


def _saliency_of(saliency: Any, boxes: Tensor, group: Tensor) -> Tensor:
    """Mean of a map over each cell ``[b, m]``."""
    maps = torch.as_tensor(saliency)
    rows = []
    for image, cells in zip(group.tolist(), boxes.tolist(), strict=True):
        one = maps[image] if maps.ndim == 3 else maps
        rows.append([float(one[y0:y1, x0:x1].double().mean()) for x0, y0, x1, y1 in cells])
    return torch.tensor(rows, dtype=torch.float64)


class Perturbation:
    """Noise and a factor for each channel; the same for a cell in every scene, so no batch changes it.

    Args:
        config: Deviations and seed.
        number: Of the level.
        cells: Of each region ``[n]``.
    """

    def __init__(self, config: HCSConfig, number: int, cells: Tensor) -> None:
        self.config, self.number, self.cells = config, number, cells
        self._drawn: dict[int, tuple[Tensor, Tensor]] = {}

    def add(self, crops: Tensor, part: slice) -> Tensor:
        """Perturbed crops."""
        drawn = [self._draw(cell, tuple(crops.shape[1:])) for cell in self.cells[part].tolist()]
        noise = torch.stack([one for one, _ in drawn]).to(crops)
        factor = torch.stack([one for _, one in drawn]).to(crops)
        return crops * factor + noise

    def _draw(self, cell: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        if cell not in self._drawn:
            if len(self._drawn) >= self.config.chunk:
                self._drawn.clear()
            generator = seeded_generator(self.config.seed, "perturbation", self.number, cell)
            noise = torch.randn(shape, generator=generator) * self.config.noise
            factor = 1 + torch.randn(shape[0], 1, 1, generator=generator) * self.config.gain
            self._drawn[cell] = noise, factor
        return self._drawn[cell]
