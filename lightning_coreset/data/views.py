"""Evaluation views: the same items without training augmentation, over copies, never over the user's objects."""

import copy
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset
from torchvision.datasets.vision import StandardTransform, VisionDataset

from lightning_coreset.errors import CoresetError

IMAGE_KEYS = ("image", "images", "pixel_values", "img")
TARGET_KEYS = ("label", "labels", "target", "targets", "fine_label")


class EvaluationView(Dataset[Any]):
    """A dataset read with another image transform.

    The transform of the dataset that reads the images is replaced in a copy, through subsets, concatenations and
    wrappers of any depth. Where there is none to replace, items are used as they come, except that PIL images and
    numpy arrays go through the transform: only tensors can be batched.

    Args:
        dataset: A map-style dataset.
        transform: From an image to a tensor; None leaves the dataset's own.

    Attributes:
        replaced: Whether a transform was found and replaced.

    Example:
        >>> view = EvaluationView([(torch.zeros(3, 4, 4), 1)], transform=None)
        >>> len(view), view.replaced
        (1, False)
    """

    def __init__(self, dataset: Any, transform: Callable[[Any], Any] | None) -> None:
        self.transform = transform
        self.dataset, self.replaced = dataset, False
        if transform is not None:
            self.dataset, self.replaced = _with_transform(dataset, lambda _: transform, lambda _: _AnyForm(transform))

    def __len__(self) -> int:
        """Number of items."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        """One item in the dataset's own structure."""
        item = self.dataset[index]
        if self.transform is None or self.replaced:
            return item
        # Without an image it can still be kept or left out: whoever needs one says so.
        key = next(iter(_image_keys(item)), None)
        image = item if key is None else item[key]
        return with_image(item, self.transform(image)) if isinstance(image, Image.Image | np.ndarray) else item


class RawImages(Dataset[Any]):
    """The images of a dataset before any transform: PIL images, arrays or tensors, as it reads them.

    Args:
        dataset: A map-style dataset.

    Raises:
        CoresetError: On reading an item without an image.

    Example:
        >>> RawImages([(torch.zeros(3, 4, 4), 1)])[0].shape
        torch.Size([3, 4, 4])
    """

    def __init__(self, dataset: Any) -> None:
        self._view = EvaluationView(dataset, identity)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._view)

    def __getitem__(self, index: int) -> Any:
        """One image."""
        return image_of(self._view[index])


def read_changed(dataset: Any, index: int, change: Callable[[Any], Any]) -> Any:
    """One item whose image is changed when it is read, before the dataset's own transform sees it.

    Args:
        dataset: A map-style dataset.
        index: The item.
        change: From a raw image to another of the same kind.

    Returns:
        The item in the dataset's own structure; where no transform is found the image is changed at last.

    Example:
        >>> read_changed([(torch.zeros(1), 7)], 0, lambda image: image + 1)
        (tensor([1.]), 7)
    """
    once = _Changed(change)
    item = _with_transform(dataset, once.before, once.before)[0][index]
    return item if once.done else with_image(item, change(image_of(item)))


def read_with_target(dataset: Any, index: int, change: Callable[[Any], Any]) -> Any:
    """One item with another target, put in before transforms that move image and target together.

    Args:
        dataset: A map-style dataset.
        index: The item.
        change: From the item's own target (None where it has none) to the new one.

    Returns:
        The item in the dataset's own structure; where no joint transform is found the target is changed at last.

    Example:
        >>> read_with_target([(torch.zeros(1), 7)], 0, lambda target: 3)
        (tensor([0.]), 3)
    """
    once = _ChangedTarget(change)
    item = _with_transform(dataset, _unchanged, once.before)[0][index]
    return item if once.done else with_target(item, change)


def target_of(item: Any) -> Any:
    """The target of an item: under one of `TARGET_KEYS` of a mapping, or second in a tuple; None where it has none."""
    key = _target_key(item)
    return None if key is None else item[key]


