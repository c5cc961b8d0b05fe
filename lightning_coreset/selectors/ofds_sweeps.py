"""The sweeps of OFDS: each class in turn gets its share of what is left."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_coreset.ops.clean_clusters import clean_clusters
from lightning_coreset.ops.random import seeded_generator
from lightning_coreset.ops.rows import normalize_rows
from lightning_coreset.selectors.detection import candidates_of
from lightning_coreset.selectors.group import Group

if TYPE_CHECKING:
    from lightning_coreset.selectors.ofds import OFDS

# Of the nearest objects of a cluster, those among which the cheapest image is looked for.
_NEAREST = 0.3
# Less than this share of the budget may stay when cheaper images remain.
_UNSPENT = 0.03
# Chosen objects that distances are taken to at a time.
_CENTERS = 64


class Sweeps:
    """State of one selection: what is chosen, what it has cost, and why each image was taken.

    Args:
        method: The arguments.
        group: The pool, in the order of ids.
        counting: Proposals that count, as a mask ``[M]``.
    """

    def __init__(self, method: "OFDS", group: Group, counting: Tensor) -> None:
        self._method, self._group, self._purse = method, group, group.wallet
        objects = replace(group.shown, features=None).where(counting)
        # Rows of an image in the order of their boxes, whatever order the proposer gave them.
        keys = [objects.labels, *objects.boxes.unbind(1)[::-1], objects.image]
        order = torch.arange(len(objects))
        for key in keys:
            order = order[torch.argsort(key[order], stable=True)]
        self._image, self._label = objects.image[order], objects.labels[order]
        # Those that count and their order in one step: the embeddings are copied once.
        order = torch.nonzero(counting).flatten()[order]
        features = group.shown.features[order] if method.embeds_objects and group.shown.features is not None else None
        self._features = normalize_rows(features) if method.normalize and features is not None else features
        counts = torch.bincount(self._label, minlength=objects.num_classes)
        self._counts = counts
        self.order: list[int] = torch.argsort(counts, stable=True).tolist()
        self._free = candidates_of(group)
        self._chosen = torch.zeros(group.size, dtype=torch.bool)
        self._chosen[group.initial] = True
        self._given: list[int] = []
        self.lines: list[dict[str, Any]] = []
        self._sweep = 0
        self._repeating = False
        mean = float(self._purse.charges.mean()) if method.units_per_image is None else method.units_per_image
        self.mean = 1.0 if group.charged_by == "images" else mean
        self._showing = torch.zeros(group.size, dtype=torch.bool)
        self._showing[self._image] = True

    def draw_background(self) -> list[dict[str, Any]]:
        """Images without a proposal that counts, drawn for the share that is asked for."""
        share = self._method.background
        if share == 0:
            return []
        wanted = math.floor(share * self._purse.total / self.mean + 0.5) if self.mean > 0 else 0
        drawn = torch.randperm(self._group.size, generator=seeded_generator(self._group.seed, "background"))
        found: list[dict[str, Any]] = []
        for image in drawn[(self._free & ~self._showing)[drawn]].tolist():
            if len(found) < wanted and self._take(image):
                found.append({"class": None, "cluster": None, "members": None, "sweep": 0, "image": image})
        return found

    def go_on(self) -> None:
        """Sweep until less than a mean image is left, or nothing changes."""
        while self._purse.left > 0:
            enough = self._purse.left >= self.mean
            if not enough and self._purse.left <= _UNSPENT * self._purse.total:
                return
            before = len(self.lines)
            self._sweep += 1
            for place, label in enumerate(self.order):
                self._serve(label, len(self.order) - place, least=not enough)
            if len(self.lines) == before and self._repeating:
                return
            self._repeating |= len(self.lines) == before

    def interleaved(self, start: int = 0) -> list[dict[str, Any]]:
        """Lines from a place on: in each sweep the first pick of every class, then every second pick, and so on."""
        seen: dict[tuple[int, int], int] = {}
        keys = []
        for line in self.lines[start:]:
            key = (line["sweep"], line["class"])
            seen[key] = seen.get(key, -1) + 1
            keys.append((line["sweep"], seen[key]))
        # Stable, and within a sweep classes stand in their order already.
        places = sorted(range(len(keys)), key=keys.__getitem__)
        return [self.lines[start + place] for place in places]

    def told(self) -> dict[str, Any]:
        """For the manifest."""
        shown = torch.bincount(self._label[self._chosen[self._image]], minlength=len(self._counts))
        return {
            "classes_without_proposals": torch.nonzero(self._counts == 0).flatten().tolist(),
            "images_without_proposals": int((~self._showing).sum()),
            "proposals": int(self._counts.sum()),
            "class_order": self.order,
            "unfunded_classes": torch.nonzero((self._counts > 0) & (shown == 0)).flatten().tolist(),
            "sweeps": self._sweep,
        }

    def _serve(self, label: int, classes: int, *, least: bool) -> None:
        mine = self._label == label
        open_rows = mine & self._free[self._image] & self._purse.fitting()[self._image]
        candidates = len(self._image[open_rows].unique())
        if not candidates:
            return
        left = self._purse.left
        quota = math.floor(left / (classes * self.mean) + 0.5) if self.mean > 0 else candidates
        if quota < 1 and (least or left >= self.mean):
            quota = 1
        quota = min(quota, candidates)
        if quota < 1:
            return
        if self._method.pick == "random":
            self._take_random(label, open_rows, quota)
        else:
            self._take_clusters(label, mine, open_rows, quota)
        if self._method.reestimate and self._group.charged_by == "true" and self._given:
            self.mean = float(self._purse.charges[self._given].mean()) or self.mean

    def _take_random(self, label: int, open_rows: Tensor, quota: int) -> None:
        rows = torch.nonzero(open_rows).flatten()
        generator = seeded_generator(self._group.seed, "ofds", self._sweep, label)
        images = dict.fromkeys(self._image[rows[torch.randperm(len(rows), generator=generator)]].tolist())
        taken = 0
        for image in images:
            if taken < quota and self._take(image):
                self._note(label, image, None, None)
                taken += 1

    def _take_clusters(self, label: int, mine: Tensor, open_rows: Tensor, quota: int) -> None:
        assert self._features is not None
        rows = torch.nonzero(mine).flatten()
        images = self._image[rows]
        features = self._features[rows]
        found = clean_clusters(
            features,
            self._chosen[images],
            open_rows[rows],
            quota,
            seed=self._group.seed,
            search=self._method.k_search,
        )
        taken = 0
        for cluster, members in enumerate(found.members):
            shown = images[members].tolist()
            image = self._first_that_fits(shown)
            if image is not None:
                self._note(label, image, cluster, sorted(set(shown)))
                taken += 1
        if taken < quota:
            self._finish(label, features, images, quota - taken)

    def _first_that_fits(self, shown: list[int]) -> int | None:
        """The image of a cluster to take, by its images from the nearest object on; pays for it."""
        if self._method.pick == "cheapest":
            near = max(1, math.ceil(round(_NEAREST * len(shown), 6)))
            units = self._group.units
            shown = sorted(shown[:near], key=lambda image: float(units[image])) + shown[near:]
        return next((image for image in shown if self._free[image] and self._take(image)), None)

    def _finish(self, label: int, features: Tensor, images: Tensor, wanted: int) -> None:
        """Go on with the image of the object farthest from those of chosen images, ties to the lowest.

        Distinct rows are then fewer than images asked for. Objects that are equal to chosen ones wait until no class
        has anything else.
        """
        rows = features.double()
        away = torch.full((len(rows),), torch.inf, dtype=torch.float64)
        added = self._chosen[images]
        while wanted:
            for center in rows[added].split(_CENTERS):
                found = torch.cdist(rows, center, compute_mode="donot_use_mm_for_euclid_dist")
                away = torch.minimum(away, found.amin(dim=1))
            open_rows = self._free[images] & self._purse.fitting()[images] & ((away > 0) | self._repeating)
            if not bool(open_rows.any()):
                return
            image = int(images[open_rows & (away >= away[open_rows].max())].min())
            self._take(image)
            self._note(label, image, None, None)
            added = images == image
            wanted -= 1

    def _take(self, image: int) -> bool:
        if not self._purse.take(image):
            return False
        self._free[image] = False
        self._chosen[image] = True
        self._given.append(image)
        return True

    def _note(self, label: int, image: int, cluster: int | None, members: list[int] | None) -> None:
        self.lines.append(
            {"class": label, "image": image, "cluster": cluster, "members": members, "sweep": self._sweep}
        )
        if self._group.advance is not None:
            self._group.advance(1)
