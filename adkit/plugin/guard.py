"""The guard of a component: what it is and gives back, checked against the contract; faults name the plugin.

``guarded`` puts a guard on each component when it is built. A guard has every member of its kind, whether the component
brings it or not, so that the core never asks what a component has; ``adkit.testing`` checks through the same guards.
"""

from __future__ import annotations

import errno
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, cast, get_args

import torch
from torch import Tensor, nn

from adkit.errors import NotFittedError, PluginError, UserError, exhausted, out_of_memory
from adkit.plugin.adapter import Adapter, See, Stage, Step
from adkit.plugin.checks import (
    check_batch,
    check_levels,
    check_map,
    check_schedule,
    check_scores,
    check_stages,
    check_tensor,
    described,
    fault,
)
from adkit.plugin.component import Kind, base_class
from adkit.plugin.contract import Contract, has_own, member, missing, misspelt
from adkit.plugin.extractor import Extractor
from adkit.plugin.localizer import Localizer
from adkit.plugin.scorer import Scorer
from adkit.plugin.stopper import Look, Stopper, Verdict
from adkit.plugin.types import Batch, Features, Fuse, Level, Scores, Stream
from adkit.utils.tensors import all_finite

DISK_FAILURES = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
"""Error numbers of a full or failing disk, which a stream that stores features may meet while a plugin reads it."""


@contextmanager
def blaming(who: str, call: str = "", advice: str = "") -> Iterator[None]:
    """Turn whatever a plugin raises into a PluginError that names it; a UserError, which the user can fix, passes.

    The errors of a full or failing disk are not the plugin's fault and pass, too.

    Args:
        who: names the component.
        call: the member that is called, for the message.
        advice: what to do, for the message.
    """
    where, what = f"{call}: " if call else "", f": {advice}" if advice else ""
    try:
        yield
    except (UserError, PluginError):
        raise
    except OSError as error:
        if error.errno in DISK_FAILURES:
            raise
        raise PluginError(who, f"{where}{type(error).__name__}: {error}{what}") from error
    except NotFittedError as error:
        raise PluginError(who, str(error)) from error
    except (Exception, SystemExit) as error:
        if exhausted(error):
            raise out_of_memory(f"{who}{f': {call}' if call else ''}", error) from error
        raise PluginError(who, f"{where}{type(error).__name__}: {error}{what}") from error


def _states() -> dict[str, bytes]:
    """The states of the global generators that weights are drawn from.

    Not that of ``random``: libraries draw from it as they are imported, which a component may do when it is built.
    """
    found = {"torch": torch.get_rng_state().numpy().tobytes()}
    if (numpy := sys.modules.get("numpy")) is not None:
        name, key, *rest = numpy.random.get_state()
        found["NumPy"] = key.tobytes() + repr((name, *rest)).encode()
    return found


@contextmanager
def drawing_nothing(who: str, what: str) -> Iterator[None]:
    """Refuse what draws from a global random generator, which no recipe seeds.

    Raises:
        PluginError: it did.
    """
    before = _states()
    yield
    after = _states()
    for name, state in before.items():
        if after[name] != state:
            expected, found = "random numbers of the recipe's seed alone", f"draws from the global generator of {name}"
            advice = "draw from context.generator(purpose), or build what loads its weights in torch.random.fork_rng()"
            raise fault(who, what, expected, found, advice)


class _Guard:
    """What the guards have in common: the component that they guard, and how they report its faults."""

    def __init__(self, inner: Any, who: str, kind: Kind) -> None:
        """Check what ``inner`` is.

        Args:
            inner: what the plugin built.
            who: names it in every fault.

        Raises:
            PluginError: it is no instance, lacks a member of its kind, or has one that is nearly a member.
        """
        self.inner, self.who = inner, who
        self._base = base_class(kind)
        require_members(inner, self._base, who)

    def _member(self, name: str) -> Any:
        return member(self.inner, self._base, name)

    def _require(self, holds: bool, what: str, expected: str, found: object, advice: str) -> None:
        if not holds:
            raise fault(self.who, what, expected, found, advice)

    def _exportable(self) -> Any:
        """What the component's ``for_export`` gives, without a guard, since exporters record it."""
        with blaming(self.who, "for_export"):
            found = self._member("for_export")()
        require_members(found, self._base, self.who, "for_export")
        return found


