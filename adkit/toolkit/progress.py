"""Progress of long work inside a component."""

from adkit.utils.progress import Advance, steps

__all__ = ["Advance", "steps"]
