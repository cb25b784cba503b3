"""What a plugin must get right before its components are offered; each fault is a sentence to its author."""

from __future__ import annotations

import json
import re
from types import MappingProxyType
from typing import Any, Final

import pluggy
from pydantic import PydanticUserError, ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from adkit.contracts import KINDS, Component, Kind
from adkit.fields import model_schema
from adkit.params import Params
from adkit.utils.text import did_you_mean

HOOK_KINDS: Final = MappingProxyType({f"adkit_{kind}s": kind for kind in KINDS})
"""Hook name → the kind of component that it returns."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_CORE_KEYS: Final = MappingProxyType({"scorer": ("use", "fit")})
"""Kind → the keys of its table that belong to the core; ``use`` for all others."""


def hook_faults(manager: pluggy.PluginManager, plugin: object) -> list[str]:
    """What is wrong with the hooks of a registered plugin."""
    faults: list[str] = []
    callers = manager.get_hookcallers(plugin) or []
    for caller in callers:
        if not caller.has_spec():
            match = did_you_mean(caller.name, HOOK_KINDS)
            faults.append(f"{caller.name} is no hook of adkit{match}; its hooks: {', '.join(HOOK_KINDS)}")
    hooked = {caller.name for caller in callers}
    unmarked = [name for name in HOOK_KINDS if callable(getattr(plugin, name, None)) and name not in hooked]
    faults.extend(f"{name} lacks @hookimpl, so that it is never called" for name in unmarked)
    if not callers and not unmarked:
        faults.append(f"it has no hook: mark a function @hookimpl, of the name {' or '.join(HOOK_KINDS)}")
    return faults


def component_fault(item: object, hook: str) -> str | None:
    """What is wrong with an item of the list that a hook returned, if anything."""
    kind: Kind = HOOK_KINDS[hook]
    if not isinstance(item, Component):
        return f"expected a list of Component, found a {type(item).__name__} in it"
    if not isinstance(item.name, str) or not _NAME.fullmatch(item.name):
        return f"a component's name is lower-case letters, digits and underscores, found {item.name!r}"
    if item.kind != kind:
        fix = f"; return it from adkit_{item.kind}s" if item.kind in KINDS else ""
        return f'"{item.name}" is of kind {item.kind!r}, expected {kind!r}{fix}'
    if not callable(item.build):
        return f'"{item.name}": build must be callable with (params, context), found {item.build!r}'
    fault = _params_fault(item.params, _CORE_KEYS.get(kind, ("use",)))
    return f'"{item.name}": {fault}' if fault else None


def _params_fault(params: Any, reserved: tuple[str, ...]) -> str | None:
    if not (isinstance(params, type) and issubclass(params, Params)):
        return f"params must be a subclass of adkit.Params, found {params!r}"
    try:
        schema = model_schema(params)
    except (PydanticUserError, ValueError) as error:
        return f"{params.__name__} cannot be written in TOML: {str(error).splitlines()[0]}"
    for key, field in schema.get("properties", {}).items():
        if key in reserved:
            return f"{params.__name__}.{key}: the key {key} belongs to adkit; name the parameter otherwise"
        if not field.get("description"):
            return f'{params.__name__}.{key} has no description: Field(..., description="one line")'
    return _defaults_fault(params)


def _defaults_fault(params: type[Params]) -> str | None:
    """Pydantic does not validate defaults, but a resolved recipe spells them out and is read again."""
    fields = params.model_fields.items()
    defaults = {
        field.validation_alias or name: field.get_default(call_default_factory=True)
        for name, field in fields
        if not field.is_required()
    }
    try:
        params.model_validate_json(json.dumps(to_jsonable_python(defaults)))
    except PydanticSerializationError as error:
        return f"{params.__name__} has a default that TOML cannot write: {error}"
    except ValidationError as error:
        wrong = [fault for fault in error.errors(include_url=False) if fault["type"] != "missing"]
        if wrong:
            place = ".".join(map(str, (params.__name__, *wrong[0]["loc"])))
            return f"{place}: its default is not a value that it takes: {wrong[0]['msg']}"
    return None