class GuardedScorer(_Guard, Scorer):
    """The guard of a scorer."""

    def __init__(self, inner: Any, who: str, device: str = "cpu") -> None:
        super().__init__(inner, who, "scorer")
        self.device = device

    def fit(self, stream: Stream) -> None:
        with blaming(self.who, "fit"):
            self.inner.fit(stream)

    def score(self, features: Features) -> Scores:
        with blaming(self.who, "score"):
            return check_scores(self.inner.score(features), features, self.who)

    def state_dict(self) -> dict[str, Tensor]:
        with blaming(self.who, "state_dict"):
            state = self.inner.state_dict()
        self._require(isinstance(state, Mapping), "state_dict", "a dict of tensors", described(state), "return one")
        for name, value in state.items():
            what, advice = f"state_dict: {name}", "make a tensor of it: torch.tensor(…)"
            self._require(isinstance(value, Tensor), what, "a tensor", described(value), advice)
            self._require(all_finite(value), what, "finite values", "NaN or infinity", "check what fit computes")
        return dict(state)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        with blaming(self.who, "load_state_dict"):
            self.inner.load_state_dict({name: tensor.to(self.device) for name, tensor in state.items()})

    def require(self, levels: Mapping[str, Level], images: int) -> None:
        with blaming(self.who, "require"):
            self._member("require")(levels, images)

    def memory(self, levels: Mapping[str, Level], images: int) -> int | None:
        with blaming(self.who, "memory"):
            found = self._member("memory")(levels, images)
        whole = found is None or (isinstance(found, int) and not isinstance(found, bool) and found >= 0)
        self._require(whole, "memory", "a number of bytes or None", repr(found), "round it: int(…)")
        return cast(int | None, found)

    def operations(self, levels: Mapping[str, Level], images: int) -> float | None:
        with blaming(self.who, "operations"):
            found = self._member("operations")(levels, images)
        number = found is None or (isinstance(found, int | float) and not isinstance(found, bool) and found >= 0)
        self._require(number, "operations", "a number or None", repr(found), "return how many there are")
        return cast(float | None, found)

    def nearest(self, level: str, cells: Tensor, k: int) -> tuple[Tensor, Tensor] | None:
        with blaming(self.who, "nearest"):
            found = self._member("nearest")(level, cells, k)
        if found is None:
            return None
        distances, numbers = found
        fits = distances.shape == numbers.shape and distances.ndim == 2 and len(distances) == len(cells)
        self._require(
            fits and not numbers.dtype.is_floating_point,
            "nearest",
            f"distances and whole numbers of shape ({len(cells)}, at most {k})",
            f"shapes {tuple(distances.shape)} and {tuple(numbers.shape)} of {numbers.dtype}",
            "return one row for each cell",
        )
        return distances, numbers

    def for_export(self) -> Scorer:
        return cast(Scorer, self._exportable())


class GuardedLocalizer(_Guard, Localizer):
    """The guard of a localizer."""

    def __init__(self, inner: Any, who: str) -> None:
        super().__init__(inner, who, "localizer")

    def localize(self, scores: Scores, size: tuple[int, int]) -> Tensor:
        with blaming(self.who, "localize"):
            return check_map(self.inner.localize(scores, size), scores.image.shape[0], size, self.who)

    def for_export(self) -> Localizer:
        return cast(Localizer, self._exportable())


class GuardedStopper(_Guard, Stopper):
    """The guard of a stopper."""

    def __init__(self, inner: Any, who: str) -> None:
        super().__init__(inner, who, "stopper")
        share = self._member("validation")
        number = isinstance(share, int | float) and not isinstance(share, bool) and 0 <= share < 1
        self._require(number, "validation", "a share of the images in [0, 1)", repr(share), "set it to one")
        self.validation = float(share)

    def check(self, look: Look) -> Verdict:
        with blaming(self.who, "check"):
            verdict = self.inner.check(look)
        advice = "return Verdict(keep=…, stop=…, reason=…)"
        self._require(isinstance(verdict, Verdict), "check", "an adkit.plugin.Verdict", described(verdict), advice)
        for name, wanted in (("keep", bool), ("stop", bool), ("reason", str)):
            value = getattr(verdict, name)
            right = isinstance(value, wanted)
            self._require(right, f"check: Verdict.{name}", f"a {wanted.__name__}", repr(value), "convert it")
        value = verdict.value
        number = value is None or (isinstance(value, int | float) and math.isfinite(value))
        self._require(number, "check: Verdict.value", "a finite number or None", repr(value), "convert it: float(…)")
        return cast(Verdict, verdict)

    def state_dict(self) -> dict[str, float]:
        with blaming(self.who, "state_dict"):
            state = self._member("state_dict")()
        self._require(isinstance(state, Mapping), "state_dict", "a dict of numbers", described(state), "return one")
        for name, value in state.items():
            number = isinstance(value, int | float)
            self._require(number, f"state_dict: {name}", "a number", described(value), "convert it: float(…)")
        return {name: float(value) for name, value in state.items()}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        with blaming(self.who, "load_state_dict"):
            self._member("load_state_dict")(state)


