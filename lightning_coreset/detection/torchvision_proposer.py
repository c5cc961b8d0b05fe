"""Any detector in torchvision's form as a proposer, and its pyramid as an encoder of objects."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.transform import resize_boxes
from torchvision.ops import roi_align

from lightning_coreset.data.fingerprint import module_key, stable_key
from lightning_coreset.detection.class_names import names_in_order
from lightning_coreset.detection.masks import counts_of
from lightning_coreset.detection.proposals import Proposals, clipped, no_proposals, size_of
from lightning_coreset.errors import CoresetError
from lightning_coreset.features.extraction import module_ready
from lightning_coreset.features.extractor import scaled_tensor
from lightning_coreset.features.networks import three_channels, weights_of

_WAYS_OUT = (
    "the other choices are a detector of your own, a path to COCO results, 'ground_truth', or the weights in the local "
    "cache before the run"
)
_POOLED = 7
_MASK_ABOVE = 0.5


class TorchvisionProposer:
    """A detector called as torchvision's are: a list of images in, a dict of boxes, labels and scores for each out.

    Objects are embedded by the detector itself: its pyramid, pooled over the box by its own RoI pooling and averaged
    (where it has none, by RoI alignment on the level that fits the box). The level follows the size of the box, so
    embeddings of small and large objects of a class differ more than those of one size. Every image passes alone, so
    that proposals do not depend on what else is in a batch.

    Args:
        model: The detector, or the name of one of torchvision's (its pretrained weights are loaded on first use).
        class_names: Names of the classes in their order; None takes those of torchvision's weights.
        class_map: Class of each of the detector's labels, both by number or name; others are dropped. None takes the
            names of torchvision's own weights; of other detectors label 1 is the first class, because torchvision's 0
            is the background.
        floor: Least score of a proposal; where the detector has a threshold of its own, it is lowered meanwhile.
        layer: ``"roi"`` for the pooled map before the box head, ``"head"`` for the output of the box head.
        weights: Of a detector given by name; None starts from random ones.

    Raises:
        ValueError: A name that torchvision does not know, classes that are not named, a ``layer`` without a box head.
        WeightsUnavailableError: On first use, where the weights cannot be had.

    Example:
        >>> TorchvisionProposer("fasterrcnn_mobilenet_v3_large_320_fpn").class_names[:2]
        ['person', 'bicycle']
    """

    def __init__(
        self,
        model: nn.Module | str,
        class_names: Sequence[str] | None = None,
        *,
        class_map: Mapping[Any, Any] | None = None,
        floor: float = 0.05,
        layer: str = "roi",
        weights: str | None = "DEFAULT",
    ) -> None:
        if layer not in ("roi", "head"):
            msg = f"layer={layer!r} is not accepted: give 'roi' (the pooled map) or 'head' (the box head's output)."
            raise ValueError(msg)
        if not 0 <= floor < 1:
            msg = f"floor={floor} is not accepted: give the least score of a proposal, at least 0 and below 1."
            raise ValueError(msg)
        self.floor = floor
        self.layer = layer
        self._name = model if isinstance(model, str) else None
        self._module = model if isinstance(model, nn.Module) else None
        self._weights: Any = None
        categories: list[str] | None = None
        if self._name is not None:
            self._weights = _known_weights(self._name, weights)
            categories = None if self._weights is None else list(self._weights.meta["categories"])
        # Nothing but the convention says what labels mean: one that breaks it must not vanish.
        self._counted = class_map is None and categories is None
        self.class_names, self._classes = _mapped(class_names, class_map, categories)

    def fingerprint(self) -> str:
        """Network, weights, classes, floor score and layer."""
        known = module_key(self._module) if self._name is None and self._module is not None else self._told()
        return stable_key("torchvision", known, self.class_names, sorted(self._classes.items()), self.floor, self.layer)

    def module(self) -> nn.Module:
        """The detector, built on first use."""
        if self._module is None:
            assert self._name is not None
            with weights_of(f"torchvision/{self._name}", self._weights, _WAYS_OUT):
                self._module = torchvision.models.get_model(
                    self._name, weights=self._weights, **({} if self._weights else {"weights_backbone": None})
                )
        return self._module

    def propose(self, images: Sequence[Tensor]) -> list[Proposals]:
        """Everything above the floor score in each image."""
        model = self.module()
        with _as_it_is(model), _lowered(model, self.floor):
            return [self._look(model, image) for image in images]

    def encode(self, images: Sequence[Tensor], boxes: Sequence[Tensor]) -> list[Tensor]:
        """Embeddings of given boxes from the same pyramid: a proposer is an encoder too."""
        model = self.module()
        rows = []
        with _as_it_is(model):
            for image, of_image in zip(images, boxes, strict=True):
                with _pyramid(model) as seen:
                    self._run(model, image)
                rows.append(self._embedded(model, seen, of_image, size_of(image)))
        return rows

    def _told(self) -> str:
        return f"{self._name} {getattr(self._weights, 'name', 'random weights')}"

    def _run(self, model: Any, image: Tensor) -> None:
        """Transform and backbone alone."""
        if not isinstance(getattr(model, "transform", None), nn.Module) or not hasattr(model, "backbone"):
            msg = (
                f"{type(model).__name__} has no .transform and .backbone to embed objects with: give an encoder, or a "
                "detector that returns features."
            )
            raise ValueError(msg)
        model.backbone(model.transform([_ready_image(model, image)])[0].tensors)

    def _look(self, model: Any, image: Tensor) -> Proposals:
        size = size_of(image)
        with _pyramid(model) as seen:
            found = model([_ready_image(model, image)])[0]
        classes = self._classes_of(found["labels"].tolist())
        kept = (classes >= 0) & (found["scores"].cpu() >= self.floor)
        boxes, has_area = clipped(found["boxes"].cpu(), size)
        kept &= has_area
        if not bool(kept.any()):
            return no_proposals(size)
        if "features" in found:
            features = found["features"].cpu()[kept]
        else:
            features = self._embedded(model, seen, boxes[kept], size) if "maps" in seen and "images" in seen else None
        masks = None
        if "masks" in found:
            masks = [counts_of(mask[0] >= _MASK_ABOVE) for mask in found["masks"].cpu()[kept]]
        return Proposals(boxes[kept], classes[kept], found["scores"].cpu()[kept].clamp(0, 1), features, size, masks)

    def _classes_of(self, labels: list[int]) -> Tensor:
        """Classes of the detector's labels, -1 where the map leaves one out."""
        # Detectors of one stage have an output for the background too, which training leaves alone.
        silent = isinstance(self._module, RetinaNet | FCOS | SSD)
        unknown = next((label for label in labels if label not in self._classes and not (silent and label == 0)), None)
        if unknown is not None and self._counted:
            msg = (
                f"The detector proposed label {unknown}; with {len(self.class_names)} class_names labels 1 to "
                f"{len(self.class_names)} are expected (torchvision's background is 0): give class_map={{label: name}}."
            )
            raise CoresetError(msg)
        return torch.tensor([self._classes.get(label, -1) for label in labels], dtype=torch.int64)

    def _embedded(self, model: Any, seen: dict[str, Any], boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """Averaged RoI features of boxes ``[K, D]``, in pixels of the image."""
        listed = seen["images"]
        maps = seen["maps"] if isinstance(seen["maps"], Mapping) else {"0": seen["maps"]}
        first = next(iter(maps.values()))
        scaled = [resize_boxes(boxes.to(first.device), list(size), list(listed.image_sizes[0]))]
        heads = getattr(model, "roi_heads", None)
        if heads is None:
            if self.layer == "head":
                msg = f"{type(model).__name__} has no box head: give layer='roi'."
                raise ValueError(msg)
            return pooled_over_levels(list(maps.values()), scaled[0], listed.tensors.shape[-2:]).float().cpu()
        pooled = heads.box_roi_pool(maps, scaled, listed.image_sizes)
        rows: Tensor = heads.box_head(pooled) if self.layer == "head" else pooled.mean(dim=(2, 3))
        return rows.float().cpu()


def pooled_over_levels(maps: Sequence[Tensor], boxes: Tensor, size: Sequence[int]) -> Tensor:
    """RoI alignment of boxes on the level of a pyramid that fits their size, averaged ``[K, D]``.

    The level is that of Lin et al. 2017, as in torchvision's multi-scale pooling: a box as large as the image belongs
    to the coarsest map, one of half the side to the next finer one. Maps with another number of channels than the
    first are left out.

    Args:
        maps: Maps of one image ``[1, D, h, w]``, the finest first.
        boxes: Corners ``[K, 4]`` in pixels of the network's input.
        size: Height and width of that input.
    """
    alike = [level for level in maps if level.shape[1] == maps[0].shape[1]]
    sides = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    steps = torch.log2(sides.clamp(min=1e-6) / max(size)).floor().to(torch.int64)
    levels = (len(alike) - 1 + steps).clamp(0, len(alike) - 1)
    rows = maps[0].new_zeros(len(boxes), maps[0].shape[1])
    for place, level in enumerate(alike):
        here = torch.nonzero(levels == place).flatten()
        if len(here):
            scale = level.shape[-1] / size[1]
            pooled = roi_align(level, [boxes[here].to(level.dtype)], _POOLED, scale, sampling_ratio=2, aligned=False)
            rows[here] = pooled.mean(dim=(2, 3))
    return rows


@contextmanager
def _as_it_is(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients, wherever the model is."""
    home = next((tensor.device for tensor in [*model.parameters(), *model.buffers()]), torch.device("cpu"))
    with module_ready(model, home), torch.no_grad():
        yield


def _ready_image(model: nn.Module, image: Tensor) -> Tensor:
    weight = next((parameter for parameter in model.parameters() if parameter.is_floating_point()), None)
    image = scaled_tensor(three_channels(image))
    return image if weight is None else image.to(weight.device, weight.dtype)


@contextmanager
def _pyramid(model: nn.Module) -> Iterator[dict[str, Any]]:
    """What the transform and the backbone of a detector gave, so that objects cost no second forward pass."""
    seen: dict[str, Any] = {}

    def keep_images(_module: nn.Module, _inputs: Any, output: Any) -> None:
        seen["images"] = output[0]

    def keep_maps(_module: nn.Module, _inputs: Any, output: Any) -> None:
        seen["maps"] = output

    hooks = []
    for name, keep in (("transform", keep_images), ("backbone", keep_maps)):
        part = getattr(model, name, None)
        if isinstance(part, nn.Module):
            hooks.append(part.register_forward_hook(keep))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _lowered(model: Any, floor: float) -> Iterator[None]:
    """The detector's own score threshold at the floor, then as it was."""
    owners: list[Any] = [part for part in (model, getattr(model, "roi_heads", None)) if hasattr(part, "score_thresh")]
    before = [owner.score_thresh for owner in owners]
    try:
        for owner in owners:
            owner.score_thresh = min(owner.score_thresh, floor)
        yield
    finally:
        for owner, value in zip(owners, before, strict=True):
            owner.score_thresh = value


def _known_weights(name: str, weights: str | None) -> Any:
    if name not in torchvision.models.list_models(module=torchvision.models.detection):
        known = torchvision.models.list_models(module=torchvision.models.detection)
        msg = f"torchvision does not know the detector {name!r}: give one of {', '.join(known)}."
        raise ValueError(msg)
    listed = torchvision.models.get_model_weights(name)
    if weights is not None and weights not in listed.__members__:
        msg = f"torchvision's {name} has no weights {weights!r}: give one of {[*listed.__members__]}, or None."
        raise ValueError(msg)
    return None if weights is None else listed[weights]


def _mapped(
    class_names: Sequence[str] | None, class_map: Mapping[Any, Any] | None, categories: list[str] | None
) -> tuple[list[str], dict[int, int]]:
    """Names of the classes, and the class of each of the detector's labels."""
    # Torchvision's lists of names hold the background and gaps.
    real = {label: name for label, name in enumerate(categories or []) if name not in ("__background__", "N/A")}
    if class_names is None and not real:
        msg = "class_names are not known: give the names of the classes that the detector's labels number from 1."
        raise ValueError(msg)
    names = list(real.values()) if class_names is None else names_in_order(class_names)
    if class_map is None:
        if not real:
            return names, {label + 1: label for label in range(len(names))}
        class_map = {name: name for name in real.values() if name in names}
        missing = next((name for name in names if name not in class_map), None)
        if missing is not None:
            msg = (
                f"class_names hold {missing!r}, which the detector does not know; it knows {', '.join(real.values())}: "
                "correct the name, or give class_map={'its name': 'yours'}."
            )
            raise ValueError(msg)
    by_name = {name: label for label, name in real.items()}
    classes: dict[int, int] = {}
    for source, target in class_map.items():
        label = by_name.get(source) if isinstance(source, str) else int(source)
        place = names.index(target) if target in names else target if isinstance(target, int) else None
        if label is None or place is None or not 0 <= place < len(names):
            msg = (
                f"class_map maps {source!r} to {target!r}; labels or names of the detector are accepted as keys, names "
                f"or numbers of the {len(names)} class_names as values: correct that entry."
            )
            raise ValueError(msg)
        classes[label] = place
    return names, classes
