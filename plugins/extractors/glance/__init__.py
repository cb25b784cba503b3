"""The extractor ``glance``: what each patch shows, what its surroundings lead one to expect, and whether they match."""

from .extractor import adkit_extractors

__all__ = ["adkit_extractors"]
