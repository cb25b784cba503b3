"""Describes what a recipe can contain, for ``adkit plugins`` and for the reference in the documentation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, Final

from adkit.data.formats import FORMATS
from adkit.data.formats.base import DataTable
from adkit.plugin.component import KINDS, Kind
from adkit.plugin.params import Schema, expected, first_sentence, model_schema
from adkit.plugin.registry import Failure, Origin, Registered, Registry, kind_named, question
from adkit.recipe.reader import CORE_TABLES, DEFAULT_FORMAT, DEFAULT_USE, TABLES
from adkit.recipe.tables import ScorerTable
from adkit.utils.text import toml_key, toml_value

PLUGINS_SCHEMA: Final = "adkit.plugins/1"


def plugins_text(
    registry: Registry, kind: str | None = None, name: str | None = None, *, third_party: bool = False
) -> str:
    """A list of all components or of a kind's, or one component with its parameters as a TOML block to paste.

    Args:
        third_party: whether the list leaves out adkit's own.

    Raises:
        UserError: there is no such kind or component.
    """
    if kind is not None and name is not None:
        chosen = kind_named(kind)
        return "\n".join(_block(registry, chosen, registry.get(chosen, name)))
    lines: list[str] = []
    for each in KINDS if kind is None else (kind_named(kind),):
        lines += [*_kind_lines(registry, each, third_party), ""]
    if kind is None:
        lines += ["adkit plugins KIND NAME shows a component's parameters, to paste into a recipe.", ""]
    broken = failures_of(registry, third_party=third_party)
    if broken:
        lines.append("broken plugins")
    for failure in broken:
        lines += [f"  {failure.origin}", f"    {failure.reason}"]
    return "\n".join(lines).rstrip("\n")


def plugins_json(
    registry: Registry, kind: str | None = None, name: str | None = None, *, third_party: bool = False
) -> Schema:
    """What ``plugins_text`` says, for programs: a record for every component, and in lists one for every fault.

    A component's ``use`` is null where no recipe can name it, and its ``parameters`` are a JSON Schema.

    Raises:
        UserError: there is no such kind or component.
    """
    if kind is not None and name is not None:
        entries, broken = [registry.get(kind_named(kind), name)], []
    else:
        broken = failures_of(registry, third_party=third_party)
        kinds = KINDS if kind is None else (kind_named(kind),)
        entries = [entry for each in kinds for entry in _listed(registry, each, third_party)]
    components = [
        {
            "kind": entry.component.kind,
            "name": entry.component.name,
            "use": next(iter(registry.names(entry)), None),
            "summary": entry.summary,
            **_origin(entry.origin),
            "parameters": model_schema(entry.component.params),
        }
        for entry in entries
    ]
    faults = [{**_origin(failure.origin), "reason": failure.reason} for failure in broken]
    return {"schema": PLUGINS_SCHEMA, "components": components, "broken": faults}


def failures_of(registry: Registry, *, third_party: bool = False) -> list[Failure]:
    """The faults of all plugins, or of third parties' alone."""
    return [failure for failure in registry.failures if not (third_party and failure.origin.built_in)]


def _listed(registry: Registry, kind: Kind, third_party: bool) -> list[Registered]:
    return [entry for entry in registry.found(kind) if not (third_party and entry.origin.built_in)]


def _origin(origin: Origin) -> dict[str, Any]:
    return {**asdict(origin), "built_in": origin.built_in}


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
        default = ", the default" if DEFAULT_USE.get(kind) in registry.names(entry) else ""
        yield from (f"### `use = {toml_value(_name(registry, entry))}`{default}", "")
        yield from (f"{_sentence(entry.summary)}. From `{entry.origin.module}`.", "")
        yield from _rows(model_schema(entry.component.params))
    if not registry.found(kind):
        yield from ("None installed.", "")


def _kind_lines(registry: Registry, kind: Kind, third_party: bool) -> Iterator[str]:
    yield f"{kind}s: {question(kind)}"
    entries = _listed(registry, kind, third_party)
    if not entries:
        yield f"  none{' of third parties' * third_party} installed"
    names = [_name(registry, entry) for entry in entries]
    width = max(map(len, names), default=0)
    for name, entry in zip(names, entries, strict=True):
        clash = "" if registry.names(entry) else "  (its distribution has two of this name: no recipe can use it)"
        yield f"  {name:<{width}}  {entry.summary}"
        yield f"  {'':<{width}}  {entry.origin}{clash}"


def _name(registry: Registry, entry: Registered) -> str:
    """The shortest name that means a component; its own where no recipe can use it."""
    return next(iter(registry.names(entry)), entry.component.name)


def _block(registry: Registry, kind: Kind, entry: Registered) -> Iterator[str]:
    schema = model_schema(entry.component.params)
    yield f"# {entry.summary}"
    yield f"# {entry.origin}"
    yield ""
    yield f"[{kind}]"
    yield f"use = {toml_value(_name(registry, entry))}"
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
