"""Extractors with a network: timm, torchvision, and any module of the user's."""

import contextlib
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
import torch
import torchvision
from huggingface_hub import constants as hub_constants
from timm.data import resolve_model_data_config
from torch import Tensor, nn
from torchvision.transforms import v2

from lightning_coreset.data.fingerprint import module_key
from lightning_coreset.data.views import as_tensor
from lightning_coreset.errors import CoresetError, WeightsUnavailableError
from lightning_coreset.features.extractor import FeatureExtractor, as_rows, scaled_tensor, with_channels

_RANDOM_STATE = threading.RLock()
_ANSWER_SECONDS = 10.0
_WAYS_OUT = (
    "the other choices are features='pixels', a path to .npy, .npz or .safetensors embeddings, a network of your "
    "own as "
    "features=, or the weights in the local cache before the run"
)


class TimmExtractor(FeatureExtractor):
    """Penultimate features of a timm network, with the transform of its weights.

    Args:
        name: A timm model name.
        pretrained: Load its weights (from the local cache, else the hub); False starts from random ones.

    Raises:
        ValueError: timm does not know the name.
        WeightsUnavailableError: On first use, where the weights cannot be had.

    Example:
        >>> TimmExtractor("resnet10t", pretrained=False).key
        'timm/resnet10t (random weights)'
    """

    resizes = True

    def __init__(self, name: str, pretrained: bool = True) -> None:
        if not timm.is_model(name):
            close = timm.list_models(f"*{name.split('.')[0][:6]}*")[:3]
            msg = (
                f"timm does not know the model {name!r}: see "
                f"timm.list_models(){f', for example {close}' if close else ''}."
            )
            raise ValueError(msg)
        self.name = name
        self.pretrained = pretrained
        self._module: nn.Module | None = None
        try:
            self._config = timm.models.get_pretrained_cfg(name)
        except RuntimeError as error:
            known = timm.list_pretrained(f"{name.split('.')[0]}.*")
            msg = f"timm does not know the weights {name!r} ({error}): give one of {known}."
            raise ValueError(msg) from error

    @property
    def key(self) -> str:
        """The name with the tag of its weights."""
        if not self.pretrained:
            return f"timm/{self.name} (random weights)"
        tag = getattr(self._config, "tag", "") or ""
        return f"timm/{self.name}" if not tag or self.name.endswith(tag) else f"timm/{self.name}.{tag}"

    def module(self) -> nn.Module:
        """The network without its classifier."""
        if self._module is None:
            with _own_errors(self.key):
                if self.pretrained:
                    _ask_the_hub(self._config)
                with _own_random_state():
                    self._module = timm.create_model(self.name, pretrained=self.pretrained, num_classes=0)
        return self._module

    def transform(self, normalize: bool = True) -> Callable[[Any], Any]:
        """Resize and crop as the weights were trained for; normalise unless the source does."""
        config = resolve_model_data_config(self.module())
        size = config["input_size"][-2:]
        resize = [round(side / config["crop_pct"]) for side in size]
        modes = {"bicubic": v2.InterpolationMode.BICUBIC, "bilinear": v2.InterpolationMode.BILINEAR}
        interpolation = modes.get(config["interpolation"], v2.InterpolationMode.BICUBIC)
        return network_transform(resize, list(size), interpolation, config["mean"], config["std"], normalize)

    def extract(self, inputs: Tensor) -> Tensor:
        """Pooled features before the classifier ``[B, d]``."""
        return as_rows(self.module()(with_channels(inputs, self._config.input_size[0], self.key)), self.key)


