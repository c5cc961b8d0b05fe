"""CLIP-like models: an image encoder, features of prompts, a scale."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_coreset.regions.adapters.adapter import Adapter
from lightning_coreset.regions.views import as_size

_TEMPLATES = ("a photo of a {}.",)


def clip_adapter(
    image_encoder: Callable[[Tensor], Tensor],
    text_features: Tensor,
    scale: float | Tensor = 100.0,
    *,
    input_size: int | Sequence[int] | None = None,
) -> Adapter:
    """Similarities to prompts as logits: scale x cosine of image and text.

    Use it with ``loss="prompt"`` to look for the widest margin between prompts, and with ``fuse="feature"`` to average
    region embeddings before they are compared with the text.

    Args:
        image_encoder: Crops ``[n, C, h, w]`` to embeddings ``[n, d]``.
        text_features: One row for each class ``[classes, d]``.
        scale: Inverse temperature.
        input_size: Of the encoder.

    Raises:
        ValueError: Text features that are no matrix.

    Example:
        >>> adapter = clip_adapter(lambda crops: crops.mean((2, 3)), torch.eye(3), 10.0, input_size=8)
        >>> adapter.forward(torch.ones(2, 3, 8, 8))[1].shape
        torch.Size([2, 3])
    """
    if text_features.ndim != 2:
        msg = f"text_features have shape {list(text_features.shape)}: give one row for each class [classes, d]."
        raise ValueError(msg)
    text = nn.functional.normalize(text_features.float(), dim=1)
    factor = float(scale)

    def head(rows: Tensor) -> Tensor:
        return factor * nn.functional.normalize(rows.float(), dim=1) @ text.to(rows.device).T

    def forward(crops: Tensor) -> tuple[Tensor, Tensor]:
        rows = image_encoder(crops)
        return rows, head(rows)

    size = None if input_size is None else as_size(input_size)
    module = image_encoder if isinstance(image_encoder, nn.Module) else None
    return Adapter(forward, head=head, input_size=size, module=module)


def prompt_features(
    encode_text: Callable[[list[str]], Tensor], class_names: Sequence[str], templates: Sequence[str] = _TEMPLATES
) -> Tensor:
    """Unit text features ``[classes, d]``: the mean over templates of unit rows, as CLIP's authors do.

    Args:
        encode_text: Sentences to rows ``[n, d]``.
        class_names: Put in place of ``{}``.
        templates: Sentences.
    """
    rows = []
    for name in class_names:
        sentences = [template.format(name) for template in templates]
        rows.append(nn.functional.normalize(encode_text(sentences).float(), dim=1).mean(dim=0))
    return nn.functional.normalize(torch.stack(rows), dim=1)


def open_clip_adapter(
    name: str,
    class_names: Sequence[str],
    *,
    pretrained: str,
    templates: Sequence[str] = _TEMPLATES,
    device: torch.device | str = "cpu",
) -> Adapter:
    """A model of open_clip with prompts; needs the extra ``[vlm]``.

    Args:
        name: Such as ``"ViT-B-32"``.
        class_names: One prompt, or several by templates, for each.
        pretrained: A tag open_clip knows, or a path to weights.
        templates: Sentences with ``{}`` for the name.
        device: Where it runs.
    """
    import open_clip

    model = open_clip.create_model(name, pretrained=pretrained, device=device)
    tokenizer = open_clip.get_tokenizer(name)
    size = model.visual.image_size
    with torch.no_grad():
        text = prompt_features(
            lambda sentences: model.encode_text(tokenizer(sentences).to(device)), class_names, templates
        )
    adapter = clip_adapter(model.encode_image, text, model.logit_scale.exp().detach(), input_size=size)
    return adapter.replace(module=model)


def transformers_clip_adapter(
    model: Any,
    tokenizer: Callable[..., Any],
    class_names: Sequence[str],
    *,
    templates: Sequence[str] = _TEMPLATES,
) -> Adapter:
    """A CLIP-like model of transformers (>= 5) with prompts; needs the extra ``[vlm]``.

    Args:
        model: With ``get_image_features`` and ``get_text_features``, such as ``CLIPModel``.
        tokenizer: Its own.
        class_names: One prompt, or several by templates, for each.
        templates: Sentences with ``{}`` for the name.
    """

    def encode_text(sentences: list[str]) -> Tensor:
        tokens = tokenizer(sentences, padding=True, return_tensors="pt").to(model.device)
        return _rows(model.get_text_features(**tokens))

    with torch.no_grad():
        text = prompt_features(encode_text, class_names, templates)
    size = model.config.vision_config.image_size
    adapter = clip_adapter(
        lambda crops: _rows(model.get_image_features(pixel_values=crops)),
        text,
        model.logit_scale.exp().detach(),
        input_size=size,
    )
    return adapter.replace(module=model)


def _rows(output: Any) -> Tensor:
    # An object from transformers 5 on.
    return output if isinstance(output, Tensor) else output.pooler_output
