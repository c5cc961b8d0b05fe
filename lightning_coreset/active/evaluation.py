"""Looking at the pool as at validation data."""

from collections.abc import Callable
from typing import Any

from torch.utils.data import DataLoader, default_collate

from lightning_coreset.data.views import EvaluationView


def evaluation_transform(validation: Any, pool: Any) -> Callable[..., Any] | None:
    """The image transform of the validation dataset, where the pool's has one to replace; else None.

    Args:
        validation: The validation loaders.
        pool: The train dataset.
    """
    loader = first_loader(validation)
    if loader is None or not EvaluationView(pool, _nothing).replaced:
        return None
    dataset: Any = loader.dataset
    while dataset is not None:
        found = vars(dataset).get("transform") if hasattr(dataset, "__dict__") else None
        if callable(found):
            return found  # type: ignore[no-any-return]
        dataset = getattr(dataset, "dataset", None)
    return None


def pool_loader(items: Any, template: "DataLoader[Any]", validation: Any, transform: Any) -> "DataLoader[Any]":
    """Items in their order, read through an evaluation view, collated as for validation.

    Args:
        items: A map-style dataset.
        template: The train loader, for its batch size and workers.
        validation: The validation loaders; their collation is taken, because that of training may mix images.
        transform: The image transform; None leaves the dataset's own.
    """
    loader = first_loader(validation)
    return DataLoader(
        EvaluationView(items, transform),
        batch_size=template.batch_size,
        num_workers=template.num_workers,
        collate_fn=_collate if loader is None else loader.collate_fn,
        pin_memory=template.pin_memory,
    )


def first_loader(loaders: Any) -> "DataLoader[Any] | None":
    """The first of some loaders, None where there is none."""
    if isinstance(loaders, dict):
        loaders = list(loaders.values())
    if isinstance(loaders, list | tuple):
        loaders = loaders[0] if loaders else None
    return loaders if isinstance(loaders, DataLoader) else None


def _nothing(image: Any) -> Any:
    return image


def _collate(items: list[Any]) -> Any:
    """As torch does; what cannot be stacked, such as boxes, stays a list."""
    try:
        return default_collate(items)
    except (TypeError, RuntimeError):
        if isinstance(items[0], dict):
            return {key: _collate([item[key] for item in items]) for key in items[0]}
        if isinstance(items[0], list | tuple):
            return [_collate(list(column)) for column in zip(*items, strict=True)]
        return items