class GuardedAdapter(_Guard, Adapter):
    """The guard of an adapter."""

    def __init__(self, inner: Any, who: str) -> None:
        super().__init__(inner, who, "adapter")
        self.schedule = check_schedule(self._member("schedule"), who)
        self.needs_scorer, self.reads_images = self._flag("needs_scorer"), self._flag("reads_images")
        self.reads_features = self._flag("reads_features")
        self.fuse = self._member("fuse")
        rules = get_args(Fuse)
        known = self.fuse is None or self.fuse in rules
        self._require(known, "fuse", f"None or one of {', '.join(rules)}", repr(self.fuse), "set one of these")
        self.extends: Final = has_own(inner, Adapter, "extend")
        """Whether the adapter trains a head of its own."""
        self._batches: Final = has_own(inner, Adapter, "batch")
        right = self.reads_images or not self._batches
        expected = "True where batch makes images of its own, which run through the whole network"
        self._require(right, "reads_images", expected, "False", "leave it out")
        right = self.reads_images or self.reads_features
        self._require(right, "reads_features", "True without reads_images", "False", "set one of the two")

    def extend(self, extractor: Extractor) -> Extractor:
        with blaming(self.who, "extend"), drawing_nothing(self.who, "extend"):
            found = self._member("extend")(extractor)
        advice = "return one such as adkit.toolkit.heads.ExtendedExtractor"
        fits = isinstance(found, nn.Module) and hasattr(found, "levels")
        self._require(
            fits, "extend", "an extractor with the levels of the given one and more", described(found), advice
        )
        first, names = list(extractor.levels), list(found.levels)
        kept = names[: len(first)] == first
        self._require(kept, "extend", f"the levels {', '.join(first)} first", ", ".join(names), "keep them as they are")
        check_extractor(found, self.who, "extend")
        return cast(Extractor, found)

    def prepare(self, see: See) -> None:
        with blaming(self.who, "prepare"):
            self.inner.prepare(see)

    def stages(self, extractor: Extractor) -> list[Stage]:
        advice = "it is asked before prepare, too, and must depend on the extractor and the parameters alone"
        with blaming(self.who, "stages", advice):
            stages = self.inner.stages(extractor)
        return check_stages(stages, list(extractor.parameters()), self.who)

    def batch(self, step: Step) -> Batch:
        if not self._batches:
            return step.batch
        with blaming(self.who, "batch"):
            return check_batch(self.inner.batch(step), self.who)

    def loss(self, step: Step, features: Features) -> Tensor | Mapping[str, Tensor]:
        with blaming(self.who, "loss"):
            found = self.inner.loss(step, features)
        terms = found if isinstance(found, Mapping) else {"": found}
        self._require(len(terms) > 0, "loss", "at least one term", "none", "return a scalar, or a scalar per name")
        for name, term in terms.items():
            scalar = isinstance(term, Tensor) and term.ndim == 0 and term.is_floating_point()
            what = f"loss: term {name}" if name else "loss"
            self._require(scalar, what, "a scalar tensor", described(term), "take the mean over images: values.mean()")
        return dict(found) if isinstance(found, Mapping) else cast(Tensor, found)

    def score(self, features: Features) -> Tensor:
        with blaming(self.who, "score"):
            return check_tensor(self.inner.score(features), (features.count,), "score", self.who)

    def after_step(self, step: Step, rates: Mapping[nn.Parameter, float]) -> None:
        with blaming(self.who, "after_step"):
            self._member("after_step")(step, rates)

    def _flag(self, name: str) -> bool:
        value = self._member(name)
        self._require(isinstance(value, bool), name, "True or False", repr(value), "set one of the two")
        return bool(value)


