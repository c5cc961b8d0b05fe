"""Crops of the input's size spread evenly over a scene: for objects that do not sit on a grid."""

import torch
from torch import Tensor

from lightning_coreset.regions import importance
from lightning_coreset.regions.config import HCSConfig
from lightning_coreset.regions.encoding import Encoder
from lightning_coreset.regions.losses import FLOOR, row_loss
from lightning_coreset.regions.search import Answer, Kept, Perturbation, Whole, values_of
from lightning_coreset.regions.selection import order, sureness
from lightning_coreset.regions.views import Scenes

# The plastic number: its powers spread points in two dimensions most evenly (Roberts 2018).
_PLASTIC = 1.324717957244746


def lattice_boxes(count: int, size: tuple[int, int], side: tuple[int, int]) -> Tensor:
    """Boxes of one size by the R2 sequence ``[count, 4]``: the first ones are those of a shorter sequence.

    Args:
        count: How many.
        size: Height and width of the scene.
        side: Height and width of a box, at most the scene's.

    Example:
        >>> lattice_boxes(2, (64, 64), (32, 32)).tolist()
        [[16, 16, 48, 48], [8, 2, 40, 34]]
    """
    steps = torch.arange(count, dtype=torch.float64)
    free = [scene - own for scene, own in zip(size, side, strict=True)]
    x0 = (torch.frac(0.5 + steps / _PLASTIC) * free[1]).round().long()
    y0 = (torch.frac(0.5 + steps / _PLASTIC**2) * free[0]).round().long()
    return torch.stack([x0, y0, x0 + side[1], y0 + side[0]], dim=1)


def lattice(
    encode: Encoder, scenes: Scenes, count: int, whole: Whole, config: HCSConfig, labels: Tensor | None
) -> Answer:
    """Look at ``count`` crops of each scene; the one on which the model is surest answers.

    With ``w_ro`` each crop is encoded once more under noise, and the one with the largest S_ut + w_ro S_ro answers.

    Args:
        encode: The model.
        scenes: The scenes.
        count: Crops of each.
        whole: Their whole views.
        config: The choices.
        labels: The truth ``[B]``, in analysis only.
    """
    boxes = lattice_boxes(count, scenes.size, encode.input_size)
    images = torch.repeat_interleave(torch.arange(scenes.count), count)
    encoded = encode(images, boxes.repeat(scenes.count, 1))
    values = values_of(encoded.logits, config).unflatten(0, (scenes.count, count))
    loss = row_loss(config.loss, whole.values, values, labels)
    single, lost = loss(values), loss(whole.values).unsqueeze(1)
    floored = importance.floor_of(lost, values.shape[-1], FLOOR)
    area = torch.full_like(single, encode.input_size[0] * encode.input_size[1] / (scenes.size[0] * scenes.size[1]))
    # Surer is better, whatever the reading: there are no neighbours, and the literal one prefers what is as lost.
    terms = {"loss": single, "ut": importance.utility(single, lost, floored, area, config.lam)}
    score, ranked = terms["ut"], sureness(single)
    if config.w_ro:
        noise = Perturbation(config, 0, torch.arange(count).repeat(scenes.count))
        again = encode(images, boxes.repeat(scenes.count, 1), noise.add).embeddings
        shape = (scenes.count, count)
        terms["ro"] = importance.robustness(encoded.embeddings.unflatten(0, shape), again.unflatten(0, shape))
        score = ranked = score + config.w_ro * terms["ro"]
    best = order(ranked)[:, 0].cpu()
    kept = [
        Kept(
            boxes[place : place + 1],
            score[image, place : place + 1],
            encoded.logits[image * count + place].unsqueeze(0),
            None if encoded.rows is None else encoded.rows[image * count + place].unsqueeze(0),
        )
        for image, place in enumerate(best.tolist())
    ]
    chosen = torch.zeros_like(single, dtype=torch.bool).scatter(1, best.to(single.device).unsqueeze(1), True)
    everywhere = boxes.expand(scenes.count, count, 4)
    terms |= {"score": score, "boxes": everywhere, "kept": chosen}
    forwards = torch.full((scenes.count,), 1 + (2 * count if config.w_ro else count))
    return Answer(kept, forwards, [terms], depth=1, most=1)
