"""Balance of classes by proposals alone."""

from dataclasses import replace

import torch

from lightning_coreset.ops.class_greedy import class_greedy
from lightning_coreset.selectors.cost import Shown, Work
from lightning_coreset.selectors.detection import candidates_of
from lightning_coreset.selectors.group import Group, Picks
from lightning_coreset.selectors.object_rows import kept
from lightning_coreset.selectors.proposals import ProposalSelector


class ClassBalance(ProposalSelector, name="class_balance"):
    """The image that helps the poorest classes most for each unit, again and again, until none helps or fits.

    Gains are ``sum_c (sqrt(n_c + h_ic) - sqrt(n_c)) / max(u_i, 1)`` for ``h_ic`` proposals of a class in an image,
    ``n_c`` of them chosen so far and ``u_i`` expected units (1 under a budget in images). No features are looked at.
    O(k P) time for ``P`` pairs of an image and a class that it shows, O(P) memory. Ours.

    Args:
        per_class: Must stay at its default: an image shows several classes.
        threshold: Least score of a proposal that counts, one number or one for each class; labelled boxes all count.
        min_box_area: Least share of its image; 0 keeps all, and so do objects without ``image_sizes``.
        calibration: File of a `Calibration`: its thresholds and, where it has one, its estimate of units.
        charge: In boxes or masks: ``"estimate"`` charges expected units, ``"oracle"`` true ones, which must be known.
        estimate: ``a`` and ``b`` of the expected units ``a + b * sum of scores`` of all proposals of an image; None
            takes what the surroundings have fitted, else 0 and 1.
        overshoot: In boxes or masks: ``"never"``, or ``"last"`` for one image above the budget.

    Raises:
        ValueError: No proposal that counts, unknown true units, or an argument out of its range.

    Example:
        >>> from lightning_coreset import Pool, select
        >>> from lightning_coreset.detection import Objects
        >>> objects = Objects([0, 0, 1, 2], [[0, 0, 4, 4]] * 4, [0, 0, 0, 1], num_images=3)
        >>> select(Pool(objects=objects), method="class_balance", budget=2, budget_unit="boxes").indices.tolist()
        [1, 2]
    """

    embeds_objects = False

    def work_shown(self, size: int, width: int, count: int, memory_limit: int, shown: Shown) -> Work:
        """Proposals that count and the pairs of images and classes in whole numbers; a look at all pairs a pick."""
        return Work(200.0 * count * (shown.pairs + size), 120 * shown.objects + 64 * size, count)

    def select_group(self, group: Group) -> Picks:
        """See `lightning_coreset.ops.class_greedy`."""
        # Embeddings of objects would be copied for nothing.
        objects = replace(group.shown, features=None)
        objects = kept(objects, self.counting(objects))
        classes = objects.num_classes
        cells, counts = torch.unique(objects.image * classes + objects.labels, return_counts=True)
        started = torch.zeros(classes, dtype=torch.float64)
        taken = torch.isin(objects.image, group.initial)
        started.index_add_(0, objects.labels[taken], torch.ones(int(taken.sum()), dtype=torch.float64))
        units = group.wallet.charges if group.charged_by == "images" else group.units
        found = class_greedy(
            cells // classes,
            cells % classes,
            counts,
            units,
            group.wallet,
            candidates_of(group),
            started=started,
            advance=group.advance,
        )
        pool_counts = torch.bincount(objects.labels, minlength=classes)
        showing = torch.bincount(objects.image, minlength=group.size) > 0
        return Picks(
            found.images,
            found.gains,
            details={"class": found.classes.tolist()},
            told={
                "classes_without_proposals": torch.nonzero(pool_counts == 0).flatten().tolist(),
                "images_without_proposals": int((~showing).sum()),
                "proposals": len(objects),
            },
        )
