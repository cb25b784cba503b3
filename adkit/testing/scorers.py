"""Checks that a scorer keeps its contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

import torch
from torch import Tensor

from adkit.errors import NotFittedError, PluginError, UserError
from adkit.plugin.guard import GuardedScorer
from adkit.plugin.scorer import Scorer
from adkit.plugin.types import Features, Scores
from adkit.testing.asserts import (
    generators_untouched,
    made,
    require,
    require_batchwise,
    require_close,
    require_contract,
    require_finite,
    run_checks,
    running,
    through_bytes,
    untouched,
)
from adkit.testing.samples import FeatureStream, copied, feature_stream, part
from adkit.utils.text import some


def check_scorer(make: Callable[[], Scorer], stream: FeatureStream | None = None, tolerance: float = 1e-5) -> None:
    """Run every check of a scorer, and raise one AssertionError that names all that failed.

    Args:
        make: a function that gives a fresh, unfitted scorer, always with the same parameters and seed.
        stream: normal features with the levels that the scorer needs; default: ``feature_stream()``.
        tolerance: share of the largest score by which batches may differ.
    """
    checks = _Checks(make, stream or feature_stream(), tolerance)
    run_checks(
        checks.contract,
        checks.finite,
        checks.maps,
        checks.levels,
        checks.unfitted,
        checks.inputs_of_fit,
        checks.inputs_of_score,
        checks.generators,
        checks.seed,
        checks.again,
        checks.refit,
        checks.stream_of_any_batches,
        checks.unreadable,
        checks.state,
        checks.junk,
        checks.missing,
        checks.batches,
        checks.memory,
        checks.operations,
        checks.nearest,
    )


@dataclass(frozen=True)
class _Checks:
    make: Callable[[], Scorer]
    stream: FeatureStream
    tolerance: float

    @cached_property
    def queries(self) -> Features:
        return feature_stream(self.stream.levels, images=10, seed=1, device=self.stream.device).features

    def made(self) -> GuardedScorer:
        return cast(GuardedScorer, made("scorer", self.make, self.stream.device))

    def fitted(self, stream: FeatureStream) -> GuardedScorer:
        scorer = self.made()
        _fit(scorer, stream)
        return scorer

    @cached_property
    def scorer(self) -> GuardedScorer:
        """A fitted scorer, for checks that only let it score."""
        return self.fitted(self.stream)

    @cached_property
    def scores(self) -> Scores:
        return _scored(self.scorer, self.queries)

    @cached_property
    def saved(self) -> dict[str, Tensor]:
        """The state of a fitted scorer as it comes back from a file."""
        with running("state_dict()"):
            state = self.scorer.state_dict()
        return through_bytes(state)

    def restored(self) -> GuardedScorer:
        scorer = self.made()
        with running("load_state_dict(state)"):
            scorer.load_state_dict(self.saved)
        return scorer

    def same(self, check: str, wanted: str, other: Scorer, allowed: float = 0.0) -> None:
        """Require that another scorer gives the same scores."""
        require_close(check, wanted, _flat(self.scores), _flat(_scored(other, self.queries)), allowed)

    def contract(self) -> None:
        require_contract("scorer", self.make, self.stream.device)

    def finite(self) -> None:
        for name, values in _flat(self.scores).items():
            require_finite(name, values)

    def maps(self) -> None:
        for name, values in self.scores.maps.items():
            grid = tuple(values.shape[1:])
            require(grid != (1, 1), "maps", f"maps of spatial levels alone, not of {name}", f"{grid[0]} × {grid[1]}")
            for axis in (0, 1):
                self._check_place(name, axis, grid[axis])

    def _check_place(self, name: str, axis: int, cells: int) -> None:
        """Require that a map lies where the levels lie, and covers at least half of the input's part that they do."""

        def span(start: float, step: float, count: int) -> tuple[float, float]:
            return start - step / 2, start + (count - 0.5) * step

        levels = [(one.geometry, one.grid[axis]) for one in self.stream.levels.values()]
        spans = [span(geometry.start[axis], geometry.step[axis], count) for geometry, count in levels]
        low, high = min(one for one, _ in spans), max(one for _, one in spans)
        geometry = self.scores.geometry[name]
        first, last = span(geometry.start[axis], geometry.step[axis], cells)
        half = geometry.step[axis] / 2
        inside = first >= low - half and last <= high + half and 2 * (last - first) >= high - low
        wanted = f"{cells} cells of map {name} along {'yx'[axis]} to cover the pixels {low:g} to {high:g} of the levels"
        require(inside, "geometry", wanted, f"{first:g} to {last:g}")

    def levels(self) -> None:
        if self.scores.levels:
            mean = torch.stack(list(self.scores.levels.values())).mean(0)
            image = {"image": self.scores.image}
            require_close("levels", "image to be the mean of levels", image, {"image": mean}, 1e-6)

    def unfitted(self) -> None:
        scorer, expected = self.made(), "unfitted: expected NotFittedError from score before fit"
        try:
            scorer.inner.score(self.queries)
        except NotFittedError:
            return
        except Exception as error:
            raise AssertionError(f"{expected}, found {error!r}") from error
        raise AssertionError(f"{expected}, found scores")

    def inputs_of_fit(self) -> None:
        scorer, stream = self.made(), replace(self.stream, features=copied(self.stream.features))
        with untouched("inputs", "features of fit", stream.features), running("fit(stream)"):
            scorer.fit(stream)

    def inputs_of_score(self) -> None:
        scorer, features = self.fitted(self.stream), copied(self.queries)
        with untouched("inputs", "features of score", features), running("score(features)"):
            scorer.score(features)

    def generators(self) -> None:
        with generators_untouched():
            _scored(self.fitted(self.stream), self.queries)

    def seed(self) -> None:
        self.same("seed", "two scorers of one seed to give equal scores", self.fitted(self.stream))

    def again(self) -> None:
        self.same("again", "score to give equal scores at a second call", self.scorer)

    def refit(self) -> None:
        scorer = self.fitted(feature_stream(self.stream.levels, seed=2, device=self.stream.device))
        _fit(scorer, self.stream)
        self.same("refit", "fit to forget what was fitted before", scorer)

    def stream_of_any_batches(self) -> None:
        wanted = "equal scores however the stream is cut into batches"
        self.same("stream", wanted, self.fitted(self.stream.cut(1)), self.tolerance)

    def unreadable(self) -> None:
        scorer = self.fitted(replace(self.stream, unreadable=5))
        wanted = "equal scores where the stream counts 5 images that do not come"
        self.same("unreadable", wanted, scorer, self.tolerance)

    def state(self) -> None:
        wanted = "equal scores after state_dict, safetensors and load_state_dict"
        self.same("state", wanted, self.restored())

    def junk(self) -> None:
        """States that the scorer could not have saved are refused and change nothing."""
        scorer = self.restored()
        before = _flat(_scored(scorer, self.queries))
        wrong = [fault for what, state in _junk(self.saved).items() if (fault := _accepted(scorer, state, what))]
        wanted = "UserError from load_state_dict of every state that is not the scorer's own"
        require(not wrong, "junk", wanted, some(wrong, 3))
        after = _flat(_scored(scorer, self.queries))
        require_close("junk", "equal scores after states that were refused", before, after, 0.0)

    def missing(self) -> None:
        """A state without one of its tensors is refused, unless it is complete, as one of fewer levels is."""
        for missing in self.saved:
            scorer = self.made()
            try:
                scorer.load_state_dict({name: tensor for name, tensor in self.saved.items() if name != missing})
                scorer.score(self.queries)
            except UserError:
                continue
            except PluginError as error:
                expected = f"missing: expected a state without {missing} to be refused, or to score"
                raise AssertionError(f"{expected}, found {error.__cause__ or error!r}") from error

    def batches(self) -> None:
        def score(first: int, last: int) -> dict[str, Tensor]:
            return _flat(_scored(self.scorer, part(self.queries, first, last)))

        require_batchwise(score, self.queries.count, self.tolerance)

    def memory(self) -> None:
        with running("memory(levels, images)"):
            self.made().memory(self.stream.levels, self.stream.count)

    def operations(self) -> None:
        with running("operations(levels, images)"):
            self.made().operations(self.stream.levels, self.stream.count)

    def nearest(self) -> None:
        """What is named as nearest to cells of the stream is in the stream, and the nearest comes first."""
        for name, level in self.stream.levels.items():
            cells = self.stream.features[name].flatten(0, 2)[:3].clone()
            with running(f"nearest({name!r}, cells, 2)"):
                found = self.scorer.nearest(name, cells, 2)
            if found is None:
                continue
            distances, numbers = found
            count = self.stream.count * level.grid[0] * level.grid[1]
            inside = bool(((numbers >= 0) & (numbers < count)).all())
            assert inside, (
                f"nearest: expected numbers of cells of the stream, 0 to {count - 1}, found {numbers.tolist()}"
            )
            rising = bool((distances.diff(dim=1) >= 0).all())
            assert rising, f"nearest: expected ascending distances, found {distances.tolist()}"


