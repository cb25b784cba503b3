"""The JSON Schema of recipes, from all installed plugins, so that editors complete and check them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from adkit.data.formats import FORMATS
from adkit.plugin.component import KINDS, Kind
from adkit.plugin.params import Schema, first_sentence, model_schema
from adkit.plugin.registry import Registered, Registry, question
from adkit.recipe.reader import BACKBONE, CORE_TABLES, DEFAULT_FORMAT, DEFAULT_USE, NEED_ADAPTER, TABLES
from adkit.recipe.sweep import SWEEP
from adkit.recipe.tables import ScorerTable

_SWEEP: Schema = {
    "description": 'lists of values for dotted keys, such as "scorer.k" = [1, 2, 5]: a run per point of their grid',
    "type": "object",
    "properties": {
        "sample": {
            "description": "how many points of the grid are drawn; default: all",
            "type": "integer",
            "minimum": 1,
        },
        "rank_by": {
            "description": "synthetic: by the AUROC of drawn defects, in which no test image takes part; test: by the "
            "image AUROC of the test",
            "enum": ["synthetic", "test"],
            "default": "synthetic",
        },
    },
    "additionalProperties": {"anyOf": [{"type": "array", "minItems": 1}, {"type": "object"}]},
}


def recipe_schema(registry: Registry) -> Schema:
    """The JSON Schema of recipes: every recipe that adkit accepts is valid under it.

    Only a distribution in ``use`` must be spelled as package indexes compare it: ``some-thing``, not ``Some_Thing``. It
    cannot express validators that are written in Python, so a recipe that is valid may still be refused. It is of
    draft 07, the newest that Taplo (Even Better TOML) reads, and uses ``oneOf``, as Taplo completes no ``if``.
    """
    components: Schema = {kind: _component_table(kind, registry) for kind in KINDS}
    core = {
        name: {"description": first_sentence(model.__doc__), **model_schema(model)}
        for name, model in CORE_TABLES.items()
    }
    data = {"data": _data_table("the images"), "auxiliary": _data_table("other images, for the adapter alone")}
    tables: Schema = {**core, **data, **components}
    initial = {"properties": {"scorer": {"properties": {"fit": {"const": "initial"}}, "required": ["fit"]}}}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "adkit recipe",
        "type": "object",
        "properties": {**{name: tables[name] for name in TABLES}, SWEEP: _SWEEP},
        "required": ["data", "scorer", *(kind for kind in DEFAULT_USE if _must_be_written(kind, registry))],
        "additionalProperties": False,
        "dependencies": {name: ["adapter"] for name in NEED_ADAPTER},
        "if": {**initial, "required": ["scorer"]},
        "then": {"required": ["adapter"]},
    }


def _component_table(kind: Kind, registry: Registry) -> Schema:
    branches = [_component_branch(kind, entry, registry.names(entry)) for entry in registry.usable(kind)]
    names = sorted((name for entry in registry.usable(kind) for name in registry.names(entry)), key=_qualified)
    if not branches:
        return {"description": f"no {kind} is installed", "not": {}}
    use = {"description": f"the {kind}", "enum": names}
    if kind in DEFAULT_USE:
        use["default"] = DEFAULT_USE[kind]
    return {"description": question(kind), "type": "object", "properties": {"use": use}, "oneOf": branches}


def _qualified(name: str) -> bool:
    return ":" in name


def _component_branch(kind: Kind, entry: Registered, names: Sequence[str]) -> Schema:
    schema = model_schema(entry.component.params)
    own = model_schema(ScorerTable)["properties"] if kind == "scorer" else {}
    use = {"enum": [*names], "description": entry.summary}
    required = [] if DEFAULT_USE.get(kind) in names else ["use"]
    properties = schema.get("properties", {})
    if kind == "extractor" and BACKBONE in properties:
        properties = _of_ensembles(properties)
    return {
        **schema,
        "description": entry.summary,
        "properties": {"use": use, **own, **properties},
        "required": [*required, *schema.get("required", ())],
    }


def _of_ensembles(properties: Schema) -> Schema:
    """The keys of an extractor, with the lists that they may be where a list of backbones makes an ensemble."""

    def several(key: str, value: Schema) -> Schema:
        if key != BACKBONE and value.get("type") != "array":
            return value
        described: Schema = {name: value[name] for name in ("description", "default", "title") if name in value}
        plain = {name: inner for name, inner in value.items() if name not in described}
        return {**described, "anyOf": [plain, {"type": "array", "items": plain, "minItems": 2}]}

    return {key: several(key, value) for key, value in properties.items()}


def _must_be_written(kind: Kind, registry: Registry) -> bool:
    """Whether a recipe must have this table: its default component needs a parameter or is not installed."""
    defaults = [entry for entry in registry.usable(kind) if DEFAULT_USE[kind] in registry.names(entry)]
    return not defaults or bool(model_schema(defaults[0].component.params).get("required"))


def _data_table(description: str) -> Schema:
    branches = []
    for name, model in FORMATS.items():
        schema = model_schema(model)
        layout = first_sentence(model.__doc__)
        properties: dict[str, Any] = {
            **schema["properties"],
            "format": {"const": name, "description": layout},
        }
        required = {*schema.get("required", ()), "format"} - ({"format"} if name == DEFAULT_FORMAT else set())
        branches.append({**schema, "description": layout, "properties": properties, "required": sorted(required)})
    formats = {"description": "how the images are laid out", "enum": list(FORMATS), "default": DEFAULT_FORMAT}
    return {
        "description": description,
        "type": "object",
        "properties": {"format": formats},
        "oneOf": branches,
    }
