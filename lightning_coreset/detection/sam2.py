"""SAM 2's object pointers as embeddings of objects."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from lightning_coreset.data.fingerprint import stable_key
from lightning_coreset.detection.pretrained import load_pretrained, source_key, whole_numbers
from lightning_coreset.detection.proposals import size_of
from lightning_coreset.errors import CoresetError

_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Sam2PointerEncoder:
    """The object pointer of SAM 2 (Ravi et al. 2024) for each box, as OFDS embeds objects.

    The pointer exists only in the single-frame path of transformers' video model, which is private there: its shape is
    checked. Where SAM 2 thinks that a box shows no object, all pointers are one constant vector; k-means then sees
    equal rows. Cheaper, and as good as a rule, are features of the proposer itself.

    Args:
        model: A folder, a name on the hub, or a ``Sam2VideoModel`` with its processor (or None) as a tuple.

    Raises:
        CoresetError: On first use, where transformers is not installed, or its private path has changed.
        WeightsUnavailableError: On first use, where the weights cannot be had.

    Example:
        >>> Sam2PointerEncoder().fingerprint() == Sam2PointerEncoder("facebook/sam2-hiera-tiny").fingerprint()
        True
    """

    def __init__(self, model: Any = "facebook/sam2-hiera-tiny") -> None:
        self._source = model
        self._loaded: tuple[Any, Any] | None = None

    def fingerprint(self) -> str:
        """The model."""
        return stable_key("sam2 pointer", source_key(self._source))

    def module(self) -> nn.Module:
        """The model, loaded on first use."""
        if self._loaded is None:
            self._loaded = load_pretrained("Sam2VideoModel", "Sam2VideoProcessor", self._source)
        network: nn.Module = self._loaded[0]
        return network

    @torch.no_grad()
    def encode(self, images: Sequence[Tensor], boxes: Sequence[Tensor]) -> list[Tensor]:
        """Pointers ``[K, D]`` of the boxes ``[K, 4]`` of each image."""
        model: Any = self.module()
        rows = []
        for image, of_image in zip(images, boxes, strict=True):
            side = int(model.image_size)
            height, width = size_of(image)
            pixels = whole_numbers(image)[None].to(model.device, torch.float32) / 255
            pixels = interpolate(pixels, (side, side), mode="bilinear", antialias=True, align_corners=False)
            mean, deviation = (pixels.new_tensor(values)[:, None, None] for values in (_MEAN, _DEVIATION))
            scaled = of_image * torch.tensor([side / width, side / height] * 2)
            rows.append(_pointers(model, ((pixels - mean) / deviation).to(model.dtype), scaled.to(model.device)))
        return rows


def _pointers(model: Any, pixels: Tensor, boxes: Tensor) -> Tensor:
    """The private path, which takes one box at a time; the image is encoded with the first one."""
    look = getattr(model, "_single_frame_forward", None)
    seen: dict[str, Any] = {"pixel_values": pixels}
    rows: list[Tensor] = []
    for box in boxes.to(pixels.dtype):
        answer: Any = None if look is None else look(**seen, input_boxes=box[None, None])
        pointer = getattr(answer, "object_pointer", None)
        if pointer is None or pointer.numel() != pointer.shape[-1]:
            came = "nothing" if pointer is None else str(list(pointer.shape))
            msg = (
                f"transformers' Sam2VideoModel gave {came} as the pointer of a box; its private path has changed: use "
                "another version of transformers, or features of the proposer."
            )
            raise CoresetError(msg)
        rows.append(pointer.reshape(1, -1).float().cpu())
        seen = {"image_embeddings": answer.image_embeddings}
    return torch.cat(rows) if rows else torch.empty(0, 0)
