"""What scorers share: scores from maps, samples of a stream, and checks of saved states."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import Tensor

from adkit.errors import UserError
from adkit.plugin.types import Features, Geometry, Level, Scores
from adkit.utils.tensors import all_finite

Aggregation = Literal["max", "mean", "max_less_median"]
"""How the values of a map become one score; a map of one cell is its value, whatever it is called.

``max_less_median`` is the largest value less the median one: what is above the rest of its own image. A whole image
that is unusual, say by its exposure, then counts less.
"""


def scores_of(maps: Mapping[str, Tensor], geometry: Mapping[str, Geometry], aggregation: Aggregation) -> Scores:
    """Compute scores from maps: a level's is by ``aggregation`` of its map, an image's the mean over levels.

    Args:
        maps: level name → (n, h, w), at least one; a pooled level is 1×1.
        geometry: geometry of at least these levels.
    """
    levels = {name: aggregated(values, aggregation) for name, values in maps.items()}
    return Scores(torch.stack(list(levels.values())).mean(0), *spatial(maps, geometry), levels)


def aggregated(values: Tensor, aggregation: Aggregation) -> Tensor:
    """Compute (n,) scores from maps (n, h, w)."""
    if aggregation == "mean":
        return values.mean((1, 2))
    highest = values.amax((1, 2))
    if aggregation == "max" or values.shape[1:] == (1, 1):
        return highest
    # Sorted, because other runtimes that detectors are exported to have no median.
    ascending = values.flatten(1).sort(1).values
    count = ascending.shape[1]
    return highest - (ascending[:, (count - 1) // 2] + ascending[:, count // 2]) / 2


def spatial(
    maps: Mapping[str, Tensor], geometry: Mapping[str, Geometry]
) -> tuple[dict[str, Tensor], dict[str, Geometry]]:
    """Select the maps that localize, whose grid is larger than 1×1, and their geometry."""
    names = [name for name, values in maps.items() if values.shape[1:] != (1, 1)]
    return {name: maps[name] for name in names}, {name: geometry[name] for name in names}


def fitted_levels(fitted: Iterable[str], features: Features) -> list[str]:
    """List the levels that a scorer was fitted on, in the order of the features.

    Raises:
        UserError: the features lack one of them.
    """
    fitted = set(fitted)
    missing = sorted(fitted - features.keys())
    if missing:
        raise UserError(
            f"scorer: fitted on {'level' if len(missing) == 1 else 'levels'} {', '.join(missing)}, which the features "
            f"lack (they have {', '.join(features)}): score with the extractor.levels that it was fitted with"
        )
    return [name for name in features if name in fitted]


def require_some(fitted: object) -> None:
    """Raise UserError unless there is something that a scorer was fitted on: images, or features of theirs."""
    if not fitted:
        raise UserError("scorer: expected at least 1 normal image, found none: check the training data")


def require_rows(level: str, count: int, least: int, key: str = "k") -> None:
    """Raise UserError unless a level has at least as many normal features as parameter ``key`` asks for."""
    if count < least:
        raise UserError(
            f"scorer.{key}: expected at most {count}, the number of normal features of level {level}, found {least}: "
            f"lower {key} or give more normal images"
        )


def require_components(components: float | None, levels: Mapping[str, Level]) -> None:
    """Raise UserError if a whole number of principal components is more than a level has channels."""
    for name, level in levels.items():
        if isinstance(components, int) and components > level.channels:
            raise UserError(
                f"scorer.components: expected at most {level.channels}, the number of channels of level {name}, "
                f"found {components}: keep fewer, or write a share of variance such as 0.99"
            )


def require_maps(localizer: str, scores: Scores) -> None:
    """Raise UserError unless there are maps for a localizer to draw."""
    if not scores.maps:
        raise UserError(
            f"localizer.use: {localizer} needs at least one score map and the scorer gave none: name a spatial level "
            "in extractor.levels or use a scorer that localizes"
        )


def levels_of(features: Features) -> dict[str, Level]:
    """Describe the levels of features, for what is built from levels where there is no stream to ask."""
    return {
        name: Level(values.shape[3], (values.shape[1], values.shape[2]), features.geometry[name])
        for name, values in features.items()
    }


def checked_state(
    scorer: str, state: Mapping[str, Tensor], dimensions: Mapping[str, int], dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Return the tensors of a saved state, provided that each is one that the scorer could have saved.

    Args:
        scorer: name of the scorer.
        dimensions: tensor name → its number of dimensions; ``bank.*`` stands for one or more names that begin so.
        dtype: the dtype of all of them.

    Raises:
        UserError: a name that is missing or foreign, or a tensor of another dtype or number of dimensions, empty, or
            not finite.
    """
    for pattern in dimensions:
        if not any(fnmatchcase(name, pattern) for name in state):
            raise foreign_state(scorer, pattern, "there", f"only {', '.join(state)}" if state else "no tensors at all")
    for name, tensor in state.items():
        wanted = [count for pattern, count in dimensions.items() if fnmatchcase(name, pattern)]
        if not wanted:
            raise foreign_state(scorer, name, f"named {' or '.join(dimensions)}", "that name")
        described = f"{tuple(tensor.shape)} {tensor.dtype}" if isinstance(tensor, Tensor) else type(tensor).__name__
        if not isinstance(tensor, Tensor) or tensor.dtype != dtype or tensor.ndim != wanted[0]:
            raise foreign_state(scorer, name, f"{wanted[0]}-dimensional {dtype}", described)
        if not tensor.numel():
            raise foreign_state(scorer, name, "of some values", described)
        if not all_finite(tensor):
            raise foreign_state(scorer, name, "finite", "NaN or inf in it")
    return {name: tensor.detach() for name, tensor in state.items()}


