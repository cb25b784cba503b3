"""Finds the components of every installed plugin, and keeps a record of what is broken."""

from __future__ import annotations

import importlib.metadata
import json
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, Final
from weakref import WeakKeyDictionary

import pluggy
from pydantic import PydanticUserError, ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from adkit import __version__
from adkit.errors import UserError
from adkit.plugin import hooks
from adkit.plugin.component import KINDS, Component, Kind, base_class
from adkit.plugin.contract import Contract, missing, misspelt
from adkit.plugin.params import Params, first_sentence, model_schema
from adkit.plugin.side_effects import undoing
from adkit.utils.environment import DISTRIBUTION
from adkit.utils.text import did_you_mean, joined, toml_value

GROUP: Final = "adkit"

HOOK_KINDS: Final = MappingProxyType({f"adkit_{kind}s": kind for kind in KINDS})
"""Hook name → the kind of component that it returns."""

_SIDE_EFFECTS: Final[WeakKeyDictionary[ModuleType, str]] = WeakKeyDictionary()
"""A plugin's module → its fault, if it changed something for all others: no later discovery executes it again."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")

_CORE_KEYS: Final = MappingProxyType({"scorer": ("use", "fit", "levels")})
"""Kind → the keys of its table that belong to the core; ``use`` for all others."""


@dataclass(frozen=True)
class Origin:
    """Where a component comes from: its distribution, version and module."""

    distribution: str
    version: str
    module: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version} ({self.module})"

    @property
    def built_in(self) -> bool:
        """Whether it is adkit itself."""
        return normalized(self.distribution) == DISTRIBUTION


@dataclass(frozen=True)
class Registered:
    """A component that can be used, and where it comes from."""

    component: Component[Any]
    origin: Origin

    @property
    def qualified(self) -> str:
        """Its name with its distribution's, such as ``adkit-extra:knn``."""
        return f"{normalized(self.origin.distribution)}:{self.component.name}"

    @property
    def use(self) -> str:
        """What a recipe can always call it, whatever else is installed: a third party's by its qualified name."""
        return self.component.name if self.origin.built_in else self.qualified

    @property
    def summary(self) -> str:
        """The first sentence about the component: that of its module if that names it, else that of what builds it."""
        name, build, params = self.component.name, self.component.build, self.component.params
        module = getattr(sys.modules.get(getattr(build, "__module__", "")), "__doc__", None) or ""
        speaks_of, _, rest = first_sentence(module).partition(": ")
        if rest and name in speaks_of:
            return rest
        parameters = None if params is Params else params.__doc__
        return first_sentence(getattr(build, "__doc__", None) or parameters or module)


@dataclass(frozen=True)
class Failure:
    """A plugin, or a part of one, that cannot be used; it is shown, and disables nothing else."""

    origin: Origin
    reason: str

    def __str__(self) -> str:
        return f"{self.origin}: {self.reason}"