def guarded(kind: Kind, built: Any, who: str, device: str = "cpu") -> Any:
    """Put the guard of a kind on what a plugin built; an extractor, which is trained and copied, is checked alone.

    Raises:
        PluginError: it is not what its kind asks for.
    """
    if kind == "scorer":
        return GuardedScorer(built, who, device)
    if kind == "localizer":
        return GuardedLocalizer(built, who)
    if kind == "stopper":
        return GuardedStopper(built, who)
    if kind == "adapter":
        return GuardedAdapter(built, who)
    check_extractor(built, who)
    return built


def named(component: object) -> str:
    """How messages name a component: by its guard, else by its class."""
    return str(getattr(component, "who", type(component).__name__))


def unguarded(component: Any) -> Any:
    """The component that a plugin built, without its guard."""
    return component.inner if isinstance(component, _Guard) else component


def check_state(fitted: Scorer, fresh: Scorer, levels: Mapping[str, Level]) -> None:
    """Refuse a scorer whose state does not give its scores back: a detector of it could not be used.

    Both are asked for the scores of random features, so that no image is needed.

    Raises:
        PluginError: ``fresh``, with the state of ``fitted``, cannot score or scores otherwise.
    """
    who, advice = named(fitted), "save in state_dict all that score needs"
    generator = torch.Generator().manual_seed(0)
    drawn = {name: torch.rand((2, *level.grid, level.channels), generator=generator) for name, level in levels.items()}
    device = getattr(fitted, "device", "cpu")
    geometry = {name: level.geometry for name, level in levels.items()}
    features = Features({name: values.to(device) for name, values in drawn.items()}, geometry)
    with torch.inference_mode():
        expected = fitted.score(features).image
        try:
            fresh.load_state_dict(fitted.state_dict())
            found = fresh.score(features).image
        except (UserError, PluginError) as error:
            raise fault(who, "state_dict", "a state that can be loaded", str(error), advice) from error
    if not torch.equal(expected.nan_to_num(), found.nan_to_num()):
        gap = float((expected - found).abs().max())
        raise fault(who, "state_dict", "the same scores once it is loaded", f"scores that differ by {gap:.3g}", advice)


def require_members(component: object, base: type[Contract], who: str, what: str = "build") -> None:
    """Refuse what is no instance, lacks a member of its kind, or has a public one that is nearly a member of it."""
    if isinstance(component, type) or component is None:
        found = f"the class {component.__name__}" if isinstance(component, type) else "None"
        advice = "the component's class is called with (params, context)"
        raise fault(who, what, f"an instance of {base.__name__}", found, advice)
    lacking = missing(component, base)
    if lacking:
        expected, found = f"{base.kind} with {', '.join(base.required)}", f"a {type(component).__name__} without "
        raise fault(
            who, what, f"a {expected}", found + ", ".join(lacking), f"inherit from adkit.plugin.{base.__name__}"
        )
    known = {*base.__mro__, nn.Module, object}
    names = [name for cls in type(component).__mro__ if cls not in known for name in vars(cls)]
    for sentence in misspelt(dict.fromkeys([*names, *getattr(component, "__dict__", ())]), base):
        raise PluginError(who, sentence)


def check_extractor(built: Any, who: str, what: str = "build") -> None:
    """Refuse what is no extractor: no module, one in training mode, or one with levels that are none.

    Args:
        what: the member that gave it.
    """
    if not isinstance(built, nn.Module):
        advice = "inherit from adkit.plugin.Extractor"
        raise fault(who, what, "an nn.Module, whose weights are saved", described(built), advice)
    require_members(built, Extractor, who, what)
    if type(built).forward is nn.Module.forward:
        found = f"a {type(built).__name__} without forward"
        raise fault(who, what, "an extractor with levels, forward", found, "define forward(images)")
    training = [name or "itself" for name, module in built.named_modules() if module.training]
    if training:
        found = f"{training[0]} in training mode"
        advice = "call self.eval() at the end of __init__" if what == "build" else f"call .eval() on what {what} gives"
        raise fault(who, what, "every module in evaluation mode", found, advice)
    with blaming(who, "levels"):
        levels = built.levels
    check_levels(levels, who)
