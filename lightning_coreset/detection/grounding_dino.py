"""Grounding DINO: objects of any class that words name."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import nms

from lightning_coreset.data.fingerprint import stable_key
from lightning_coreset.detection.class_names import names_in_order
from lightning_coreset.detection.pretrained import corners_of, load_pretrained, source_key, whole_numbers
from lightning_coreset.detection.proposals import Proposals, clipped, no_proposals, size_of


class GroundingDinoProposer:
    """Grounding DINO (Liu et al. 2023) through transformers, asked for the classes by name.

    The score of a class is the highest of its own words' tokens, so that no phrase mixes classes. Where the names do
    not fit one prompt, several are asked and boxes of the same place are merged. The embedding of an object is its
    query's last state in the decoder. Every image passes alone.

    Args:
        class_names: Names of the classes.
        model: A folder, a name on the hub, or a model with its processor as a tuple.
        prompts: What to ask for in place of each name, in the order of ``class_names``.
        floor: Least score of a proposal.
        overlap: Intersection over union above which boxes of several prompts are one object.

    Raises:
        ValueError: Prompts of another number, with a full stop, or longer than the model reads.
        CoresetError: On first use, where transformers is not installed.
        WeightsUnavailableError: On first use, where the weights cannot be had.

    Example:
        >>> GroundingDinoProposer(["cat", "traffic light"]).class_names
        ['cat', 'traffic light']
    """

    def __init__(
        self,
        class_names: Sequence[str],
        model: Any = "IDEA-Research/grounding-dino-tiny",
        *,
        prompts: Sequence[str] | None = None,
        floor: float = 0.1,
        overlap: float = 0.7,
    ) -> None:
        self.class_names = names_in_order(class_names)
        self.floor = floor
        self.overlap = overlap
        self._words = [word.strip().lower() for word in (self.class_names if prompts is None else prompts)]
        self._source = model
        self._loaded: tuple[Any, Any] | None = None
        wrong = next((word for word in self._words if "." in word or not word), None)
        if len(self._words) != len(self.class_names) or wrong is not None:
            told = f"{len(self._words)} prompts" if wrong is None else f"the prompt {wrong!r}"
            msg = (
                f"{told} for {len(self.class_names)} classes: give one for each class, of words without a full stop, "
                "which is what separates classes."
            )
            raise ValueError(msg)

    def fingerprint(self) -> str:
        """Model, words, floor score and overlap."""
        return stable_key("grounding dino", source_key(self._source), self._words, self.floor, self.overlap)

    def module(self) -> nn.Module:
        """The model, loaded on first use."""
        network: nn.Module = self._load()[0]
        return network

    @torch.no_grad()
    def propose(self, images: Sequence[Tensor]) -> list[Proposals]:
        """Everything above the floor score in each image."""
        return [self._look(image) for image in images]

    def prompts(self) -> list[list[int]]:
        """The classes that are asked for together, in order.

        Raises:
            ValueError: A class that no prompt could hold.
        """
        model, processor = self._load()
        longest = int(model.config.max_text_len)
        groups: list[list[int]] = []
        # Two special tokens begin and end a prompt, a full stop ends each class.
        used = longest
        for label, word in enumerate(self._words):
            length = len(processor.tokenizer(word, add_special_tokens=False)["input_ids"]) + 1
            if length + 2 > longest:
                msg = f"The prompt {word[:40]!r} is {length} tokens long, and {longest - 2} are read: shorten it."
                raise ValueError(msg)
            if used + length > longest:
                groups.append([])
                used = 2
            groups[-1].append(label)
            used += length
        return groups

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            names = ("GroundingDinoForObjectDetection", "GroundingDinoProcessor")
            self._loaded = load_pretrained(*names, self._source)
        return self._loaded

    def _look(self, image: Tensor) -> Proposals:
        size = size_of(image)
        groups = self.prompts()
        found = [self._ask(image, group, size) for group in groups]
        boxes, labels, scores, features = (torch.cat(column) for column in zip(*found, strict=True))
        order = torch.argsort(scores, descending=True, stable=True)
        if len(groups) > 1:
            order = order[nms(boxes[order], scores[order], self.overlap)]
        if not len(order):
            return no_proposals(size)
        return Proposals(boxes[order], labels[order], scores[order], features[order], size)

    def _ask(self, image: Tensor, group: Sequence[int], size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Boxes, classes, scores and states of one prompt."""
        model, processor = self._load()
        words = [self._words[label] for label in group]
        text = ". ".join(words) + "."
        inputs = processor(images=whole_numbers(image), text=text, return_tensors="pt").to(model.device)
        answer = model(**inputs)
        chances = answer.logits[0].sigmoid().float().cpu()
        # Of each class the best of its own tokens.
        of_class = torch.stack([chances[:, tokens].amax(dim=1) for tokens in _tokens_of(processor, text, words)], dim=1)
        scores, places = of_class.max(dim=1)
        boxes, has_area = clipped(corners_of(answer.pred_boxes[0], size[1], size[0]), size)
        kept = has_area & (scores >= self.floor)
        labels = torch.tensor(group, dtype=torch.int64)[places]
        return boxes[kept], labels[kept], scores[kept], answer.last_hidden_state[0].float().cpu()[kept]


def _tokens_of(processor: Any, text: str, words: Sequence[str]) -> list[list[int]]:
    """Positions of the tokens of each class in a prompt."""
    spans = processor.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    tokens, start = [], 0
    for word in words:
        end = start + len(word)
        tokens.append([place for place, (first, last) in enumerate(spans) if first < last and start <= first < end])
        start = end + len(". ")
    return tokens