class Registry:
    """The components that a recipe can name."""

    def __init__(self, registered: Iterable[Registered] = (), failures: Iterable[Failure] = ()) -> None:
        self._registered = tuple(registered)
        self.failures = tuple(failures)

    def found(self, kind: Kind) -> tuple[Registered, ...]:
        """Every component of a kind, sorted by name, those that share a name with another included."""
        of_kind = (entry for entry in self._registered if entry.component.kind == kind)
        return tuple(sorted(of_kind, key=lambda entry: (entry.component.name, str(entry.origin))))

    def names(self, entry: Registered) -> tuple[str, ...]:
        """The names by which a recipe can use a component, the shortest first; none if its distribution has two of it.

        A bare name means the built-in component of that name, or else the only one.
        """
        kind, options = entry.component.kind, (entry.component.name, entry.qualified)
        return tuple(name for name in options if self._named(kind, name) == [entry])

    def usable(self, kind: Kind) -> tuple[Registered, ...]:
        """The components of a kind that a recipe can use."""
        return tuple(entry for entry in self.found(kind) if self.names(entry))

    def get(self, kind: Kind, name: str) -> Registered:
        """The component that a recipe names: ``knn``, or ``adkit-extra:knn`` for that of a distribution.

        Raises:
            UserError: no component has that name, or several do.
        """
        matches = self._named(kind, name)
        if len(matches) == 1:
            return matches[0]
        if matches:
            named = " and ".join(str(entry.origin) for entry in matches)
            usable = [f"use = {toml_value(entry.qualified)}" for entry in matches if self.names(entry)]
            advice = (
                f"write {joined(usable, 'or')}"
                if usable
                else "one distribution has two: uninstall it, or tell its author"
            )
            raise UserError(f'{len(matches)} {kind}s are named "{name}": {named}; {advice}')
        raise UserError(self._not_there(kind, name))

    def _named(self, kind: Kind, name: str) -> list[Registered]:
        distribution, colon, bare = name.rpartition(":")
        named = [entry for entry in self.found(kind) if entry.component.name == bare]
        if colon:
            return [entry for entry in named if normalized(entry.origin.distribution) == normalized(distribution)]
        return [entry for entry in named if entry.origin.built_in] or named

    def _not_there(self, kind: Kind, name: str) -> str:
        if not self._registered and not self.failures:
            return (
                f'no {kind} "{name}": no plugins are installed (no package has an entry point in the group '
                f'"{GROUP}"); install adkit with pip, which registers the built-in ones: pip install {DISTRIBUTION}'
            )
        options = [option for entry in self.found(kind) for option in self.names(entry)]
        names = [self.names(entry)[0] for entry in self.usable(kind)]
        there = f"{kind}s here: {', '.join(names)}" if names else f"there are no {kind}s here"
        sentence = f'no {kind} is named "{name}"{did_you_mean(name, options)}; {there}'
        others = [other for other in KINDS if self._named(other, name)]
        if others:
            sentence += f'; "{name}" is of kind {others[0]}'
        if self.failures:
            sentence += "; it may be in one of the plugins that are broken:"
            sentence += "".join(f"\n  {failure}" for failure in self.failures)
        return sentence


