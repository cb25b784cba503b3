"""Components and distributions made by hand, for tests that must not depend on what is installed."""

import datetime
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from adkit.plugin.component import Component
from adkit.plugin.params import Params
from adkit.plugin.registry import Failure, Origin, Registered, Registry


class KnnParams(Params):
    k: int = Field(2, ge=1, description="neighbors whose distances are averaged")
    metric: Literal["l2", "cosine"] = Field("l2", description="distance between features")
    index: Literal["auto", "exact"] = Field("auto", description="what searches")


class TimmParams(Params):
    backbone: str = Field("resnet18", min_length=1, description="name of a timm model")
    levels: tuple[str, ...] = Field(("layer2",), min_length=1, description="modules to read")


class EwcParams(Params):
    strength: float = Field(description="weight of the penalty", gt=0, examples=[1.0])


class EveryKind(Params):
    """One field of every kind that a parameter may have."""

    whole: int = Field(2, ge=1, le=9, description="a")
    even: int = Field(2, multiple_of=2, description="b")
    share: float = Field(0.5, gt=0, lt=1, description="c")
    free: float = Field(0.0, description="d")
    flag: bool = Field(False, description="e")
    word: str = Field("w", min_length=1, max_length=8, description="f")
    code: str = Field("a1", pattern="^[a-z][0-9]$", description="g")
    choice: Literal["one", "two", 3] = Field("one", description="h")
    single: Literal["only"] = Field("only", description="i")
    where: Path = Field(Path("here"), description="j")
    words: tuple[str, ...] = Field(("w",), min_length=1, max_length=3, description="k")
    pair: tuple[int, float] = Field((1, 2.0), description="l")
    size: tuple[int, int] = Field((1, 2), description="m")
    several: list[Annotated[int, Field(ge=0)]] = Field([1], description="n")
    unique: frozenset[str] = Field(frozenset({"u"}), description="o")
    union: int | tuple[int, ...] | Literal["*"] = Field("*", description="p")
    long: str | tuple[str, ...] = Field("*", min_length=1, description="q")
    maybe: int | None = Field(None, ge=1, examples=[1], description="r")
    table: dict[str, int] = Field({}, description="s")
    nested: KnnParams = Field(KnnParams(), description="t")


ORIGIN = Origin("handmade", "1.0", "handmade.plugin")


def registered(name, kind, params=Params, origin=ORIGIN, build=lambda params, context: None):
    return Registered(Component(name, kind, params, build), origin)


COMPONENTS = (
    registered("timm", "extractor", TimmParams),
    registered("ewc", "adapter", EwcParams),
    registered("plain", "adapter"),
    registered("fixed", "stopper"),
    registered("knn", "scorer", KnnParams),
    registered("center", "scorer"),
    registered("every", "scorer", EveryKind),
    registered("bilinear", "localizer"),
)
REGISTRY = Registry(COMPONENTS)
BROKEN = Failure(Origin("strange", "0.1", "strange.plugin"), "could not be loaded: ImportError: no luck")


def install(
    folder: Path,
    name: str,
    source: str | None,
    version: str = "1.0",
    entry: str | None = None,
    requires: Sequence[str] = (),
) -> str:
    """Write a distribution with one module, as an installer leaves it; its module's name."""
    module = f"{name.replace('-', '_')}_plugin"
    if source is not None:
        (folder / f"{module}.py").write_text(source, encoding="utf-8")
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {requirement}" for requirement in requires]
    (info / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[adkit]\n{entry or f'it = {module}'}\n", encoding="utf-8")
    sys.modules.pop(module, None)
    return module


SCORER = """
from adkit.plugin import Component, Params, hookimpl

@hookimpl
def adkit_scorers():
    return [Component({name!r}, "scorer", Params, lambda params, context: None)]
"""

POOL = [
    *(0, 1, 3, 10, -1, 2**70, 0.5, 1.5, 2.0, float("inf"), float("nan"), True, False),
    *("", "x", "a1", "A1", "word too long", "one", "only", "*"),
    *([], [1], [1, 2], [1, 2.0], [1, "x"], ["x"], ["x", "x"], ["x"] * 4, [[1]], [-1], [True]),
    *({}, {"k": 0}, {"k": 1, "z": 1}, {"x": "y"}),
    *(datetime.date(2020, 1, 1), datetime.datetime(2020, 1, 1), datetime.time(1), [datetime.time(1)]),
    *(np.float32(1), object(), {"x": datetime.time(1)}),
]
"""Values of every kind, the last seven of which JSON cannot hold."""