def with_target(item: Any, change: Callable[[Any], Any]) -> Any:
    """The same item with a changed target; a copy. Items without one become ``(item, target)``."""
    key = _target_key(item)
    if isinstance(item, Mapping):
        return {**item, key or "label": change(None if key is None else item[key])}
    if not isinstance(item, list | tuple):
        return item, change(None)
    target = change(None if key is None else item[key])
    changed = [*item[:1], target, *item[2:]]
    return type(item)(*changed) if hasattr(item, "_fields") else type(item)(changed)


def _target_key(item: Any) -> Any:
    if isinstance(item, Mapping):
        return next((name for name in TARGET_KEYS if name in item), None)
    return 1 if isinstance(item, list | tuple) and len(item) > 1 else None


def image_of(item: Any, least_dimensions: int = 1) -> Any:
    """The image of an item or batch.

    The entry "image", "images", "pixel_values" or "img" of a mapping, else its first image; the first image of a
    tuple or list; or the item itself. Single numbers are no images.

    Args:
        item: A tensor, array or PIL image, or a mapping, tuple or list of such and other things.
        least_dimensions: Of a tensor or array that counts as an image; 2 for batches, where numbers are vectors.

    Raises:
        CoresetError: No image is found.

    Example:
        >>> image_of({"label": 3, "img": torch.ones(1)}).tolist()
        [1.0]
    """
    key = _image_key(item, least_dimensions)
    return item if key is None else item[key]


def with_image(item: Any, image: Any) -> Any:
    """The same item with another image; a copy."""
    key = _image_key(item)
    if key is None:
        return image
    if isinstance(item, Mapping):
        return {**item, key: image}
    changed = [*item[:key], image, *item[key + 1 :]]
    return type(item)(*changed) if hasattr(item, "_fields") else type(item)(changed)


def _image_key(item: Any, least_dimensions: int = 1) -> Any:
    """Where the image of an item is; None: the item is the image."""
    found = _image_keys(item, least_dimensions)
    if not found:
        inside = list(item) if isinstance(item, Mapping) else type(item).__name__
        msg = (
            f"No image was found in an item with {inside}; a tensor, array or PIL image under "
            f"{', '.join(IMAGE_KEYS)} or first in a tuple is accepted: give a FeatureExtractor whose inputs() finds it."
        )
        raise CoresetError(msg)
    return found[0]


def _image_keys(item: Any, least_dimensions: int = 1) -> list[Any]:
    """Where an item has images, the one that counts first."""
    if _is_image(item, least_dimensions):
        return [None]
    if isinstance(item, Mapping):
        named = [key for key in IMAGE_KEYS if key in item and _is_image(item[key], least_dimensions)]
        return named or [key for key, value in item.items() if _is_image(value, least_dimensions)]
    if isinstance(item, list | tuple):
        return [place for place, value in enumerate(item) if _is_image(value, least_dimensions)]
    return []


def _is_image(value: Any, least_dimensions: int) -> bool:
    if isinstance(value, Tensor | np.ndarray):
        return value.ndim >= least_dimensions
    return isinstance(value, Image.Image)


def _with_transform(dataset: Any, single: Callable[[Any], Any], joint: Callable[[Any], Any]) -> tuple[Any, bool]:
    """A copy of a dataset that reads with another transform, and whether there was one to replace.

    Args:
        dataset: A map-style dataset.
        single: From the transform of an image (or None) to the new one.
        joint: The same for transforms of samples, or of image and target.
    """
    if isinstance(dataset, ConcatDataset):
        parts = [_with_transform(part, single, joint) for part in dataset.datasets]
        joined = copy.copy(dataset)
        joined.datasets = [part for part, _ in parts]
        return joined, all(replaced for _, replaced in parts)
    own = _own_attributes(dataset)
    inner = own.get("dataset")
    wraps = inner is not None and hasattr(inner, "__getitem__")
    unused = own.get("transform") is None and own.get("transforms") is None
    # A wrapper that was given no transform leaves the one below it to augment.
    if ("transform" in own or "transforms" in own) and not (wraps and unused):
        changed = copy.copy(dataset)
        if isinstance(dataset, VisionDataset) and _is_joint(dataset):
            changed.transforms = joint(dataset.transforms)
        elif isinstance(dataset, VisionDataset):
            changed.transform = single(dataset.transform)
            changed.transforms = StandardTransform(changed.transform, dataset.target_transform)
        elif "transform" in own:
            changed.transform = single(dataset.transform)
        else:
            changed.transforms = joint(dataset.transforms)
        return changed, True
    if wraps:
        inner, replaced = _with_transform(inner, single, joint)
        changed = copy.copy(dataset)
        changed.dataset = inner
        return changed, replaced
    return dataset, False


