"""OFDS: rare classes first, one image for each cluster of objects that nothing chosen lies in."""

import math
from typing import Literal

import torch

from lightning_coreset.detection import Objects
from lightning_coreset.ops.clean_clusters import Search
from lightning_coreset.selectors.checks import check_least
from lightning_coreset.selectors.cost import Shown, Work
from lightning_coreset.selectors.facility_location import check_words
from lightning_coreset.selectors.group import Group, Picks
from lightning_coreset.selectors.object_rows import check_object_features
from lightning_coreset.selectors.ofds_sweeps import Sweeps
from lightning_coreset.selectors.proposals import ProposalSelector
from lightning_coreset.selectors.units import Charge


class OFDS(ProposalSelector, name="ofds"):
    """Object-focused data selection: a budget in annotation units, spent class by class, the rarest first.

    A class gets its share of what is left, in images of mean cost. Its objects are clustered with more and more
    clusters until as many as it may take hold no object of a chosen image; each of these gives the image of the object
    nearest to its centre. Sweeps go on until less than a mean image is left (an image that still fits is taken while
    more than 3 % are). The picks are interleaved over classes, so that people may stop labelling at any line;
    ``manifest["reserve"]`` lists images to go on with where charges are estimates. Time is that of the clusterings
    (`lightning_coreset.ops.clean_clusters`), memory O(M d) for ``M`` objects. Paper: Popp et al. 2025.

    Args:
        per_class: Must stay at its default: an image shows several classes.
        threshold: Least score of a proposal that counts, one number or one for each class; labelled boxes all count.
        min_box_area: Least share of its image; 0 keeps all, and so do objects without ``image_sizes``.
        pick: Image of a cluster: ``"centroid"``, ``"cheapest"`` (fewest expected units among the nearest 30 %), or
            ``"random"`` images of the class without any clustering (the paper's ablation).
        calibration: File of a `Calibration`: its thresholds and, where it has one, its estimate of units.
        charge: In boxes or masks: ``"estimate"`` charges expected units, ``"oracle"`` true ones, which must be known.
        estimate: ``a`` and ``b`` of the expected units ``a + b * sum of scores`` of all proposals of an image; None
            takes what the surroundings have fitted, else 0 and 1.
        units_per_image: Mean units of an image; None takes the pool's.
        reestimate: With ``charge="oracle"`` take the mean of the chosen images after each class (False: the paper's).
        normalize: Cluster unit rows.
        k_search: ``"gallop"``, or ``"linear"`` as the paper prints it.
        background: Share of images to draw from those without proposals.
        slack: With ``charge="estimate"``: reserve up to so many times the budget.
        overshoot: In boxes or masks: ``"never"``, or ``"last"`` for one image above the budget.

    Raises:
        ValueError: Objects without features, no proposal that counts, unknown true units, or an argument out of its
            range.

    Example:
        >>> from lightning_coreset import Pool, select
        >>> from lightning_coreset.detection import Objects
        >>> boxes, rows = [[0, 0, 4, 4]] * 5, [[0.0], [0.1], [0.3], [5.0], [9.0]]
        >>> objects = Objects([0, 1, 2, 3, 3], boxes, [0, 0, 0, 0, 1], num_images=4, features=rows)
        >>> coreset = select(Pool(objects=objects), method="ofds", budget=3, budget_unit="boxes")
        >>> coreset.indices.tolist(), coreset.details["class"], coreset.details["members"]
        ([3, 1], [1, 0], [[3], [0, 1, 2]])
    """

    ranks = False

    def __init__(
        self,
        *,
        per_class: bool | None = None,
        threshold: float | list[float] = 0.0,
        min_box_area: float = 5e-4,
        pick: Literal["centroid", "random", "cheapest"] = "centroid",
        calibration: str | None = None,
        charge: Charge = "estimate",
        estimate: tuple[float, float] | None = None,
        units_per_image: float | None = None,
        reestimate: bool = True,
        normalize: bool = False,
        k_search: Search = "gallop",
        background: float = 0.0,
        slack: float = 2.0,
        overshoot: Literal["never", "last"] = "never",
    ) -> None:
        super().__init__(
            per_class=per_class,
            threshold=threshold,
            min_box_area=min_box_area,
            calibration=calibration,
            charge=charge,
            estimate=estimate,
            overshoot=overshoot,
        )
        self.pick = pick
        self.embeds_objects = pick != "random"
        self.units_per_image = units_per_image
        self.reestimate = reestimate
        self.normalize = normalize
        self.k_search = k_search
        self.background = background
        self.slack = slack

    def check(self) -> None:
        """Refuse arguments out of their range."""
        super().check()
        check_words(
            pick=(self.pick, ("centroid", "random", "cheapest")), k_search=(self.k_search, ("gallop", "linear"))
        )
        check_least(1, slack=self.slack)
        if self.units_per_image is not None and not self.units_per_image > 0:
            msg = f"units_per_image={self.units_per_image!r} is not accepted: give a positive number, or leave it out."
            raise ValueError(msg)
        if isinstance(self.background, bool) or not 0 <= self.background < 1:
            msg = f"background={self.background!r} is not accepted: give a share in [0, 1)."
            raise ValueError(msg)

    def check_objects(self, objects: Objects | None) -> None:
        """Refuse a pool without a proposal that counts, and proposals without features."""
        super().check_objects(objects)
        assert objects is not None
        if self.pick != "random":
            check_object_features(self.name, objects)

    def work_shown(self, size: int, width: int, count: int, memory_limit: int, shown: Shown) -> Work:
        """Proposals that count, sorted, and the matrices of one class at a time; a few clusterings a class."""
        lists = 120 * shown.objects + 64 * size
        if self.pick == "random":
            return Work(20.0 * shown.objects, lists, count)
        wanted = max(1, count // shown.classes)
        # Of the largest class, so many objects are in chosen images; k * exp(-taken / k) of k clusters hold none.
        taken = max(math.e * wanted, count * shown.largest / size)
        clusters = wanted + round(taken / math.log(taken / wanted))
        whole = 4 * shown.objects * width
        own = 12 * shown.largest * width
        centers = 5 * 4 * clusters * width + 4 * 1_024 * clusters
        memory = (1 + self.normalize) * whole + own + centers + 8 * min(2_048, shown.largest) * width + lists
        # Two runs of a draw and up to ten rounds each, at some four places of the ladder.
        products = 4 * shown.largest * clusters + 2 * shown.objects * wanted
        return Work(44.0 * products * width, memory, 60 * shown.classes + count)

    def select_group(self, group: Group) -> Picks:
        """Background, sweeps over the classes, then the reserve."""
        sweeps = Sweeps(self, group, self.counting(group.shown))
        background = sweeps.draw_background()
        sweeps.go_on()
        lines = [*sweeps.interleaved(), *background]
        reserve = []
        if self.charge == "estimate" and self.slack > 1 and group.charged_by == "estimated":
            before = len(sweeps.lines)
            group.wallet.raise_to(self.slack * group.wallet.total)
            sweeps.go_on()
            reserve = sweeps.interleaved(before)
        for line in (*lines, *reserve):
            line["members"] = None if line["members"] is None else group.at(line["members"])
        names = ("class", "cluster", "members", "sweep")
        told = sweeps.told() | {"background": len(background)}
        if reserve:
            images = [line["image"] for line in reserve]
            columns = {name: [line[name] for line in reserve] for name in names}
            units = [round(value, 6) for value in group.units[images].tolist()]
            told["reserve"] = {"indices": group.at(images), "estimated_units": units} | columns
        return Picks(
            torch.tensor([line["image"] for line in lines], dtype=torch.int64),
            details={name: [line[name] for line in lines] for name in names},
            resolved={"units_per_image": sweeps.mean},
            told=told,
        )
