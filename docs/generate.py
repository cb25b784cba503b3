"""Write what the documentation takes from the code: references in recipes.md and plugins.md, public.md, the schema.

python docs/generate.py            write both files
python docs/generate.py --check    exit with 1 when one of them is stale
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from pydantic import BaseModel

import adkit.toolkit
from adkit import metrics, plugin, testing
from adkit.cli.new_plugin import template
from adkit.plugin import adapter, stopper, types
from adkit.plugin.component import KINDS, base_class
from adkit.plugin.contract import optional_members
from adkit.plugin.params import first_sentence
from adkit.plugin.registry import Registry, discover
from adkit.recipe.reference import reference_markdown
from adkit.recipe.schema import recipe_schema
from adkit.utils.environment import DISTRIBUTION

ROOT = Path(__file__).parents[1]
MARK = "<!-- generated from the code by docs/generate.py: edit that -->\n"

RECORDS = (
    *(types.Geometry, types.Level, types.Batch, types.Features, types.Scores, types.Stream, types.ImageStream),
    *(adapter.See, adapter.Step, adapter.Stage, adapter.Group, adapter.Schedule),
    *(stopper.Look, stopper.Progress, stopper.Verdict),
)
"""What flows between components, and the arguments of their members."""


def built_in() -> Registry:
    """What adkit itself brings, whatever else is installed beside it."""
    registry = discover()
    return Registry(
        [entry for kind in KINDS for entry in registry.found(kind) if entry.origin.distribution == DISTRIBUTION], []
    )


def generated() -> dict[Path, str]:
    """Path → text of every file that is written from the code."""
    registry = built_in()
    recipes = ROOT / "docs" / "recipes.md"
    plugins = ROOT / "docs" / "plugins.md"
    by_hand = {page: page.read_text(encoding="utf-8").split(MARK)[0] for page in (recipes, plugins)}
    return {
        recipes: by_hand[recipes] + MARK + "\n" + reference_markdown(registry),
        plugins: by_hand[plugins] + MARK + "\n" + "\n".join(plugin_reference()),
        ROOT / "docs" / "public.md": MARK + "\n" + "\n".join(public_names()),
        ROOT / "recipes" / "recipe.schema.json": json.dumps(recipe_schema(registry), indent=2) + "\n",
    }


def plugin_reference() -> Iterator[str]:
    """The lines of plugins.md that show the base classes, the records, and a complete example of each kind."""
    yield from ("## Members", "", "| kind | you write | you may write |", "|---|---|---|")
    bases = [base_class(kind) for kind in KINDS]
    for base in bases:
        members = (", ".join(f"`{name}`" for name in names) for names in (base.required, optional_members(base)))
        yield f"| {base.kind} | {' | '.join(members)} |"
    yield ""
    for base in bases:
        yield from (f"### {base.__name__}", "", *_source(base))
    yield from ("## Records", "")
    for record in RECORDS:
        yield from _source(record)
    yield from ("## Complete examples", "", "As `adkit plugins new KIND mine` writes them.", "")
    for kind in KINDS:
        yield from (f"### A complete {kind}", "", "```python", template(kind).rstrip(), "```", "")


def _source(of: type) -> list[str]:
    lines = inspect.getsource(of).rstrip().splitlines()
    shown = "\n".join(line for line in lines if "ClassVar" not in line and "@abstractmethod" not in line)
    # A line that is not shown leaves two blank ones, which ruff would take for a fault of format.
    return ["```python", re.sub(r"\n{3,}", "\n\n", shown), "```", ""]


def public_names() -> Iterator[str]:
    """The lines of public.md: every name that plugins and programs may rely on."""
    yield from (
        "# What is public",
        "",
        "These names may be relied on. Whatever is not here may change at any time.",
        "",
    )
    yield from ("## For users: `adkit`", "", *_names(adkit))
    yield from ("## For authors: `adkit.plugin`", "", "What they are for stands in [plugins.md](plugins.md).", "")
    yield from _names(plugin)
    for module in pkgutil.iter_modules(adkit.toolkit.__path__, "adkit.toolkit."):
        yield from _module(importlib.import_module(module.name))
    yield from _module(metrics)
    yield from ("## For tests: `adkit.testing`", "", *_names(testing))


def _module(module: ModuleType) -> Iterator[str]:
    yield from (
        f"## `{module.__name__}`",
        "",
        (module.__doc__ or "").strip().partition("\n\n")[0].replace("\n", " "),
        "",
    )
    own = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]
    yield from (line for name in own for line in _entry(name, getattr(module, name)))
    yield ""


def _names(module: ModuleType) -> Iterator[str]:
    yield from (line for name in module.__all__ for line in _entry(name, getattr(module, name)))
    yield ""


def _entry(name: str, value: object) -> Iterator[str]:
    if isinstance(value, TypeVar):
        return
    if not callable(value) or not getattr(value, "__module__", "").startswith("adkit"):
        yield f"- `{name}`"
        return
    yield f"- `{name}{_signature(value)}`: {first_sentence(value.__doc__)}"
    if isinstance(value, type) and value.__module__.startswith("adkit.toolkit") and not issubclass(value, BaseModel):
        for own, member in vars(value).items():
            if not own.startswith("_") and inspect.isfunction(member) and member.__doc__:
                yield f"  - `{own}{_signature(member)}`: {first_sentence(member.__doc__)}"


def _signature(value: Callable[..., object]) -> str:
    """The arguments as the source writes them; nothing for models and exceptions, which have fields of their own."""
    if isinstance(value, type) and (issubclass(value, Exception | BaseModel) or getattr(value, "_is_protocol", False)):
        return ""
    text = re.sub(r"""(: |-> )(['"])(.*?)\2""", r"\1\3", str(inspect.signature(value)))
    return re.sub(r"<class '[\w.]*\.(\w+)'>", r"\1", text.removesuffix(" -> None") if isinstance(value, type) else text)


def main() -> int:
    stale = [
        path for path, text in generated().items() if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is stale: run make docs", file=sys.stderr)
        return int(bool(stale))
    for path in stale:
        path.write_text(generated()[path], encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