class TorchvisionExtractor(FeatureExtractor):
    """Penultimate features of a torchvision classifier, with the transform of its weights.

    Args:
        name: A torchvision classification model.
        weights: Name of the weights; None starts from random ones.

    Raises:
        ValueError: torchvision does not know the name.
        WeightsUnavailableError: On first use, where the weights cannot be had.

    Example:
        >>> TorchvisionExtractor("resnet18", weights=None).key
        'torchvision/resnet18 (random weights)'
    """

    resizes = True

    def __init__(self, name: str, weights: str | None = "DEFAULT") -> None:
        if name not in torchvision.models.list_models(module=torchvision.models):
            msg = f"torchvision does not know the classifier {name!r}: see torchvision.models.list_models()."
            raise ValueError(msg)
        self.name = name
        known = torchvision.models.get_model_weights(name)
        if weights is not None and weights not in known.__members__:
            msg = f"torchvision's {name} has no weights {weights!r}: give one of {[*known.__members__]}, or None."
            raise ValueError(msg)
        self._weights = None if weights is None else known[weights]
        self._module: nn.Module | None = None

    @property
    def key(self) -> str:
        """The name with the name of its weights."""
        told = "(random weights)" if self._weights is None else self._weights.name
        return f"torchvision/{self.name} {told}"

    def module(self) -> nn.Module:
        """The network with its classifier replaced by nothing."""
        if self._module is None:
            with weights_of(self.key, self._weights, _WAYS_OUT):
                network = torchvision.models.get_model(self.name, weights=self._weights)
            self._module = without_classifier(network)
        return self._module

    def transform(self, normalize: bool = True) -> Callable[[Any], Any]:
        """Resize and crop as the weights were trained for; normalise unless the source does."""
        if self._weights is None:
            return network_transform([224, 224], [224, 224], v2.InterpolationMode.BILINEAR, *_IMAGENET, normalize)
        given = self._weights.transforms()
        resize, crop = (
            [size[0], size[0]] if len(size) == 1 else list(size) for size in (given.resize_size, given.crop_size)
        )
        return network_transform(resize, crop, given.interpolation, given.mean, given.std, normalize)

    def extract(self, inputs: Tensor) -> Tensor:
        """Features before the classifier ``[B, d]``."""
        return as_rows(self.module()(with_channels(inputs, 3, self.key)), self.key)


class ModuleExtractor(FeatureExtractor):
    """Any module whose output is ``[B, d]``, ``[B, tokens, d]`` or ``[B, C, H, W]``; the latter two are averaged.

    Images come as float tensors, integers scaled to [0, 1], in their own size; ``features_transform`` changes that.

    Args:
        module: The network; it is moved for the pass and then put back as it was.

    Example:
        >>> ModuleExtractor(nn.Flatten()).extract(torch.zeros(2, 3, 4, 4)).shape
        torch.Size([2, 48])
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    @property
    def key(self) -> str:
        """The class with a key of its weights."""
        return f"{type(self._module).__qualname__} {module_key(self._module)}"

    def module(self) -> nn.Module:
        """The module itself."""
        return self._module

    def extract(self, inputs: Tensor) -> Tensor:
        """The module's output as rows ``[B, d]``."""
        dtypes = [weight.dtype for weight in self._module.parameters() if weight.is_floating_point()]
        inputs = scaled_tensor(inputs).to(dtypes[0] if dtypes else torch.float32)
        return as_rows(self._module(inputs), type(self._module).__qualname__)


_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def network_transform(
    resize: list[int],
    crop: list[int],
    interpolation: Any,
    mean: Any,
    std: Any,
    normalize: bool,
) -> Callable[[Any], Any]:
    """Shorter side to ``resize``, centre crop, scale to [0, 1], mean and deviation."""
    size = resize[0] if resize[0] == resize[1] and crop[0] == crop[1] else resize
    steps: list[Any] = [
        v2.Lambda(three_channels),
        v2.Resize(size, interpolation=interpolation, antialias=True),
        v2.CenterCrop(crop),
        v2.Lambda(scaled_tensor),
    ]
    transform: Callable[[Any], Any] = v2.Compose(steps + [v2.Normalize(list(mean), list(std))] * normalize)
    return transform


def three_channels(image: Any) -> Tensor:
    """An image as a tensor ``[3, H, W]`` of its own type: grey repeated, alpha dropped.

    Raises:
        CoresetError: Another number of channels.
    """
    tensor = as_tensor(image)
    if tensor.ndim == 2:
        tensor = tensor.unsqueeze(0)
    if tensor.ndim == 3 and tensor.shape[0] == 1:
        return tensor.expand(3, -1, -1)
    if tensor.ndim != 3 or tensor.shape[0] not in (3, 4):
        msg = (
            f"The network takes images with 3 channels and got one of shape {list(tensor.shape)}: choose channels with "
            "features_transform=, or give a module of your own as features=."
        )
        raise CoresetError(msg)
    # The alpha channel of PNG files says nothing to a network.
    return tensor[:3]


def without_classifier(network: nn.Module) -> nn.Module:
    """A torchvision classifier whose last classifying layer is left out, by whatever name it goes."""
    for name in ("fc", "classifier", "heads", "head"):
        head = getattr(network, name, None)
        if isinstance(head, nn.Linear):
            setattr(network, name, nn.Identity())
            return network
        if isinstance(head, nn.Sequential):
            if isinstance(head[-1], nn.Linear):
                head[-1] = nn.Identity()
            else:
                # SqueezeNet classifies by a convolution: pooling and flattening are all that is left.
                setattr(network, name, nn.AdaptiveAvgPool2d(1))
            return network
    msg = f"{type(network).__name__} has no classifier that could be left out: give it as a module of your own."
    raise ValueError(msg)


