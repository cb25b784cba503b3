"""Checks of a whole component: its parameters, and the contract of its kind."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from adkit.plugin.adapter import Adapter
from adkit.plugin.component import KINDS, Component
from adkit.plugin.context import Context
from adkit.plugin.extractor import Extractor
from adkit.plugin.params import Params
from adkit.plugin.scorer import Scorer
from adkit.testing.adapters import check_adapter
from adkit.testing.asserts import require, require_methods, require_type, running
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
    try:
        check_params(component)
        context = context or Context(image_size=SIZE)
        size, device = context.image_size, context.device
        extractor = make_extractor or (lambda: TinyExtractor(size).to(device))
        make = _factory(component, params or {}, context)
        if component.kind == "extractor":
            check_extractor(make, size, tolerance, device)
        elif component.kind == "adapter":
            check_adapter(make, extractor, make_scorer, size, tolerance, device)
        elif component.kind == "scorer":
            check_scorer(make, stream or feature_stream(device=device), tolerance)
        elif component.kind == "localizer":
            check_localizer(make, tolerance, device)
        else:
            check_stopper(make, extractor, make_adapter, size, device)
        if component.kind in ("extractor", "scorer", "localizer"):
            levels = stream.levels if stream else None
            check_detector(component, params, context=context, levels=levels, tolerance=tolerance)
    except AssertionError as error:
        error.add_note(f"in {component.kind} {component.name!r} with {dict(params or {})}")
        raise


def check_params(component: Component[Any]) -> None:
    """Require that the kind is one of the five and every parameter described and valid, by default or by example."""
    require(component.kind in KINDS, "kind", f"one of {', '.join(KINDS)}", repr(component.kind))
    model = component.params
    is_model = isinstance(model, type) and issubclass(model, Params)
    require(is_model, "params", "a subclass of adkit.plugin.Params", model)
    for name, field in model.model_fields.items():
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


def _factory(component: Component[Any], params: Mapping[str, object], context: Context) -> Callable[[], Any]:
    with running(f"params({params})"):
        validated = component.params.model_validate_json(json.dumps(params))

    def make() -> Any:
        with running("build(params, context)"):
            return component.build(validated, context)

    first, second = make(), make()
    require_methods(first, component.kind)
    require(first is not second, "fresh", "build to make a new instance at each call", "the same one twice")
    return make