def foreign_state(scorer: str, tensor: str, expected: str, found: object) -> UserError:
    """The error with which ``load_state_dict`` refuses a tensor that is not the scorer's own."""
    return UserError(
        f"scorer: state of {scorer}: expected {tensor} to be {expected}, found {found}: "
        f"load what state_dict of a {scorer} with equal parameters gave"
    )


class Reservoir:
    """A uniform sample of the items of a stream of unknown length: all of them as long as they fit.

    The same items are kept however the stream is cut into batches. Memory is reserved once, and on the CPU it
    is used only as it fills, so that a generous capacity costs nothing.

    Args:
        capacity: the largest number of items kept.
        shape: shape of one item.
        generator: a CPU generator, drawn from once per item.
    """

    def __init__(
        self, capacity: int, shape: tuple[int, ...], device: str | torch.device, generator: torch.Generator
    ) -> None:
        self._buffer = torch.empty((capacity, *shape), device=device)
        self._numbers = torch.empty(capacity, dtype=torch.int64)
        self._generator = generator
        self._seen = 0

    @property
    def items(self) -> Tensor:
        """(kept, *shape) float32 items of the sample: a view, in the stream's order as long as all of them fit."""
        return self._buffer[: self._seen]

    @property
    def numbers(self) -> Tensor:
        """(kept,) int64 on the CPU: the place of each of ``items`` in the stream, from 0."""
        return self._numbers[: self._seen]

    def add(self, items: Tensor) -> None:
        """Offer the next ``items`` (m, *shape) of the stream."""
        room = max(0, len(self._buffer) - self._seen)
        fitting = items[:room]
        draws = torch.rand(len(items), generator=self._generator, dtype=torch.float64)
        self._buffer[self._seen : self._seen + len(fitting)] = fitting
        self._numbers[self._seen : self._seen + len(fitting)] = torch.arange(self._seen, self._seen + len(fitting))
        self._seen += len(fitting)
        if len(fitting) == len(items):
            return
        # Item number t takes the place of a kept one with chance capacity / t.
        late = torch.arange(len(fitting), len(items))
        numbers = torch.arange(1, len(late) + 1) + self._seen
        places = (draws[late] * numbers).long()
        taken = places < len(self._buffer)
        last = dict(zip(places[taken].tolist(), late[taken].tolist(), strict=True))
        if last:
            self._buffer[list(last)] = items[list(last.values())].to(self._buffer)
            first = self._seen - len(fitting)  # the number of the first of these items
            self._numbers[list(last)] = first + torch.tensor(list(last.values()))
        self._seen += len(late)
