"""What runs that keep features are compared by, and what harms the files that they keep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import adkit


def outcome(recipe: dict[str, Any], name: str) -> tuple[bytes, dict[str, Any]]:
    """The scores of a run byte by byte, and the figures of its report."""
    report = adkit.run(recipe | {"run": recipe["run"] | {"name": name}})
    figures = report.model_dump(include={"categories", "mean", "unreadable", "warnings"})
    return (Path(report.folder) / "scores.csv").read_bytes(), figures


def flip_a_bit(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
