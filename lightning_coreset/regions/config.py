"""HCSConfig: every choice of a refinement, checked where it is made."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import Tensor

from lightning_coreset.regions.grid import GridSide

Engine = Literal["auto", "scan", "crop", "dense", "mask"]
Search = Literal["auto", "hierarchical", "lattice"]
Loss = Literal["entropy", "max_prob", "pseudo", "vote", "prompt"]
Utility = Literal["improve", "one_sided", "literal"]
Synergy = Literal["pair", "gain", "literal"]
Select = Literal["rank", "greedy", "k_center", "facility_location", "herding", "random"]
Fuse = Literal["softmax", "mean", "best", "prob", "feature"]
Normalize = Literal["none", "minmax"]
ScanWeight = Literal["energy", "loss"]
Levels = Literal["auto"] | Sequence[tuple[GridSide, int]]

_CHOICES: dict[str, tuple[str, ...]] = {
    "engine": get_args(Engine),
    "search": get_args(Search),
    "utility": get_args(Utility),
    "synergy": get_args(Synergy),
    "select": get_args(Select),
    "fuse": get_args(Fuse),
    "normalize": get_args(Normalize),
    "scan_weight": get_args(ScanWeight),
}
_AT_LEAST_ONE = ("max_levels", "chunk", "keep")
_NOT_NEGATIVE = ("noise", "gain", "min_zoom", "heard", "scan_sy")
_POSITIVE = ("tau", "scan_tau")


@dataclass(frozen=True)
class HCSConfig:
    """How a scene is searched (Wang et al., "HCS", ACM MM 2025; readings that work are the defaults).

    The equations as they are printed do worse than random crops of the same number: ``paper()`` is there to see it.

    Attributes:
        levels: ``"auto"`` chooses grids from the zoom; or pairs (grid side or (rows, columns), regions kept), coarse to
            fine, each grid a multiple of the one before.
        engine: ``"scan"`` reads a feature map of the whole scene and looks again at the best windows, ``"dense"`` does
            not look again, ``"crop"`` encodes each region, ``"mask"`` encodes the blackened scene once more (a visual
            aid: it loses 30 to 80 points). ``"auto"``: scan where the model gives a map that says what crops would
            say (`map_fidelity`), else crop.
        search: Of ``crop``: ``"hierarchical"`` goes coarse to fine, ``"lattice"`` looks at crops of the input's size
            spread evenly, at the same forwards. ``"auto"`` is what ``benchmarks/hcs`` found better on scenes whose
            objects do not sit on a grid, and hierarchical where ``levels``, ``exhaustive``, ``max_forwards`` or
            another selection ask for levels.
        loss: What is low where the model is sure: ``"entropy"``, ``"max_prob"``, ``"pseudo"`` (the whole view's class),
            ``"vote"`` (the regions' class), ``"prompt"`` (1 - margin of the two best), or a callable
            ``logits [n, classes] -> [n]``.
        utility: Reading of Eq. 3.
        synergy: Reading of Eq. 6.
        lam: Weight of the area term; it acts only in greedy selection and across unequal cells.
        w_re: Weight of Eq. 4.
        w_ro: Weight of Eq. 5; 0.65 is advised for corrupted input. It doubles the forwards.
        w_sy: Weight of Eq. 6.
        normalize: ``"minmax"`` scales each term to [0, 1] within a level.
        fuse: Kept regions to one answer: ``"softmax"`` weighs logits by softmax(S / tau), ``"mean"``, ``"best"``,
            ``"prob"`` weighs probabilities, ``"feature"`` embeddings before the head.
        tau: Temperature of the weights.
        select: How a level's regions are kept: by importance, greedily on the set's, by a coreset method on their
            embeddings, or at random.
        eps: The paper's criterion |L(X) - L(X_s)| <= eps L(X); None only records it.
        min_zoom: Scenes less than this many times as large as the input are left to the model as they are.
        max_levels: Most levels that ``"auto"`` plans.
        max_forwards: Most forwards for an image; fewer regions are kept, then levels left out, until they suffice.
        exhaustive: Score all cells of the finest grid, without coarser ones.
        overlap: Share of a cell by which regions reach into their neighbours.
        saliency: ``[H, W]`` or ``[B, H, W]``, or a callable of the images: multiplies the first level's importance.
        scorer: Callable ``embeddings [n, d] -> [n]`` in place of the four terms, such as a trained `ScoreMLP`.
        keep: Windows that ``scan`` encodes again as crops, and that ``dense`` keeps.
        heard: Windows of the map, corrected by what the crops say, that ``scan`` hears beside the crops.
        scan_weight: What weighs their probabilities in ``scan``: ``"energy"``, the logarithm of the sum of
            exp(logits), which tells known things from clutter where the loss is near zero for both; or ``"loss"``.
            Where all energies are equal (a model that gives log-probabilities) the loss weighs; in ``dense`` always.
        scan_tau: Temperature of these weights; None is 4 for energies and 0.25 for losses.
        scan_sy: Weight, in the ranking of ``dense`` and of the corrected map, of the least entropy of a window's mean
            with a window beside it (the synergy). In ``benchmarks/hcs`` 0 is better by far where objects stand alone,
            more where they stand together.
        alpha: Share of a region's prediction in segmentation; the rest is the whole view's.
        noise: Deviation of the noise of Eq. 5, in the units of the images.
        gain: Deviation of its factor on each channel.
        chunk: Most crops in one call; memory grows with it.
        seed: Of the noise and of random selection.
        analysis: Use ``labels`` in the loss. The answer then knows the truth and is marked so.

    Raises:
        ValueError: A value that is not accepted.

    Example:
        >>> HCSConfig(select="greedy").select
        'greedy'
        >>> HCSConfig.paper().levels
        ((4, 6), (8, 8))
    """

    levels: Any = "auto"
    engine: Engine = "auto"
    search: Search = "auto"
    loss: Loss | Callable[[Tensor], Tensor] = "entropy"
    utility: Utility = "improve"
    synergy: Synergy = "pair"
    lam: float = 0.7
    w_re: float = 0.0
    w_ro: float = 0.0
    w_sy: float = 0.8
    normalize: Normalize = "none"
    fuse: Fuse = "softmax"
    tau: float = 0.5
    select: Select = "rank"
    eps: float | None = None
    min_zoom: float = 1.5
    max_levels: int = 6
    max_forwards: int | None = None
    exhaustive: bool = False
    overlap: float = 0.0
    saliency: Any = None
    scorer: Callable[[Tensor], Tensor] | None = None
    keep: int = 8
    heard: int = 2
    scan_weight: ScanWeight = "energy"
    scan_tau: float | None = None
    scan_sy: float = 0.1
    alpha: float = 0.5
    noise: float = 0.06
    gain: float = 0.1
    chunk: int = 64
    seed: int = 0
    analysis: bool = False

    def __post_init__(self) -> None:
        for name, accepted in _CHOICES.items():
            if (value := getattr(self, name)) not in accepted:
                msg = f"{name}={value!r} is not accepted: give one of {', '.join(map(repr, accepted))}."
                raise ValueError(msg)
        if not callable(self.loss) and self.loss not in get_args(Loss):
            accepted = get_args(Loss)
            msg = f"loss={self.loss!r} is not accepted: give one of {', '.join(map(repr, accepted))}, or a callable."
            raise ValueError(msg)
        for names, lowest, strict in ((_AT_LEAST_ONE, 1, False), (_NOT_NEGATIVE, 0, False), (_POSITIVE, 0, True)):
            for name in names:
                value = getattr(self, name)
                if value is None and name == "scan_tau":
                    continue
                if not value >= lowest or (strict and value == lowest):
                    bound = "more than" if strict else "at least"
                    msg = f"{name}={value!r} is not accepted: give {bound} {lowest}."
                    raise ValueError(msg)
        for name in ("overlap", "alpha"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                msg = f"{name}={value!r} is not accepted: give a share from 0 to 1."
                raise ValueError(msg)
        if self.max_forwards is not None and self.max_forwards < 2:
            msg = f"max_forwards={self.max_forwards!r} is not accepted: the whole view and a region are 2."
            raise ValueError(msg)
        check_levels(self.levels)

    @classmethod
    def paper(cls, **changes: Any) -> "HCSConfig":
        """Eq. 3-7 as printed, with the paper's weights and levels. It does worse than the defaults by far."""
        printed: dict[str, Any] = {
            "levels": ((4, 6), (8, 8)),
            "engine": "crop",
            "search": "hierarchical",
            "utility": "literal",
            "synergy": "literal",
            "lam": 0.7,
            "w_re": 0.7,
            "w_ro": 0.65,
            "w_sy": 0.8,
            "eps": 0.98,
            "fuse": "mean",
        }
        return cls(**(printed | changes))

    @classmethod
    def fast(cls, **changes: Any) -> "HCSConfig":
        """One pass at native resolution, without a second look; it needs a model that gives a feature map."""
        return cls(**({"engine": "dense"} | changes))


def check_levels(levels: Any) -> None:
    """Refuse what is no list of levels.

    Raises:
        ValueError: With the form that is accepted.
    """
    if isinstance(levels, str) and levels == "auto":
        return
    form = "give 'auto', or pairs (grid, regions kept) such as ((4, 6), (8, 8))"
    if isinstance(levels, str) or not isinstance(levels, Sequence) or not levels:
        msg = f"levels={levels!r} is not accepted: {form}."
        raise ValueError(msg)
    for level in levels:
        pair = isinstance(level, Sequence) and not isinstance(level, str) and len(level) == 2
        if not pair or not _whole(level[1]) or not (_whole(level[0]) or _two_sides(level[0])):
            msg = f"levels={levels!r} is not accepted, because of {level!r}: {form}."
            raise ValueError(msg)


def _two_sides(side: Any) -> bool:
    return isinstance(side, Sequence) and len(side) == 2 and all(map(_whole, side))


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
