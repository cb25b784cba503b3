"""Checks that a scorer keeps its contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from adkit.errors import NotFittedError, UserError
from adkit.plugin.scorer import Scorer
from adkit.plugin.types import Features, Scores, Stream
from adkit.testing.asserts import (
    generators_untouched,
    require,
    require_batchwise,
    require_close,
    require_finite,
    require_methods,
    require_tensor,
    require_type,
    running,
    through_bytes,
    untouched,
)
from adkit.testing.samples import FeatureStream, feature_stream, part


def check_scorer(make: Callable[[], Scorer], stream: FeatureStream | None = None, tolerance: float = 1e-5) -> None:
    """Run every check of a scorer; one that fails raises an AssertionError.

    Args:
        make: a function that gives a fresh, unfitted scorer, always with the same parameters and seed.
        stream: normal features with the levels that the scorer needs; default: ``feature_stream()``.
        tolerance: share of the largest score by which batches may differ.
    """
    stream = stream or feature_stream()
    levels = stream.levels
    queries = feature_stream(levels, images=10, seed=1, device=stream.device).features
    unfitted = make()
    require_methods(unfitted, "scorer")
    _check_unfitted(unfitted, queries)
    with generators_untouched(), untouched("inputs", "features of fit", stream.features):
        scorer = _fitted(make, stream)
        with untouched("inputs", "features of score", queries):
            scores = _scored(scorer, queries)
    _check_scores(scores, queries)
    expected = _flat(scores)

    def same(check: str, wanted: str, other: Scorer, allowed: float = 0.0) -> None:
        require_close(check, wanted, expected, _flat(_scored(other, queries)), allowed)

    same("seed", "two scorers of one seed to give equal scores", _fitted(make, stream))
    again = _fitted(make, feature_stream(levels, seed=2, device=stream.device))
    with running("fit(stream)"):
        again.fit(stream)
    same("refit", "fit to forget what was fitted before", again)
    cut = _fitted(make, stream.cut(1))
    same("stream", "equal scores however the stream is cut into batches", cut, tolerance)
    fewer = _fitted(make, replace(stream, unreadable=5))
    same("unreadable", "equal scores where the stream counts 5 images that do not come", fewer, tolerance)
    with running("state_dict()"):
        saved = scorer.state_dict()
    state = through_bytes(saved)
    restored = make()
    with running("load_state_dict(state)"):
        restored.load_state_dict(state)
    same("state", "equal scores after state_dict, safetensors and load_state_dict", restored)
    _check_junk(restored, state)
    same("junk", "equal scores after states that were refused", restored)
    _check_missing(make, state, queries)
    require_batchwise(lambda i, j: _flat(_scored(scorer, part(queries, i, j))), queries.count, tolerance)


def _fitted(make: Callable[[], Scorer], stream: Stream) -> Scorer:
    scorer = make()
    with running("fit(stream)"):
        scorer.fit(stream)
    return scorer


def _scored(scorer: Scorer, features: Features) -> Scores:
    with running("score(features)"):
        scores = scorer.score(features)
    require_type("what score gives", scores, Scores)
    require_type("Scores.maps", scores.maps, Mapping)
    require_type("Scores.geometry", scores.geometry, Mapping)
    return scores


def _flat(scores: Scores) -> dict[str, Tensor]:
    return {"image": scores.image} | {f"map of {name}": values for name, values in scores.maps.items()}


def _check_unfitted(scorer: Scorer, queries: Features) -> None:
    expected = "unfitted: expected NotFittedError from score before fit"
    try:
        scorer.score(queries)
    except NotFittedError:
        return
    except Exception as error:
        raise AssertionError(f"{expected}, found {error!r}") from error
    raise AssertionError(f"{expected}, found scores")


def _check_junk(scorer: Scorer, state: Mapping[str, Tensor]) -> None:
    """Require that states which the scorer could not have saved are refused."""
    states = {"with a tensor of a foreign name": {**state, "junk": torch.zeros(2)}}
    for name, tensor in state.items():
        states[f"whose {name} has one dimension more"] = {**state, name: tensor[None]}
        states[f"whose {name} is of another type"] = {**state, name: tensor.to(_other(tensor.dtype))}
        if tensor.is_floating_point() and tensor.numel():
            broken = tensor.clone()
            broken.view(-1)[-1] = torch.nan
            states[f"with NaN in {name}"] = {**state, name: broken}
    if state:
        states["that is empty"] = {}
    for what, junk in states.items():
        if not _refused(scorer, junk, what):
            raise AssertionError(f"junk: expected UserError from load_state_dict of a state {what}, found it accepted")


def _check_missing(make: Callable[[], Scorer], state: Mapping[str, Tensor], queries: Features) -> None:
    """Require that a state without one of its tensors is refused, unless it is complete, as one of fewer levels is."""
    for missing in state:
        lacking = {name: tensor for name, tensor in state.items() if name != missing}
        scorer = make()
        if _refused(scorer, lacking, f"without {missing}"):
            continue
        expected = f"missing: expected a state without {missing} to be refused, or to score"
        try:
            scores = _scored(scorer, queries)
        except Exception as error:
            raise AssertionError(f"{expected}, found {error!r}") from error
        _check_scores(scores, queries)


def _refused(scorer: Scorer, state: Mapping[str, Tensor], what: str) -> bool:
    try:
        scorer.load_state_dict(state)
    except UserError:
        return True
    except Exception as error:
        raise AssertionError(
            f"junk: expected UserError from load_state_dict of a state {what}, found {error!r}"
        ) from error
    return False


def _other(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype == torch.float64 else torch.float64


def _check_scores(scores: Scores, queries: Features) -> None:
    require_tensor("shapes", "image", scores.image, (queries.count,))
    for name, values in scores.maps.items():
        require_type(f"map of {name}", values, Tensor)
        require(values.ndim == 3, "shapes", f"map of {name} of 3 dimensions", tuple(values.shape))
        grid = tuple(queries[name].shape[1:3] if name in queries else values.shape[1:])
        require_tensor("shapes", f"map of {name}", values, (queries.count, *grid))
        require(grid != (1, 1), "shapes", f"maps of spatial levels alone, not of {name}", grid)
    names = list(scores.geometry)
    require(set(names) == set(scores.maps), "geometry", f"one each for maps {list(scores.maps)}", names)
    for name, geometry in scores.geometry.items():
        known = queries.geometry.get(name, geometry)
        require(geometry == known, "geometry", f"{name} at {known}", geometry)
    for name, values in _flat(scores).items():
        require_finite(name, values)
    require_type("Scores.levels", scores.levels, Mapping)
    for name, values in scores.levels.items():
        require_tensor("shapes", f"score of level {name}", values, (queries.count,))
    if scores.levels:
        mean = torch.stack(list(scores.levels.values())).mean(0)
        require_close("levels", "image to be the mean of levels", {"image": scores.image}, {"image": mean}, 1e-6)
