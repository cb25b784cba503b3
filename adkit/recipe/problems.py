"""Checks a table against its model and says, in sentences, everything that is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_core.core_schema import ErrorType

from adkit.errors import UserError
from adkit.plugin.params import Params, Schema, expected, found, model_schema
from adkit.recipe.document import KeyPath
from adkit.utils.text import is_text, near

P = TypeVar("P", bound=Params)

_TYPE_ERRORS = frozenset(get_args(ErrorType)) - {"value_error", "assertion_error"}
"""The types of pydantic's own errors; all other errors are sentences that a model's author wrote."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a table, and where: ``path`` starts at that table."""

    path: KeyPath
    sentence: str
    missing: bool = False
    """Whether nothing is written at ``path``."""


def check(model: type[P], table: Mapping[str, Any], taker: str) -> tuple[P | None, tuple[Fault, ...]]:
    """The model of ``table``, or None and what is wrong with it.

    Args:
        taker: the name of what takes the keys, for the sentence ``unknown key; knn takes k, metric``.
    """
    foreign = {key for key, value in table.items() if _is_foreign(value)}
    # As JSON: strict Python mode would refuse lists for tuples and strings for paths.
    text = json.dumps({key: {} if key in foreign else value for key, value in table.items()})
    errors: list[ErrorDetails] = []
    try:
        checked = model.model_validate_json(text)
        if not foreign:
            return checked, ()
    except ValidationError as error:
        errors = error.errors(include_url=False)
    except UserError as error:
        return None, tuple(Fault((), problem) for problem in error.problems)
    schema = model_schema(model)
    faults: dict[KeyPath, Fault] = {}
    for fault in (*_foreign_faults(table, foreign, schema, taker), *_faults(errors, table, schema, taker)):
        faults.setdefault(fault.path, fault)
    return None, tuple(faults.values())


def unknown_key(key: str, schema: Schema, taker: str, belongs_to: str = "") -> str:
    """The sentence on a key that nobody takes: ``unknown key; knn takes k, metric, index (did you mean k?)``.

    Args:
        belongs_to: who does take the key, which is then said instead of a near match.
    """
    properties: Schema = schema.get("properties", {})
    if not properties:
        return f"unknown key; {taker} takes no keys"
    matches = near(key, properties) or _described_as(key, properties)
    hint = f" ({key} belongs to {belongs_to})" if belongs_to else f" (did you mean {matches[0]}?)" if matches else ""
    return f"unknown key; {taker} takes {', '.join(properties)}{hint}"


def _described_as(key: str, properties: Schema) -> list[str]:
    """The property whose description uses a word like ``key``, if it is the only one."""
    matches = [
        name for name, field in properties.items() if near(key, field.get("description", "").split(), likeness=0.85)
    ]
    return matches if len(matches) == 1 else []


def _is_foreign(value: Any) -> bool:
    """Whether no field can take the value: a date or, from Python, anything that TOML cannot write."""
    if isinstance(value, list):
        return any(map(_is_foreign, value))
    if isinstance(value, dict):
        return any(map(_is_foreign, value.values()))
    if isinstance(value, str):
        return not is_text(value)
    return not isinstance(value, int | float)


def _foreign_faults(table: Mapping[str, Any], keys: set[str], schema: Schema, taker: str) -> Iterator[Fault]:
    for key in sorted(keys):
        field = schema.get("properties", {}).get(key)
        if field is None:
            yield Fault((key,), unknown_key(key, schema, taker))
        else:
            yield Fault((key,), f"expected {expected(field)}, found {_odd_one(table[key])}")


def _odd_one(value: Any) -> str:
    """Words for the foreign value, or for the first one in a list or table."""
    inside = value if isinstance(value, list) else list(value.values()) if isinstance(value, dict) else None
    if inside is None:
        return found(value)
    index, odd = next((index, item) for index, item in enumerate(inside) if _is_foreign(item))
    return f"{_odd_one(odd)} as item {index + 1}" if isinstance(value, list) else f"{_odd_one(odd)} in it"


def _faults(errors: Sequence[ErrorDetails], table: Mapping[str, Any], schema: Schema, taker: str) -> Iterator[Fault]:
    # A sentence of the model's author comes first: it says more about a union than the types of its members do.
    for error in sorted(errors, key=lambda error: error["type"] in _TYPE_ERRORS):
        yield _fault(error, table, schema, taker)


def _fault(error: ErrorDetails, table: Mapping[str, Any], schema: Schema, taker: str) -> Fault:
    path: KeyPath = ()
    value: Any = table
    rest = list(error["loc"])
    while rest and "properties" in schema:  # below a table of keys: lists and unions are one fault each
        key = str(rest.pop(0))
        if key not in schema["properties"]:
            return Fault((*path, key), unknown_key(key, schema, taker if not path else str(path[-1])))
        path, schema = (*path, key), schema["properties"][key]
        if not isinstance(value, dict) or key not in value:
            says = f": {schema['description']}" if "description" in schema else ""
            return Fault(path, f"missing; expected {expected(schema)}{says}", missing=True)
        value = value[key]
    if error["type"] not in _TYPE_ERRORS:
        reason = error.get("ctx", {}).get("error")
        return Fault(path, str(reason) if isinstance(reason, Exception) else error["msg"])
    place = ""
    if rest and isinstance(rest[0], int) and isinstance(value, list) and rest[0] < len(value):
        place, value = f" as item {rest[0] + 1}", value[rest[0]]
    return Fault(path, f"expected {expected(schema)}{_length(error, schema)}, found {found(value)}{place}")


def _length(error: ErrorDetails, schema: Schema) -> str:
    """Words for the length that a union must have, for which JSON Schema has no place."""
    context = error.get("ctx", {})
    if "anyOf" not in schema or len(error["loc"]) > 1:
        return ""
    if "min_length" in context:
        return ", not empty" if context["min_length"] == 1 else f", of at least {context['min_length']}"
    return f", of at most {context['max_length']}" if "max_length" in context else ""