def _fit(scorer: Scorer, stream: FeatureStream) -> None:
    with running("fit(stream)"):
        scorer.fit(replace(stream, features=copied(stream.features)))


def _scored(scorer: Scorer, features: Features) -> Scores:
    with running("score(features)"):
        return scorer.score(copied(features))


def _flat(scores: Scores) -> dict[str, Tensor]:
    return {"image": scores.image} | {f"map of {name}": values for name, values in scores.maps.items()}


def _junk(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """What is wrong → a state that no scorer with this ``state`` could have saved."""
    states: dict[str, dict[str, Tensor]] = {"with a tensor of a foreign name": {**state, "junk": torch.zeros(2)}}
    for name, tensor in state.items():
        other = torch.float32 if tensor.dtype == torch.float64 else torch.float64
        states[f"whose {name} has one dimension more"] = {**state, name: tensor[None]}
        states[f"whose {name} is of another type"] = {**state, name: tensor.to(other)}
        if tensor.is_floating_point() and tensor.numel():
            broken = tensor.clone()
            broken.view(-1)[-1] = torch.nan
            states[f"with NaN in {name}"] = {**state, name: broken}
    return {**states, "that is empty": {}} if state else states


def _accepted(scorer: Scorer, state: Mapping[str, Tensor], what: str) -> str | None:
    """What is wrong with how a state was taken that should have been refused; None where it was refused."""
    try:
        scorer.load_state_dict(state)
    except UserError:
        return None
    except PluginError as error:
        return f"{error.__cause__!r} for one {what}"
    return f"one {what} accepted"
