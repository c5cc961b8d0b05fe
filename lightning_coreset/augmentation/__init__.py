"""SDA, semantically-aware augmentation: foregrounds stay, backgrounds come from other images."""

from lightning_coreset.augmentation.dataset import SDADataset
from lightning_coreset.augmentation.export import export_images
from lightning_coreset.augmentation.settings import SDASettings

__all__ = ("SDADataset", "SDASettings", "export_images")