def normalized(distribution: str) -> str:
    """A distribution's name as package indexes compare it: ``Some_Thing`` is ``some-thing``."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def question(kind: Kind) -> str:
    """The question that a kind of component answers."""
    return first_sentence(getattr(hooks, f"adkit_{kind}s").__doc__)


def discover(path: Sequence[str] | None = None) -> Registry:
    """Load every plugin that is installed in the folders of ``path``; default: ``sys.path``."""
    registered: list[Registered] = []
    failures: list[Failure] = []
    for origin, entry in _entries(sys.path if path is None else path, failures).items():
        with undoing(entry.module) as changed:
            loaded = _load(origin, entry, failures)
        module = sys.modules.get(entry.module)
        fault = None if module is None else _SIDE_EFFECTS.get(module)
        if changed:
            fault = (
                f"as it is loaded it changes {joined(changed, 'and')}, which all plugins share: that was changed back, "
                "and none of its components is used; remove it from its modules and hooks"
            )
            if module is not None:
                _SIDE_EFFECTS[module] = fault
        if fault:
            failures.append(Failure(origin, fault))
        else:
            registered += loaded
    return Registry(registered, failures)


def _load(origin: Origin, entry: EntryPoint, failures: list[Failure]) -> list[Registered]:
    """The components of one plugin."""
    try:
        plugin = entry.load()
        manager = _manager(origin, plugin)
    except (Exception, SystemExit) as error:  # noqa: BLE001  another author's module may raise anything
        failures.append(Failure(origin, f"could not be loaded: {_last_line(error)}"))
        return []
    failures.extend(Failure(origin, fault) for fault in hook_faults(manager, plugin))
    registered: list[Registered] = []
    for hook in HOOK_KINDS:
        for item in _call(manager, hook, origin, failures):
            fault = component_fault(item, hook)
            if fault:
                failures.append(Failure(origin, f"{hook}: {fault}"))
            else:
                registered.append(Registered(item, origin))
    return registered


def _entries(path: Sequence[str], failures: list[Failure]) -> dict[Origin, EntryPoint]:
    """The entry points of the group, once each: a distribution may be on the path twice."""
    entries: dict[Origin, EntryPoint] = {}
    seen: set[str] = set()
    # Not importlib.metadata.entry_points: there, one package's unreadable file hides the plugins of all.
    for distribution in importlib.metadata.distributions(path=list(path)):
        try:
            if GROUP not in (distribution.read_text("entry_points.txt") or ""):
                continue
            declared = distribution.entry_points.select(group=GROUP)
            name, version = distribution.metadata["Name"], distribution.version
            key = normalized(name)
            excluding = None if key == DISTRIBUTION else _excluding(distribution)
        except Exception as error:  # noqa: BLE001  broken metadata makes its parser raise anything
            origin = Origin(str(distribution.locate_file("")), "unknown version", "entry_points.txt")
            failures.append(Failure(origin, f"its metadata cannot be read: {_last_line(error)}"))
            continue
        if key not in seen:  # an import, too, would find the first one on the path
            own = {Origin(name, version, entry.value): entry for entry in declared}
            if excluding:
                failures.extend(Failure(origin, excluding) for origin in own)
            else:
                entries |= own
        seen.add(key)
    return entries


def _excluding(distribution: Distribution) -> str | None:
    """What to say where a distribution requires another version of adkit; None where it does not."""
    for line in distribution.requires or ():
        if normalized(re.split(r"[^\w.-]", line.strip(), maxsplit=1)[0]) != DISTRIBUTION:
            continue
        from packaging.requirements import Requirement  # only where a third party's plugin is installed

        requirement = Requirement(line)
        applies = requirement.marker is None or requirement.marker.evaluate()
        if applies and not requirement.specifier.contains(__version__, prereleases=True):
            needed = f"{DISTRIBUTION}{requirement.specifier}"
            return (
                f"it was not imported, because it needs {needed}, found {__version__}: pip install --upgrade "
                f'{distribution.metadata["Name"]}, or else pip install "{needed}"'
            )
    return None


def _manager(origin: Origin, plugin: object) -> pluggy.PluginManager:
    """A plugin manager for this plugin alone, so that its faults affect no other."""
    manager = pluggy.PluginManager("adkit")
    manager.add_hookspecs(hooks)
    manager.register(plugin, name=str(origin))
    return manager


def _call(manager: pluggy.PluginManager, hook: str, origin: Origin, failures: list[Failure]) -> Iterator[Any]:
    """The items of the list that the plugin's implementation of a hook returns."""
    try:
        for answer in getattr(manager.hook, hook)():
            if isinstance(answer, list):
                yield from answer
            else:
                failures.append(
                    Failure(origin, f"{hook}: expected a list of Component, found a {type(answer).__name__}")
                )
    except (Exception, SystemExit) as error:  # noqa: BLE001  another author's function may raise anything
        failures.append(Failure(origin, f"{hook} raised {_last_line(error)}"))


def _last_line(error: BaseException) -> str:
    """The last line of an error's traceback, with the place in the plugin where it was raised."""
    line = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
    if isinstance(error, SyntaxError):
        return f"{line} ({error.filename}:{error.lineno})"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _of_plugin(frame.filename)]
    return f"{line} ({frames[-1].filename}:{frames[-1].lineno})" if frames else line


def _of_plugin(filename: str) -> bool:
    # Where the package importlib_metadata was imported, it loads entry points in place of Python's own.
    loading = filename in {__file__, importlib.__file__, importlib.metadata.__file__}
    return not (filename.startswith("<") or loading or Path(filename).parent.name == "importlib_metadata")


def hook_faults(manager: pluggy.PluginManager, plugin: object) -> list[str]:
    """What is wrong with the hooks of a registered plugin, in one sentence per fault."""
    faults: list[str] = []
    callers = manager.get_hookcallers(plugin) or []
    for caller in callers:
        if not caller.has_spec():
            match = did_you_mean(caller.name, HOOK_KINDS)
            faults.append(f"{caller.name} is no hook of adkit{match}; its hooks: {', '.join(HOOK_KINDS)}")
    hooked = {caller.name for caller in callers}
    unmarked = [name for name in HOOK_KINDS if callable(getattr(plugin, name, None)) and name not in hooked]
    faults.extend(f"{name} lacks @hookimpl, so it is never called" for name in unmarked)
    if not callers and not unmarked:
        faults.append(f"it has no hook: decorate a function named {' or '.join(HOOK_KINDS)} with @hookimpl")
    return faults


