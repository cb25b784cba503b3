"""The extractor ``timm``: any timm backbone, CNN or ViT, with its modules as levels."""

from .extractor import adkit_extractors

__all__ = ["adkit_extractors"]
