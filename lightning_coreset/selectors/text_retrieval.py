"""Text retrieval: the images that look most like the names of the classes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from lightning_coreset.detection import Objects
from lightning_coreset.ops.rows import normalize_rows
from lightning_coreset.pool import Pool
from lightning_coreset.selectors.base import Selector
from lightning_coreset.selectors.cost import Shown, Work
from lightning_coreset.selectors.detection import candidates_of
from lightning_coreset.selectors.group import Group, Picks


class TextRetrieval(Selector, name="text_retrieval"):
    """The class with the fewest units served so far takes the unchosen image nearest to its text.

    Image features and texts are embeddings of one model of images and text; without ``texts`` those of the prompts are
    made by open_clip (extra ``vlm``). Classes with equal units take their turn by number. O(N C d) time, O(N C) memory.

    Args:
        per_class: Must stay at its default: an image shows several classes.
        texts: Embedding of each class's text ``[C, d]``: rows of numbers, or a ``.npy``, ``.safetensors`` or ``.json``
            file; None embeds the prompts.
        class_names: Names of the classes; None takes those of the pool's objects.
        prompt: What is embedded of a name.
        model: Name of an open_clip model.
        pretrained: Name or file of its weights.

    Raises:
        ValueError: On selecting without texts or names, or with texts of another width than the features.

    Example:
        >>> from lightning_coreset import select
        >>> images = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
        >>> select(images, method="text_retrieval", budget=2, texts=[[1.0, 0.0], [0.0, 1.0]]).indices.tolist()
        [0, 2]
    """

    shows_classes = True

    def __init__(
        self,
        *,
        per_class: bool | None = None,
        texts: str | list[list[float]] | None = None,
        class_names: list[str] | None = None,
        prompt: str = "a photo of a {}",
        model: str = "ViT-B-32",
        pretrained: str = "laion2b_s34b_b79k",
    ) -> None:
        super().__init__(per_class=per_class)
        self.texts = texts
        self.class_names = class_names
        self.prompt = prompt
        self.model = model
        self.pretrained = pretrained

    def check(self) -> None:
        """Refuse classes of images, and a prompt without a place for the name."""
        if self.per_class:
            msg = f"per_class=True is not accepted by {self.name!r}: an image shows several classes; leave it out."
            raise ValueError(msg)
        if "{}" not in self.prompt:
            msg = f"prompt={self.prompt!r} is not accepted: give a text with {{}} where the name of the class stands."
            raise ValueError(msg)

    def work(self, size: int, width: int, count: int, memory_limit: int) -> Work:
        """With as many classes as are given or assumed; see `Shown.assumed`."""
        return self.work_shown(size, width, count, memory_limit, Shown.assumed(size))

    def work_shown(self, size: int, width: int, count: int, memory_limit: int, shown: Shown) -> Work:
        """Unit rows, then scores and orders of all classes."""
        named = self.texts if isinstance(self.texts, list) else self.class_names
        classes = shown.classes if named is None else len(named)
        cells = size * classes
        block = 4 * min(size, 8_192) * width
        memory = max(4 * size * width + block, 24 * cells) + 4 * cells + 64 * size
        return Work(2.0 * cells * width + 100.0 * cells * size.bit_length(), memory, count)

    def spends(self, pool: Pool, objects: Objects | None) -> bool:
        """Which class is at turn hangs on the units it was served."""
        return True

    def select_group(self, group: Group) -> Picks:
        """Classes by units served, each the best image that fits."""
        texts = self._texts(group.objects)
        if texts.shape[1] != group.rows.shape[1]:
            msg = (
                f"texts are {texts.shape[1]} wide and features {group.rows.shape[1]}: give embeddings of one model of "
                "images and text."
            )
            raise ValueError(msg)
        scores = normalize_rows(group.rows) @ normalize_rows(texts).T
        order = torch.argsort(scores, dim=0, descending=True, stable=True)
        # Lists would take five times the memory of the array.
        queues, places = order.T.numpy(), [0] * len(texts)
        free, purse = candidates_of(group), group.wallet
        prices = purse.charges.tolist()
        served = [0.0] * len(texts)
        open_classes = set(range(len(texts)))
        picks: list[int] = []
        at_turn: list[int] = []
        while open_classes and purse.left > 0:
            label = min(open_classes, key=lambda label: (served[label], label))
            queue = queues[label]
            while places[label] < len(queue):
                image = int(queue[places[label]])
                if bool(free[image]) and purse.fits(image):
                    break
                places[label] += 1
            else:
                open_classes.remove(label)
                continue
            purse.take(image)
            free[image] = False
            # An image that costs nothing must not leave its class at turn for ever.
            served[label] += prices[image] or 1.0
            picks.append(image)
            at_turn.append(label)
        return Picks(torch.tensor(picks, dtype=torch.int64), details={"class": at_turn})

    def _texts(self, objects: Objects | None) -> Tensor:
        if isinstance(self.texts, str):
            return read_texts(self.texts)
        if self.texts is not None:
            return torch.as_tensor(self.texts, dtype=torch.float32)
        named = self.class_names or (None if objects is None else objects.class_names)
        if named is None:
            msg = (
                "'text_retrieval' needs texts=, or class names to make them of: give class_names=, or "
                "Objects(class_names=...)."
            )
            raise ValueError(msg)
        return embed_texts([self.prompt.format(name) for name in named], self.model, self.pretrained)


def read_texts(path: str) -> Tensor:
    """Rows of numbers from a ``.npy``, ``.safetensors`` (its one tensor) or ``.json`` file ``[C, d]``.

    Raises:
        ValueError: Another kind of file.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".npy":
        return torch.from_numpy(np.load(path, allow_pickle=False)).float()
    if suffix == ".safetensors":
        return next(iter(load_file(path).values())).float()
    if suffix == ".json":
        return torch.tensor(json.loads(Path(path).read_text(encoding="utf-8")), dtype=torch.float32)
    msg = f"texts={path!r} is not accepted: give a .npy, .safetensors or .json file, or rows of numbers."
    raise ValueError(msg)


def embed_texts(prompts: list[str], model: str, pretrained: str) -> Tensor:
    """Embeddings of prompts by an open_clip model ``[C, d]``.

    Raises:
        ValueError: open_clip is not installed.
    """
    try:
        import open_clip  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        msg = "Embedding prompts needs open_clip: `pip install lightning-coreset[vlm]`, or give texts=."
        raise ValueError(msg) from error
    network: Any = open_clip.create_model(model, pretrained=pretrained).eval()
    with torch.no_grad():
        rows: Tensor = network.encode_text(open_clip.get_tokenizer(model)(prompts))
    return rows.float()
