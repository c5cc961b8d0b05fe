"""Classifiers that pool a feature map: where the map is, found by looking, and checked before it is believed."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_coreset.ops.random import seeded_generator
from lightning_coreset.regions.adapters.adapter import Adapter, evaluating
from lightning_coreset.regions.adapters.fidelity import map_fidelity
from lightning_coreset.regions.views import as_size

_TOLERANCE = 1e-3
# What networks raise for a size that they do not take.
_CANNOT = (RuntimeError, ValueError, AssertionError, TypeError, IndexError)


def from_module(
    module: nn.Module,
    *,
    input_size: tuple[int, int] | int | None = None,
    call: Callable[[Tensor], Any] | None = None,
    probe: bool | None = None,
) -> Adapter:
    """An adapter of any module; with its feature map where it is a timm or torchvision classifier that pools one.

    A map is believed only if pooling it and applying the head gives the module's own logits on noise; how far its
    windows say what crops of a wide scene would say is measured too (`Adapter.fidelity`).

    Args:
        module: Images to logits.
        input_size: Of its input; None asks its timm configuration or its ``example_input_array``.
        call: What is called in place of the module, such as its forward before it was replaced.
        probe: Look for a map in any module (True), or in none (False).

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
        >>> from_module(net, input_size=16, probe=True).features(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 8, 62, 62])
    """
    size = known_input_size(module) if input_size is None else as_size(input_size)
    adapter = Adapter(module if call is None else call, input_size=size, module=module)
    library = type(module).__module__.split(".")[0] in ("timm", "torchvision")
    if size is None or probe is False or not (probe or library):
        return adapter
    found = _feature_map(module, adapter.forward, size)
    if found is None:
        return adapter
    features, head = found
    noise = _noise(module, size)
    try:
        with torch.no_grad(), evaluating(module):
            fidelity = map_fidelity(features, size, noise.shape[1], noise)
    except _CANNOT:
        # A network that takes twice its size and no more.
        return adapter
    return adapter.replace(features=features, head=head, fidelity=fidelity)


def known_input_size(module: Any) -> tuple[int, int] | None:
    """Height and width of a module's input by its ``example_input_array`` or its timm configuration."""
    example = getattr(module, "example_input_array", None)
    if isinstance(example, Tensor) and example.ndim >= 3:
        return (example.shape[-2], example.shape[-1])
    parts = [module, *module.modules()] if isinstance(module, nn.Module) else [module]
    for part in parts:
        configuration = getattr(part, "pretrained_cfg", None) or getattr(part, "default_cfg", None)
        if isinstance(configuration, dict) and "input_size" in configuration:
            sides = configuration["input_size"]
            # A network made for another size than its weights says so itself.
            own = getattr(getattr(part, "patch_embed", None), "img_size", None)
            return (own[0], own[1]) if own is not None else (sides[-2], sides[-1])
    return None


_Map = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]


def _feature_map(module: nn.Module, call: Callable[[Tensor], Any], size: tuple[int, int]) -> _Map | None:
    with torch.no_grad(), evaluating(module):
        noise = _noise(module, size)
        try:
            reference = call(noise)
        except _CANNOT:
            return None
        if not isinstance(reference, Tensor) or reference.ndim != 2:
            return None
        for features, head in itertools.chain(_timm_map(module, noise), _probed_map(module, call, noise)):
            try:
                logits = head(features(noise).mean((2, 3)))
            except _CANNOT:
                continue
            if logits.shape == reference.shape and torch.allclose(logits, reference, _TOLERANCE, _TOLERANCE):
                return features, head
    return None


def _noise(module: nn.Module, size: tuple[int, int]) -> Tensor:
    """Twice as large as the input: a network that takes no other size than its own has no map to scan."""
    convolution = next((part for part in module.modules() if isinstance(part, nn.Conv2d)), None)
    channels = 3 if convolution is None else convolution.in_channels
    noise = torch.randn(1, channels, 2 * size[0], 2 * size[1], generator=seeded_generator("feature map"))
    like = next(module.parameters(), torch.zeros(1))
    return noise.to(like.device, like.dtype)


def _timm_map(module: Any, noise: Tensor) -> Iterator[_Map]:
    """By timm's own halves: a map, or tokens that make one."""
    if not hasattr(module, "forward_features") or not hasattr(module, "forward_head"):
        return
    if module.forward_features(noise).ndim == 4:
        yield module.forward_features, lambda rows: module.forward_head(rows[:, :, None, None])
        return
    prefix = getattr(module, "num_prefix_tokens", 0)
    patch = getattr(getattr(module, "patch_embed", None), "patch_size", None)
    if patch is None:
        return

    def features(images: Tensor) -> Tensor:
        tokens: Tensor = module.forward_features(images)[:, prefix:]
        rows, columns = images.shape[2] // patch[0], images.shape[3] // patch[1]
        return tokens.mT.reshape(len(tokens), -1, rows, columns)

    # The pooled row takes every place, so that it is what the head pools.
    yield features, lambda rows: module.forward_head(rows.unsqueeze(1).expand(-1, prefix + 1, -1))


def _probed_map(module: nn.Module, call: Callable[[Tensor], Any], noise: Tensor) -> Iterator[_Map]:
    """By watching a forward: the last map of any part, and the part after it that gives the logits."""
    seen: list[tuple[nn.Module, Any, Any]] = []

    def note(part: nn.Module, inputs: Any, output: Any) -> None:
        seen.append((part, inputs[0] if inputs else None, output))

    parts = [part for part in module.modules() if part is not module]
    handles = [part.register_forward_hook(note) for part in parts]
    try:
        call(noise)
    finally:
        for handle in handles:
            handle.remove()
    maps = [place for place, (_, _, output) in enumerate(seen) if _is_map(output)]
    for place in reversed(maps):
        part, _, output = seen[place]
        heads: list[Callable[[Tensor], Tensor]] = [_same]
        for later, given, _ in seen[place + 1 :]:
            if isinstance(given, Tensor) and given.numel() == output.shape[1]:
                heads.append(_head(later, given.ndim))
        for activation in (_same, torch.relu):
            for head in heads:
                yield _captured(part, call, activation), head


def _is_map(output: Any) -> bool:
    return isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1


def _same(rows: Tensor) -> Tensor:
    return rows


def _head(part: nn.Module, dimensions: int) -> Callable[[Tensor], Tensor]:
    return lambda rows: part(rows.view(*rows.shape, *(1,) * (dimensions - 2))).flatten(1)


def _captured(
    part: nn.Module, call: Callable[[Tensor], Any], activation: Callable[[Tensor], Tensor]
) -> Callable[[Tensor], Tensor]:
    def features(images: Tensor) -> Tensor:
        with _capturing(part) as outputs:
            call(images)
        return activation(outputs[-1])

    return features


@contextmanager
def _capturing(part: nn.Module) -> Iterator[list[Tensor]]:
    outputs: list[Tensor] = []
    handle = part.register_forward_hook(lambda _part, _inputs, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()
