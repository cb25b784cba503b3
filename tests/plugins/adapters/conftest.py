"""A cache of their own for the tests of adapters, which keep the Fisher information there."""

from __future__ import annotations

from pathlib import Path

import pytest

from adkit.toolkit.cache import VARIABLE


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the cached Fisher information."""
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    return tmp_path / "fisher"
