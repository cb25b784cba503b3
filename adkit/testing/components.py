"""Checks of a whole component: its name and parameters, and the contract of its kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pydantic import TypeAdapter, ValidationError

from adkit.plugin.adapter import Adapter
from adkit.plugin.component import KINDS, Component
from adkit.plugin.context import Context
from adkit.plugin.extractor import Extractor
from adkit.plugin.params import Params
from adkit.plugin.registry import component_fault
from adkit.plugin.scorer import Scorer
from adkit.recipe.problems import Fault
from adkit.recipe.problems import check as check_table
from adkit.testing.adapters import check_adapter
from adkit.testing.asserts import CallFailure, Failures, made, require, require_type, run_checks, running
from adkit.testing.detectors import check_detector
from adkit.testing.extractors import check_extractor
from adkit.testing.localizers import check_localizer
from adkit.testing.samples import SIZE, FeatureStream, feature_stream
from adkit.testing.scorers import check_scorer
from adkit.testing.stoppers import check_stopper
from adkit.testing.tiny import TinyAdapter, TinyExtractor


def check_component(
    component: Component[Any],
    params: Mapping[str, object] | None = None,
    *,
    context: Context | None = None,
    stream: FeatureStream | None = None,
    make_extractor: Callable[[], Extractor] | None = None,
    make_adapter: Callable[[], Adapter] = TinyAdapter,
    make_scorer: Callable[[], Scorer] | None = None,
    tolerance: float = 1e-5,
) -> None:
    """Run every check of a component's kind and, for extractors, scorers and localizers, those of ``check_detector``.

    All of them run, and one AssertionError has a line for each that failed.

    Args:
        component: a component as the list of a hook has it.
        params: its parameters as a recipe writes them; default: their defaults.
        context: the context to build it with; default: the CPU, seed 0 and images of 24×20 pixels.
        stream: for scorers: normal features with the levels that the scorer needs.
        make_extractor: for adapters and stoppers: gives a fresh extractor; default: ``TinyExtractor``.
        make_adapter: for stoppers: gives a fresh adapter that goes with the extractor.
        make_scorer: for adapters that ask for a scorer: gives a fresh one.
        tolerance: share of the largest value by which batches may differ.
    """
    require_type("what is checked", component, Component)
    context = context or Context(image_size=SIZE)
    size, device = context.image_size, context.device
    extractor = make_extractor or (lambda: TinyExtractor(size).to(device))
    built = _Built(component, params or {}, context)

    def check_kind() -> None:
        built.check()
        if component.kind == "extractor":
            check_extractor(built, size, tolerance, device)
        elif component.kind == "adapter":
            check_adapter(built, extractor, make_scorer, size, tolerance, device)
        elif component.kind == "scorer":
            check_scorer(built, stream or feature_stream(device=device), tolerance)
        elif component.kind == "localizer":
            check_localizer(built, size, tolerance, device)
        else:
            check_stopper(built, extractor, make_adapter, size, device)

    def check_whole() -> None:
        built.check()
        if component.kind in ("extractor", "scorer", "localizer"):
            levels = stream.levels if stream else None
            check_detector(component, params, context=context, levels=levels, tolerance=tolerance)

    try:
        run_checks(partial(check_params, component), built.check_fresh, check_kind, check_whole)
    except Failures as error:
        error.add_note(f"in {component.kind} {component.name!r} with {dict(params or {})}")
        raise


def check_params(component: Component[Any]) -> None:
    """Require a kind of the five, a name that discovery takes, and parameters that are described and valid.

    Each parameter is valid by its default, or by its example where it is required.
    """
    _require_params(component)
    run_checks(lambda: _check_discovery(replace(component, params=Params)), lambda: _check_fields(component))


def _require_params(component: Component[Any]) -> None:
    kind, params = component.kind, component.params
    if kind not in KINDS:
        raise CallFailure(f"kind: expected one of {', '.join(KINDS)}, found {kind!r}", "kind", "kind")
    if not (isinstance(params, type) and issubclass(params, Params)):
        line = f"params: expected a subclass of adkit.plugin.Params, found {params}"
        raise CallFailure(line, "params", "params")


def _check_discovery(component: Component[Any]) -> None:
    """Require that discovery takes a component; whether it can be built is another check."""
    fault = component_fault(replace(component, build=lambda params, context: None), f"adkit_{component.kind}s")
    require(fault is None, "discovery", "a component that adkit lists", fault)


def _check_fields(component: Component[Any]) -> None:
    """Require of every field what discovery asks of the first one, and then the rest of what it asks."""
    run_checks(*(partial(_check_field, component.params, name) for name in component.params.model_fields))
    _check_discovery(replace(component, name="component"))


def _check_field(model: type[Params], name: str) -> None:
    field = model.model_fields[name]
    require(bool(field.description), "descriptions", f"field {name} to have one", repr(field.description))
    if field.is_required():
        examples = field.examples or []
        require(bool(examples), "examples", f"field {name}, which is required, to have one", "none")
        _check_value(model, name, examples[0], "example")
    else:
        _check_value(model, name, field.get_default(call_default_factory=True), "default")


def _check_value(model: type[Params], name: str, value: object, what: str) -> None:
    with running(f"{what}s({name})"):
        written = TypeAdapter(Any).dump_json({name: value})
    try:
        model.model_validate_json(written)
    except ValidationError as error:
        wrong = [problem["msg"] for problem in error.errors() if problem["loc"][:1] == (name,)]
        require(not wrong, f"{what}s", f"{name} valid by {what}", f"{value!r}: {'; '.join(wrong)}")


@dataclass(frozen=True)
class _Built:
    """What builds instances of a component with parameters."""

    component: Component[Any]
    params: Mapping[str, object]
    context: Context

    def __call__(self) -> Any:
        _require_params(self.component)
        with running(f"params({dict(self.params)})"):
            validated, faults = check_table(self.component.params, self.params, str(self.component.name))
        if validated is None:
            raise Failures([self.refused(fault) for fault in faults])
        with running("build(params, context)"):
            return self.component.build(validated, self.context)

    def refused(self, fault: Fault) -> CallFailure:
        """The failure of a parameter that was given to ``check_component``, or was not."""
        name = ".".join(map(str, fault.path))
        where, line = f"params: {name}" if name else "params", fault.sentence
        if fault.missing:
            field = self.component.params.model_fields.get(name)
            value = (field.examples or [...])[0] if field else ...
            written = "…" if value is ... else repr(value)
            _, _, wanted = line.partition("; ")
            line = f"{wanted}, found none: give it, as in check_component(component, {{{name!r}: {written}}})"
        else:
            line = line if line.startswith("expected ") else f"expected what {self.component.name} takes, found {line}"
            line += ": correct what check_component is given"
        return CallFailure(f"{where}: {line}", where, where)

    def check(self) -> None:
        """Require that it can be built, without which no other check can run."""
        made(self.component.kind, self, self.context.device)

    def check_fresh(self) -> None:
        self.check()
        one, other = self(), self()
        require(one is not other, "fresh", "build to make a new instance at each call", "the same one twice")
