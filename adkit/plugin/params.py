"""Parameters of components and recipe tables: strict, frozen, closed pydantic models."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, time
from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaWarningKind

from adkit.utils.text import counted, is_text, joined, toml_value


class Params(BaseModel):
    """The base of every parameter model: no coercion, no unknown keys, no inf or nan, no later change.

    Give every field a range and a one-line description, and one without a default an example to show:

        class KnnParams(Params):
            k: int = Field(2, ge=1, description="neighbors whose distances are averaged")
            level: str = Field(examples=["layer2"], description="level whose features are compared")
    """

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=False
    )


Schema = dict[str, Any]
"""A draft-07 JSON Schema without references and without null, since TOML has neither."""


class _Untitled(GenerateJsonSchema):
    """A generator of schemas in which only fields that set a ``title`` have one."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def emit_warning(self, kind: JsonSchemaWarningKind, detail: str) -> None:
        """Print nothing: its only warning, about a default that is no JSON, is a fault that discovery reports."""


def model_schema(model: type[BaseModel]) -> Schema:
    """The JSON Schema of a model's table, with its properties in the order of the model's fields.

    Raises:
        pydantic.errors.PydanticUserError: a field has a type that no TOML value can have.
        ValueError: the model contains itself.
    """
    raw = model.model_json_schema(schema_generator=_Untitled)
    schema = _plain(raw, raw.get("$defs", {}), frozenset())
    # The docstring describes the model; a component has a better sentence of its own to be shown.
    return {key: value for key, value in schema.items() if key != "description"}


def _plain(node: Schema | bool, definitions: Mapping[str, Any], within: frozenset[str]) -> Schema:
    if isinstance(node, bool):
        return {} if node else {"not": {}}
    node = dict(node)
    node.pop("$defs", None)
    node.pop("uniqueItems", None)  # of a set, which takes an item twice without complaint
    if "$ref" in node:
        name = node.pop("$ref").rsplit("/", 1)[-1]
        if name in within:
            raise ValueError(f"{name} contains itself")
        return {**_plain(definitions[name], definitions, within | {name}), **node}
    if "properties" in node:
        node.pop("title", None)  # pydantic's: the name of the class
        node["properties"] = {k: _plain(v, definitions, within) for k, v in node["properties"].items()}
    if "prefixItems" in node:
        node["items"] = [_plain(item, definitions, within) for item in node.pop("prefixItems")]
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            node[key] = _plain(node[key], definitions, within)
    if node.get("default", ...) is None:
        del node["default"]
    for key in ("anyOf", "oneOf", "allOf"):
        if key in node:
            node[key] = [_plain(part, definitions, within) for part in node[key] if part != {"type": "null"}]
            if len(node[key]) == 1:
                node = {**node.pop(key)[0], **node}
    return node


def expected(schema: Mapping[str, Any], many: bool = False) -> str:
    """Words for what a value must be: ``an integer of at least 1`` or, with ``many``, ``integers of at least 1``.

    A field's ``title`` replaces these words.
    """
    if "title" in schema:
        return str(schema["title"])
    if "const" in schema or "enum" in schema:
        options = [toml_value(option) for option in schema.get("enum", [schema.get("const")])]
        return options[0] if len(options) == 1 else f"one of {', '.join(options)}"
    if parts := schema.get("anyOf") or schema.get("oneOf"):
        return joined(dict.fromkeys(expected(part, many) for part in parts), "or")
    match schema.get("type"):
        case "integer":
            return ("integers" if many else "an integer") + _range(schema)
        case "number":
            return ("numbers" if many else "a number") + _range(schema)
        case "string":
            return _string(schema, many)
        case "boolean":
            return "true or false"
        case "array":
            return _list(schema, many)
        case "object":
            return "tables" if many else "a table"
        case _:
            return "values" if many else "a value"


def _range(schema: Mapping[str, Any]) -> str:
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    step = f", a multiple of {schema['multipleOf']}" if "multipleOf" in schema else ""
    if low is not None and high is not None:
        return f" from {low} to {high}{step}"
    bounds = [
        f"of at least {low}" if low is not None else f"above {above}" if above is not None else "",
        f"of at most {high}" if high is not None else f"below {below}" if below is not None else "",
    ]
    said = " and ".join(filter(None, bounds)).replace("and of at most", "and at most")
    return (f" {said}" if said else "") + step


def _string(schema: Mapping[str, Any], many: bool) -> str:
    words = "strings" if many else "a string"
    if schema.get("format") in {"path", "file-path", "directory-path"}:
        words = "paths" if many else "a path"
    if examples := schema.get("examples"):
        return f"{words} such as {', '.join(map(toml_value, examples))}"
    if "pattern" in schema:
        return f"{words} that matches {schema['pattern']}"
    low, high = schema.get("minLength", 0), schema.get("maxLength")
    if high is not None:
        return f"{words} of {low} to {counted(high, 'character')}"
    if low > 1:
        return f"{words} of at least {low} characters"
    return f"{words}, not empty" if low else words


def _list(schema: Mapping[str, Any], many: bool) -> str:
    words = "lists" if many else "a list"
    items, low, high = schema.get("items", {}), schema.get("minItems", 0), schema.get("maxItems")
    if isinstance(items, list):
        if len(items) == 1:
            return f"{words} with one item: {expected(items[0])}"
        same = len({expected(item) for item in items}) == 1
        of = expected(items[0], True) if same else ", ".join(expected(item) for item in items)
        return f"{words} of {len(items)} {of}" if same else f"{words} of {len(items)}: {of}"
    if low == high == 1:
        return f"{words} with one item: {expected(items)}"
    if low and low == high:
        count = f"{low} "
    elif high is not None:
        count = f"{low} to {high} "
    else:
        count = f"at least {low} " if low > 1 else ""
    words = f"{words} of {count}{expected(items, True)}"
    return f"{words}, not empty" if low == 1 and high is None else words


def first_sentence(text: str | None) -> str:
    """The first sentence of a docstring, without its full stop."""
    paragraph = " ".join((text or "").strip().split("\n\n")[0].split())
    return paragraph.split(". ")[0].removesuffix(".").replace("``", "`")


def found(value: Any) -> str:
    """Words for the value that a recipe has instead: ``0``, ``"two"``, ``a table``, ``a date``."""
    match value:
        case str() if not is_text(value):
            return "text that is not UTF-8"
        case bool() | int() | float() | str() | list():
            text = toml_value(value)
            return text if len(text) <= 60 else f"{text[:57]}…"
        case Mapping():
            return "a table"
        case datetime() | date():
            return "a date"
        case time():
            return "a time"
        case _:
            return f"a Python {type(value).__name__}"