def random_network(build: Callable[[], nn.Module], generator: torch.Generator) -> nn.Module:
    """A convolutional network with random weights from a generator; nothing is drawn from a global state.

    Convolutions as He et al. 2015 (fan-out, as torchvision draws them), linear layers uniform, normalisation neutral.

    Args:
        build: Makes the network; called where tensors have no memory.
        generator: On the CPU.

    Example:
        >>> network = random_network(lambda: nn.Conv2d(1, 2, 3, bias=False), torch.Generator().manual_seed(0))
        >>> network.weight.shape
        torch.Size([2, 1, 3, 3])
    """
    with torch.device("meta"):
        network = build()
    network.to_empty(device="cpu")
    for part in network.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        elif isinstance(part, nn.Linear):
            nn.init.kaiming_uniform_(part.weight, a=5**0.5, generator=generator)
        elif isinstance(part, nn.BatchNorm2d):
            part.reset_parameters()
        if isinstance(part, nn.Conv2d | nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
    return network


@contextlib.contextmanager
def weights_of(name: str, weights: Any, ways_out: str) -> Iterator[None]:
    """Around the making of a torchvision network: its own random state, and errors of one line within seconds.

    Args:
        name: The network, for messages.
        weights: An entry of torchvision's weights, or None.
        ways_out: What else can be done where the weights cannot be had.

    Raises:
        WeightsUnavailableError: Weights that are neither in the local cache nor at a site that answers.
    """
    with _own_errors(name, ways_out), _own_random_state():
        if weights is not None:
            _ask_the_site(weights.url)
        yield


@contextlib.contextmanager
def _own_random_state() -> Iterator[None]:
    """Random weights must not depend on the global random state, nor touch it: `torch.manual_seed` would seed GPUs."""
    # One at a time: threads share the global state.
    with _RANDOM_STATE, torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(0)
        yield


@contextlib.contextmanager
def _own_errors(name: str, ways_out: str = _WAYS_OUT) -> Iterator[None]:
    """Weights that cannot be had as one line that names the other choices."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "hash" not in str(error):
            raise
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        msg = f"The weights of {name} could not be loaded ({told}); {ways_out}."
        raise WeightsUnavailableError(msg) from error


def _ask_the_hub(config: Any) -> None:
    """Fail within seconds where the hub does not answer: its own retries take a minute.

    Raises:
        OSError: The weights are neither in the local cache nor at a hub that answers.
    """
    if not config.has_weights:
        msg = "timm has none"
        raise OSError(msg)
    repository = config.hf_hub_id
    if not repository and config.url:
        _ask_the_site(config.url)
    if repository and not config.file:
        ask_the_hub(repository, ("model.safetensors", "pytorch_model.bin"))


def ask_the_hub(repository: str, names: tuple[str, ...]) -> None:
    """Fail within seconds where the hub does not answer for a repository of which no file is in the local cache.

    Args:
        repository: Its name.
        names: Files that show that it is there.

    Raises:
        OSError: The hub does not answer.
    """
    # The hub reads its environment variable once, on import: one that is set later does not stop its retries.
    if hub_constants.HF_HUB_OFFLINE:
        return
    cached = [huggingface_hub.try_to_load_from_cache(repository, name) for name in names]
    if any(isinstance(path, str) and Path(path).exists() for path in cached):
        return
    try:
        huggingface_hub.get_hf_file_metadata(huggingface_hub.hf_hub_url(repository, names[0]), timeout=_ANSWER_SECONDS)
    except huggingface_hub.errors.EntryNotFoundError:
        # The hub answers: it knows other file names.
        return
    except Exception as error:
        if isinstance(error, OSError):
            raise
        msg = f"{hub_constants.ENDPOINT} does not answer: {type(error).__name__}"
        raise OSError(msg) from error


def _ask_the_site(url: str) -> None:
    """Fail within seconds where a site does not answer: torch waits for it without a limit.

    Raises:
        OSError: The weights are neither in torch's local cache nor at a site that answers.
    """
    if Path(torch.hub.get_dir(), "checkpoints", url.rsplit("/", 1)[1]).exists():
        return
    with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_ANSWER_SECONDS):
        pass
