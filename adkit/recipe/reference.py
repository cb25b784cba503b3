"""Describes what a recipe can contain, for ``adkit plugins`` and for the reference in the documentation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from adkit.data.formats import FORMATS
from adkit.data.formats.base import DataTable
from adkit.plugin.component import KINDS, Kind
from adkit.plugin.params import expected, first_sentence, model_schema
from adkit.plugin.registry import Registered, Registry, kind_named, question
from adkit.recipe.reader import CORE_TABLES, DEFAULT_FORMAT, DEFAULT_USE, TABLES
from adkit.recipe.tables import ScorerTable
from adkit.utils.text import toml_key, toml_value


def plugins_text(registry: Registry, kind: str | None = None, name: str | None = None) -> str:
    """A list of all components or of a kind's, or one component with its parameters as a TOML block to paste.

    Raises:
        UserError: there is no such kind or component.
    """
    if kind is None:
        return "\n".join(_overview(registry))
    chosen = kind_named(kind)
    if name is None:
        return "\n".join((*_kind_lines(registry, chosen), *_failure_lines(registry)))
    return "\n".join(_block(chosen, registry.get(chosen, name)))


def reference_markdown(registry: Registry) -> str:
    """The reference of recipes in Markdown: a heading for every table, and below it one for every component."""
    lines: list[str] = []
    for table in TABLES:
        lines += [f"## `[{table}]`", ""]
        if table in CORE_TABLES:
            lines += [f"{_sentence(first_sentence(CORE_TABLES[table].__doc__))}.", ""]
            lines += _rows(model_schema(CORE_TABLES[table]))
        elif table == "data":
            lines += _data_reference()
        elif table == "auxiliary":
            lines += [
                "Other images than the normal ones, which only an adapter sees. The table takes the keys of `[data]` "
                "that say where images are. They are resized as those of `[data]`, and an image that is also among "
                "those is left out.",
                "",
            ]
        else:
            lines += _component_reference(registry, kind_named(table))
    return "\n".join(lines).rstrip() + "\n"


def _component_reference(registry: Registry, kind: Kind) -> Iterator[str]:
    yield from (question(kind), "")
    if kind == "scorer":
        yield from ("Besides `use`, every scorer takes:", "", *_rows(model_schema(ScorerTable)))
    for entry in registry.found(kind):
        default = ", the default" if DEFAULT_USE.get(kind) == entry.component.name else ""
        yield from (f"### `use = {toml_value(entry.component.name)}`{default}", "")
        yield from (f"{_sentence(entry.summary)}. From `{entry.origin.module}`.", "")
        yield from _rows(model_schema(entry.component.params))
    if not registry.found(kind):
        yield from ("None installed.", "")


def _overview(registry: Registry) -> Iterator[str]:
    for kind in KINDS:
        yield from _kind_lines(registry, kind)
        yield ""
    yield "adkit plugins KIND NAME shows a component's parameters, to paste into a recipe."
    yield from _failure_lines(registry)


def _kind_lines(registry: Registry, kind: Kind) -> Iterator[str]:
    yield f"{kind}s: {question(kind)}"
    entries = registry.found(kind)
    if not entries:
        yield "  none installed"
    width = max((len(entry.component.name) for entry in entries), default=0)
    names = [entry.component.name for entry in entries]
    for entry in entries:
        name = entry.component.name
        clash = "  (more than one has this name: no recipe can use it)" if names.count(name) > 1 else ""
        yield f"  {name:<{width}}  {entry.summary}"
        yield f"  {'':<{width}}  {entry.origin}{clash}"


def _failure_lines(registry: Registry) -> Iterator[str]:
    if registry.failures:
        yield ""
        yield "broken plugins"
    for failure in registry.failures:
        yield f"  {failure.origin}"
        yield f"    {failure.reason}"


def _block(kind: Kind, entry: Registered) -> Iterator[str]:
    schema = model_schema(entry.component.params)
    yield f"# {entry.summary}"
    yield f"# {entry.origin}"
    yield ""
    yield f"[{kind}]"
    yield f"use = {toml_value(entry.component.name)}"
    required = schema.get("required", ())
    for key, field in schema.get("properties", {}).items():
        optional = "default" not in field and key not in required
        said = "required; " if key in required else "optional; " if optional else ""
        yield ""
        yield f"# {field['description']} ({said}{expected(field)})"
        values = [field["default"]] if "default" in field else field.get("examples", [])[:1]
        yield f"{'# ' if optional else ''}{toml_key(key)} = {''.join(map(toml_value, values))}".rstrip()


def _data_reference() -> Iterator[str]:
    common = model_schema(DataTable)["properties"]
    del common["format"]
    yield from ("Which images, and how they are resized. Besides `format`, all formats take:", "")
    yield from _rows({"properties": common, "required": ["root"]})
    for name, model in FORMATS.items():
        schema = model_schema(model)
        own = {
            key: field for key, field in schema["properties"].items() if key != "format" and field != common.get(key)
        }
        default = ", the default" if name == DEFAULT_FORMAT else ""
        yield from (f"### `format = {toml_value(name)}`{default}", "")
        yield from (f"{_sentence(first_sentence(model.__doc__))}.", "")
        yield from _rows({"properties": own, "required": schema.get("required", ())})


def _rows(schema: Mapping[str, Any]) -> Iterator[str]:
    """The lines of a Markdown table of a schema's keys, and an empty one."""
    properties = schema.get("properties", {})
    if not properties:
        yield from ("No further keys.", "")
        return
    yield "| key | value | default | meaning |"
    yield "|---|---|---|---|"
    required = schema.get("required", ())
    for key, field in properties.items():
        default = f"`{toml_value(field['default'])}`" if "default" in field else "none"
        default = "required" if key in required else default
        cells = (f"`{key}`", expected(field), default, field.get("description", ""))
        yield "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
    yield ""


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
