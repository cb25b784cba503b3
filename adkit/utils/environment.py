"""Facts about the machine and the code that a report states."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from typing import Final

DISTRIBUTION: Final = "adkit-ignite"
"""What pip calls adkit: on PyPI, `adkit` is somebody else's."""

PACKAGES = (
    DISTRIBUTION,
    "torch",
    "timm",
    "pytorch-ignite",
    "faiss-cpu",
    "numpy",
    "pillow",
    "scikit-image",
    "pydantic",
)


def versions() -> dict[str, str]:
    """Name → version, of Python and of each package that takes part in computing a score."""
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES}


def peak_memory_bytes() -> int:
    """The most memory that this process has held so far (resident set, since the process began)."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