def is_name(name: object) -> bool:
    """Whether a component may have this name."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def component_fault(item: object, hook: str) -> str | None:
    """What is wrong with an item of the list that a hook returned; None if nothing is."""
    kind: Kind = HOOK_KINDS[hook]
    if not isinstance(item, Component):
        return f"expected a list of Component, found a {type(item).__name__} in it"
    if not is_name(item.name):
        return f"a component's name is lower-case letters, digits and underscores, found {item.name!r}"
    if item.kind != kind:
        fix = f"; return it from adkit_{item.kind}s" if item.kind in KINDS else ""
        return f'"{item.name}" is of kind {item.kind!r}, expected {kind!r}{fix}'
    if not callable(item.build):
        return f'"{item.name}": build must be callable with (params, context), found {item.build!r}'
    if fault := _class_fault(item.build, kind):
        return f'"{item.name}": {fault}'
    fault = _params_fault(item.params, _CORE_KEYS.get(kind, ("use",)))
    return f'"{item.name}": {fault}' if fault else None


def _class_fault(build: Any, kind: Kind) -> str | None:
    """What keeps a class from being of a kind, as far as it shows before an instance is made."""
    if not isinstance(build, type) or (kind == "extractor" and "torch" not in sys.modules):
        return None
    base = base_class(kind)
    # What an instance gets in __init__ is not there yet, so only a class that inherits can lack something.
    lacking = missing(build, base) if issubclass(build, Contract) else []
    if lacking:
        return f"a {kind} has {', '.join(base.required)}, and {build.__name__} lacks {', '.join(lacking)}"
    return next(misspelt(vars(build), base), None)


def _params_fault(params: Any, reserved: tuple[str, ...]) -> str | None:
    if not (isinstance(params, type) and issubclass(params, Params)):
        return f"params must be a subclass of adkit.plugin.Params, found {params!r}"
    try:
        schema = model_schema(params)
    except (PydanticUserError, ValueError) as error:
        return f"{params.__name__} cannot be written in TOML: {str(error).splitlines()[0]}"
    examples: dict[str, Any] = {}
    for key, field in schema.get("properties", {}).items():
        if key in reserved:
            return f"{params.__name__}.{key}: the key {key} belongs to adkit; name the parameter otherwise"
        if not field.get("description"):
            return f'{params.__name__}.{key} has no description: Field(..., description="one line")'
        if key in schema.get("required", ()):
            if not (isinstance(field.get("examples"), list) and field["examples"]):
                return f"{params.__name__}.{key} is required and has no example: Field(examples=[a value to show], ...)"
            examples[key] = field["examples"][0]
    return _values_fault(params, examples)


def _values_fault(params: type[Params], examples: Mapping[str, Any]) -> str | None:
    """Pydantic validates neither defaults nor examples, but resolved recipes and blocks to paste spell them out."""
    defaults = {
        field.validation_alias or name: field.get_default(call_default_factory=True)
        for name, field in params.model_fields.items()
        if not field.is_required()
    }
    try:
        params.model_validate_json(json.dumps(to_jsonable_python({**defaults, **examples})))
    except PydanticSerializationError as error:
        return f"{params.__name__} has a default that TOML cannot write: {error}"
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        place = ".".join(map(str, (params.__name__, *wrong["loc"])))
        what = "example" if wrong["loc"] and wrong["loc"][0] in examples else "default"
        return f"{place}: its {what} is not a value that it takes: {wrong['msg']}"
    except Exception as error:  # noqa: BLE001  a stranger's validator may raise anything
        return f"{params.__name__}: its defaults and examples are not values that it takes: {_last_line(error)}"
    return None


def kind_named(text: str) -> Kind:
    """The kind that a user means: ``scorer`` or ``scorers``.

    Raises:
        UserError: there is no such kind.
    """
    name = text.removesuffix("s")
    if name not in KINDS:
        hint = did_you_mean(text, KINDS)
        raise UserError(f"plugins: expected a kind of component, found {text!r}{hint}; kinds: {', '.join(KINDS)}")
    return name
