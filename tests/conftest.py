"""Small real data, the smallest recipe that runs on it, and one run of that."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.recipe.small import write_small, write_small_classes

if TYPE_CHECKING:
    from adkit import Report

os.environ["ADKIT_CACHE_GB"] = "0"  # no test reads the features of another one, but those of the cache
os.environ["ADKIT_RUNTIME"] = "torch"  # converting small networks takes longer than computing them
gc.set_threshold(10_000)  # as commands have it: modules hold a million objects


@pytest.fixture(autouse=True)
def checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings of milliseconds leave no checkpoint out."""
    monkeypatch.setattr("adkit.training.trainer.SPARING", 0)


@pytest.fixture
def extracted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches of images that went through an extractor."""
    from adkit.inference.pipeline import Embedding

    sizes: list[int] = []
    extract = Embedding.extract

    def counted(self: Embedding, images: Any) -> Any:
        sizes.append(len(images))
        return extract(self, images)

    monkeypatch.setattr(Embedding, "extract", counted)
    return sizes


@pytest.fixture
def small_recipe(tmp_path: Path) -> dict[str, Any]:
    """The smallest recipe, with data of its own, for the test to change."""
    return write_small(tmp_path)


@pytest.fixture
def stripes(small_recipe: dict[str, Any], tmp_path: Path) -> Path:
    """The data root of the smallest recipe, with the category ``stripes``."""
    return tmp_path / "data"


@pytest.fixture(scope="session")
def textures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The textures, drawn once in seconds for all tests, which only look at them."""
    from adkit.data.formats.textures import write_textures

    root = tmp_path_factory.mktemp("drawn") / "textures"
    write_textures(root, seed=0)
    return root


@pytest.fixture
def classes(tmp_path: Path) -> dict[str, Any]:
    """The smallest recipe of classes of the same images: blue, green and red."""
    return write_small_classes(tmp_path)


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """One run of the smallest recipe, with drawn defects, for all tests that only look at it: copy what you change."""
    import adkit

    recipe = write_small(tmp_path_factory.mktemp("small"))
    del recipe["run"]["synthetic"]
    return adkit.run(recipe)


@pytest.fixture
def tile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str | bytes], Path]:
    """Writes ``recipes/tile.toml`` below the working directory; its path."""
    monkeypatch.chdir(tmp_path)
    Path("recipes").mkdir()

    def write(text: str | bytes) -> Path:
        path = Path("recipes/tile.toml")
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, open to other users, to whom the folders above it are closed."""
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for path in tmp_path.rglob("*"):
        path.chmod(0o755)