def _is_joint(dataset: VisionDataset) -> bool:
    """Whether it calls ``transforms(sample)`` or ``transforms(image, target)`` instead of ``transform(image)``.

    torchgeo's folders do, on what a folder without transform reads: those must not see an image transform.
    """
    if dataset.transforms is not None:
        return not isinstance(dataset.transforms, StandardTransform)
    # Children may read through their parent.
    readers = [getattr(vars(kind).get("__getitem__"), "__code__", None) for kind in type(dataset).__mro__]
    return any(code is not None and "transforms" in code.co_names for code in readers)


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Reading items may draw random numbers: afterwards those of Python, numpy and torch go on as before.

    Unlike Lightning's ``isolate_rng`` also where an error ends it.
    """
    python, arrays = random.getstate(), np.random.get_state()
    try:
        # A GPU that is not in use yet has no state to keep, and asking for it would take its memory.
        devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)


def _own_attributes(dataset: Any) -> Mapping[str, Any]:
    return vars(dataset) if hasattr(dataset, "__dict__") else {}


class _AnyForm:
    """A joint transform in the forms libraries call it: (sample dict), (image), (image, target)."""

    def __init__(self, transform: Callable[[Any], Any]) -> None:
        self.transform = transform

    def __call__(self, item: Any, *others: Any) -> Any:
        changed = with_image(item, self.transform(image_of(item)))
        return (changed, *others) if others else changed


class _Changed:
    """A change of the raw image that goes before whatever transform a dataset has, and knows whether it was asked."""

    def __init__(self, change: Callable[[Any], Any]) -> None:
        self.change = change
        self.done = False

    def before(self, transform: Callable[..., Any] | None) -> Callable[..., Any]:
        def changed(item: Any, *others: Any) -> Any:
            self.done = True
            item = with_image(item, self.change(image_of(item)))
            if transform is None:
                return (item, *others) if others else item
            return transform(item, *others)

        return changed


class _ChangedTarget:
    """A change of the target that goes before a joint transform, and knows whether it was asked."""

    def __init__(self, change: Callable[[Any], Any]) -> None:
        self.change = change
        self.done = False

    def before(self, transform: Callable[..., Any] | None) -> Callable[..., Any] | None:
        if transform is None:
            return None

        def changed(item: Any, *others: Any) -> Any:
            if others:
                self.done = True
                return transform(item, self.change(others[0]), *others[1:])
            if isinstance(item, Mapping):
                self.done = True
                return transform(with_target(item, self.change))
            return transform(item)

        return changed


def _unchanged(transform: Callable[..., Any] | None) -> Callable[..., Any] | None:
    return transform


def identity(image: Any) -> Any:
    """The image as it was read."""
    return image


def as_tensor(image: Any) -> Tensor:
    """A PIL image or array as a tensor ``[C, H, W]`` of its own type; tensors, and arrays of no image, as they are.

    Example:
        >>> as_tensor(np.zeros((4, 5, 3), dtype=np.uint8)).shape
        torch.Size([3, 4, 5])
    """
    if isinstance(image, Tensor):
        return image
    if isinstance(image, Image.Image) and image.mode not in ("L", "RGB", "RGBA", "F", "I", "I;16"):
        image = image.convert("RGB")
    array = np.asarray(image)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim == 3:
        array = array.transpose(2, 0, 1)
    # A copy: images and memory maps give arrays that must not be written to, and torch warns of those.
    return torch.from_numpy(np.array(array, order="C"))
