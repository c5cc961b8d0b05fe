"""Pictures of a refinement: the scene, what was kept at each level, its importance, what was said before and after."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_coreset.regions.refinement import Refinement

_TOP = 3
_COLOURS = ("tab:orange", "tab:red", "tab:purple", "tab:brown", "tab:pink", "tab:olive")
_LONGEST = 1_024


def draw_refinement(
    images: Tensor,
    found: Refinement,
    *,
    class_names: Sequence[str] | None = None,
    labels: Tensor | None = None,
    scenes: int = 3,
    to_rgb: Callable[[Tensor], Tensor] | None = None,
    palette: Tensor | None = None,
) -> Any:
    """A row for each of the first scenes; needs matplotlib (extra ``[plots]``).

    Columns: the scene with the kept regions of each level, their importance as a heat map, and the three most probable
    classes before (whole view) and after; in segmentation the two maps.

    Args:
        images: ``[B, C, H, W]``.
        found: What `refine` made of them.
        class_names: For labels.
        labels: The truth ``[B]``, for titles.
        scenes: Most rows.
        to_rgb: Images to [0, 1], such as the inverse of a normalisation; None scales each image by its extremes.
        palette: Colour of each class in [0, 1] ``[classes, 3]``, for segmentation.

    Returns:
        A ``matplotlib.figure.Figure``; save it with ``savefig``.
    """
    from matplotlib.figure import Figure

    rows = min(scenes, len(images))
    segments = found.logits.ndim == 4
    columns = 4 if segments else 3
    figure = Figure(figsize=(3.4 * columns, 3.3 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    names = [str(number) for number in range(found.logits.shape[1])] if class_names is None else list(class_names)
    heat = found.heatmap[:rows]
    for row in range(rows):
        picture = _shown(images[row : row + 1] if to_rgb is None else to_rgb(images[row : row + 1]), to_rgb is None)
        scene, warm, *rest = axes[row]
        for axis in (scene, warm, *(rest if segments else ())):
            axis.set_axis_off()
        scene.imshow(picture, extent=(0, found.size[1], found.size[0], 0))
        _outline(scene, found, row)
        told = "" if labels is None else f"{names[int(labels[row])]}, "
        kept = f"{100 * float(found.area[row]):.0f} % kept" if not found.gated else "gated"
        scene.set_title(f"{told}{kept}", fontsize=9)
        warm.imshow(picture, extent=(0, found.size[1], found.size[0], 0), alpha=0.35)
        warm.imshow(heat[row].numpy(), cmap="inferno", alpha=0.65, vmin=0, vmax=1)
        warm.set_title(f"importance ({found.engine}, {found.n_pixels:g} inputs)", fontsize=9)
        if segments:
            for axis, logits, title in zip(rest, (found.logits_whole, found.logits), ("before", "after"), strict=True):
                classes = logits[row].argmax(dim=0).cpu()
                if palette is None:
                    axis.imshow(classes.numpy(), cmap="tab20", vmin=0, vmax=max(len(names) - 1, 1))
                else:
                    axis.imshow(palette[classes].numpy())
                axis.set_title(title, fontsize=9)
        else:
            _bars(rest[0], found, row, names, None if labels is None else int(labels[row]))
    return figure


def _shown(image: Tensor, scale: bool) -> Any:
    picture = image[0].detach().float().cpu()
    step = max(1, max(picture.shape[1:]) // _LONGEST)
    picture = picture[:, ::step, ::step]
    if scale:
        low, high = picture.min(), picture.max()
        picture = (picture - low) / (high - low if high > low else 1)
    picture = picture[:3] if picture.shape[0] >= 3 else picture[:1].expand(3, -1, -1)
    return picture.clamp(0, 1).permute(1, 2, 0).numpy()


def _outline(axis: Any, found: Refinement, row: int) -> None:
    from matplotlib.patches import Rectangle

    for number, level in enumerate(found.terms):
        last = number == len(found.terms) - 1
        colour = _COLOURS[(number if len(found.terms) > 1 else 1) % len(_COLOURS)]
        for x0, y0, x1, y1 in level["boxes"][row][level["kept"][row].cpu()].tolist():
            axis.add_patch(
                Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=2 if last else 1)
            )


def _bars(axis: Any, found: Refinement, row: int, names: list[str], truth: int | None) -> None:
    """The most probable classes before and after, those that are right in green."""
    lines: list[tuple[str, float, str]] = []
    for title, logits in (("before", found.logits_whole), ("after", found.logits)):
        shares, classes = logits[row].float().softmax(dim=0).topk(min(_TOP, logits.shape[1]))
        for share, number in zip(shares.tolist(), classes.tolist(), strict=True):
            right = "tab:green" if number == truth else "tab:gray"
            lines.append((f"{title}: {names[number]}", share, right))
    places = torch.arange(len(lines)) + (torch.arange(len(lines)) >= len(lines) // 2) * 0.6
    axis.barh(places.tolist(), [share for _, share, _ in lines], color=[colour for _, _, colour in lines])
    axis.set_yticks(places.tolist(), [text for text, _, _ in lines], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.set_xlabel("probability", fontsize=8)
    axis.tick_params(axis="x", labelsize=8)
