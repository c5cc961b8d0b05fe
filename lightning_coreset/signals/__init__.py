"""What only training can tell: per-sample logits, losses, forgetting, margins, last-layer gradients."""

from lightning_coreset.signals.proxy import Proxy
from lightning_coreset.signals.signals import Signals

__all__ = ("Proxy", "Signals")
