"""What components give back, checked against the contract: shapes, dtypes, and the geometry of levels and maps."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import get_args

import torch
from torch import Tensor, nn

from adkit.errors import PluginError, UserError
from adkit.plugin.adapter import Group, Optimizer, RateDecay, Schedule, Stage
from adkit.plugin.types import Batch, Features, Geometry, Level, Scores


def check_levels(levels: object, who: str) -> Mapping[str, Level]:
    """Raise PluginError unless ``levels`` has at least one Level by name."""
    named = isinstance(levels, Mapping) and all(isinstance(one, Level) for one in levels.values())
    if not isinstance(levels, Mapping) or not named or not levels:
        raise fault(who, "levels", "a dict of at least one Level", described(levels), "give one Level by name")
    for name, level in levels.items():
        _check_centers(f"level {name}", level.geometry, level.grid, who)
    return levels


def _check_centers(what: str, geometry: Geometry, grid: tuple[int, int], who: str) -> None:
    """Raise PluginError unless a geometry that states centers has one for each row and column of the grid."""
    if geometry.centers is None:
        return
    counts = (len(geometry.centers[0]), len(geometry.centers[1]))
    if counts != tuple(grid):
        expected, found = (f"the centers of {rows} rows and {columns} columns" for rows, columns in (grid, counts))
        raise fault(who, what, expected, found, "make it by Geometry.at(rows, columns)")


def check_features(
    features: object,
    levels: Mapping[str, Level],
    images: int,
    who: str,
    dtypes: Collection[torch.dtype] = (torch.float32,),
) -> Features:
    """Give the features of n images the geometry of their levels; raise PluginError unless they match the levels.

    Args:
        dtypes: what they may be of: float32, and the dtype of a reduced precision.
    """
    if not isinstance(features, Mapping):
        raise fault(who, "features", "a dict of levels", described(features), "give one tensor per level")
    if list(features) != list(levels):
        found = ", ".join(map(str, features)) or "none"
        raise fault(
            who, "features", f"the levels {', '.join(levels)}", found, "give those that levels states, in order"
        )
    given = features.geometry if isinstance(features, Features) else {}
    for name, level in levels.items():
        shape = (images, *level.grid, level.channels)
        found = features[name]
        if not isinstance(found, Tensor) or tuple(found.shape) != shape:
            raise fault(who, f"level {name}", f"shape {shape}", described(found), "channels come last")
        if found.dtype not in dtypes:
            raise fault(who, f"level {name}", "float32", plain(found.dtype), "convert it: .float()")
        if given.get(name, level.geometry) != level.geometry:
            raise fault(who, f"level {name}", "the geometry that levels states", given.get(name), "leave it out")
    return Features(dict(features), {name: level.geometry for name, level in levels.items()})


def check_scores(scores: object, features: Features, who: str) -> Scores:
    """Give maps the geometry of the levels of their names; raise PluginError unless there is one float32 per image."""
    images = features.count
    if not isinstance(scores, Scores):
        raise fault(who, "score", "an adkit.plugin.Scores", described(scores), "return Scores(image)")
    check_tensor(scores.image, (images,), "scores", who)
    for part in ("maps", "geometry", "levels"):
        value = getattr(scores, part)
        if not isinstance(value, Mapping):
            raise fault(who, f"Scores.{part}", "a dict by level", described(value), "give one")
    for name, cells in scores.maps.items():
        shape = tuple(cells.shape) if isinstance(cells, Tensor) else ()
        check_tensor(cells, (images, *shape[1:3]) if len(shape) >= 3 else (images, 0, 0), f"map {name!r}", who)
    for name, values in scores.levels.items():
        check_tensor(values, (images,), f"Scores.levels: {name!r}", who)
    return with_geometry(scores, features, who)


def with_geometry(scores: Scores, features: Features, who: str) -> Scores:
    """Give maps the geometry of the levels of their names; raise PluginError where one has none."""
    grids = {name: (cells.shape[1], cells.shape[2]) for name, cells in scores.maps.items()}
    return replace(
        scores, geometry={name: _geometry(name, grid, scores, features, who) for name, grid in grids.items()}
    )


def _geometry(name: str, grid: tuple[int, int], scores: Scores, features: Features, who: str) -> Geometry:
    """The geometry of a map: what the scorer states, or that of the level of its name."""
    stated, level = scores.geometry.get(name), features.get(name)
    own = features.geometry.get(name)
    same = level is not None and tuple(level.shape[1:3]) == grid
    if stated is not None and (same or stated != own):
        _check_centers(f"map {name!r}", stated, grid, who)
        return stated
    if same and own is not None:
        return own
    found = "none" if stated is None else "that of a level of another grid"
    raise fault(
        who,
        f"map {name!r}",
        f"its geometry in Scores.geometry, as no level has that name and {grid[0]} × {grid[1]} cells",
        found,
        "give the geometry of its cells",
    )


def check_map(drawn: object, images: int, size: tuple[int, int], who: str) -> Tensor:
    """Raise PluginError unless ``drawn`` holds one float32 map of ``size`` (height, width) per image."""
    return check_tensor(drawn, (images, *size), "map", who, "give one map per image, of the size that is asked for")


def check_finite(values: Tensor, ids: Sequence[str], what: str, advice: str) -> None:
    """Refuse values that are NaN or infinite as soon as they appear: no later step could say where they came from.

    Args:
        values: (n, …), one row per image.
        ids: the images' names.
        what: the subject of the sentence, such as ``extractor: level 'layer1'``.
        advice: the end of the sentence: what to do.

    Raises:
        UserError: a value is not finite; the sentence names its image.
    """
    if math.isfinite(float(values.sum())):  # forty times as quick as to look at each, and never so with NaN or infinity
        return
    finite = torch.isfinite(values).flatten(1).all(1) if values.ndim > 1 else torch.isfinite(values)  # (n,)
    if not bool(finite.all()):
        image = ids[int((~finite).nonzero()[0])]
        raise UserError(f"{what} of image {image}: expected finite values, found NaN or infinity; {advice}")


def check_batch(batch: object, who: str) -> Batch:
    """Raise PluginError unless ``batch`` holds images and, where it has them, labels and masks of them."""
    if not isinstance(batch, Batch):
        raise fault(who, "batch", "an adkit.plugin.Batch", described(batch), "return one")
    shape = tuple(batch.images.shape) if isinstance(batch.images, Tensor) else ()
    height, width = shape[2:] if len(shape) == 4 else (0, 0)
    count = len(batch.ids)
    check_tensor(batch.images, (count, 3, height, width), "batch: images", who)
    for name, wanted, dtype in (("labels", (count,), torch.int64), ("masks", (count, height, width), torch.bool)):
        value = getattr(batch, name)
        right = isinstance(value, Tensor) and tuple(value.shape) == wanted and value.dtype == dtype
        if value is not None and not right:
            raise fault(who, f"batch: {name}", f"{wanted} {plain(dtype)}", described(value), "make one per image")
    return batch


def check_stages(stages: object, parameters: Sequence[nn.Parameter], who: str) -> list[Stage]:
    """Raise PluginError unless ``stages`` are stages that train some of ``parameters``, those of the extractor."""
    listed = isinstance(stages, Sequence) and all(isinstance(one, Stage) for one in stages)
    if not isinstance(stages, Sequence) or not listed or not stages:
        found = [described(one) for one in stages] if isinstance(stages, Sequence) and stages else described(stages)
        raise fault(who, "stages", "a list of at least one Stage", found, "return [Stage([Group(parameters)])]")
    own = {id(parameter) for parameter in parameters}
    for stage in stages:
        _check_stage(stage, own, who)
    return list(stages)


def _check_stage(stage: Stage, own: set[int], who: str) -> None:
    where = f"stages: stage {stage.name}"
    for key in ("minibatches", "batch_size"):
        value = getattr(stage, key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise fault(who, f"{where}: {key}", "a whole number above 0 or None", repr(value), "correct it")
    if stage.images not in ("normal", "auxiliary"):
        raise fault(who, f"{where}: images", '"normal" or "auxiliary"', repr(stage.images), "name one of the two")
    if stage.shared not in ((True, False) if stage.images == "auxiliary" else (False,)):
        expected = 'True for a stage on "auxiliary" images alone, or False'
        raise fault(who, f"{where}: shared", expected, repr(stage.shared), "leave it out")
    groups = stage.groups
    if not isinstance(groups, Sequence) or not groups or not all(isinstance(group, Group) for group in groups):
        raise fault(who, f"{where}: groups", "a list of at least one Group", described(groups), "list one per rate")
    for group in groups:
        what, advice = f"{where}: parameters", "list those of a module of the extractor: list(module.parameters())"
        found = group.parameters
        if not isinstance(found, Sequence) or not found:
            raise fault(who, what, "a list of at least one", described(found), advice)
        for parameter in found:
            if not isinstance(parameter, nn.Parameter):
                raise fault(who, what, "parameters alone", described(parameter), advice)
            if id(parameter) not in own:
                outside = "a head that is trained belongs to the extractor: add it by extend"
                raise fault(who, what, "parameters of the extractor alone", "another one", outside)
        rate = group.learning_rate
        if rate is not None and not _number(rate, above=0):
            raise fault(who, f"{where}: learning_rate", "a number above 0 or None", repr(rate), "correct it")
    listed = [id(parameter) for parameter in stage.parameters]
    if len(set(listed)) < len(listed):
        raise fault(who, f"{where}: parameters", "each in one group", "one that is there twice", "list it once")


def check_schedule(schedule: object, who: str) -> Schedule:
    """Raise PluginError unless ``schedule`` is one that a training can have."""
    if not isinstance(schedule, Schedule):
        raise fault(who, "schedule", "an adkit.plugin.Schedule", described(schedule), "set schedule = Schedule(…)")
    for expected, found in _schedule_faults(schedule):
        raise fault(who, "schedule", expected, found, "correct it")
    return schedule


def _schedule_faults(schedule: Schedule) -> Iterator[tuple[str, object]]:
    """What a schedule should have and what it has, for each value that no training can have."""
    rules = get_args(Optimizer)
    if schedule.optimizer not in rules:
        yield f"optimizer one of {', '.join(rules)}", repr(schedule.optimizer)
    if not _number(schedule.momentum) or not 0 <= schedule.momentum < 1:
        yield "momentum in [0, 1)", repr(schedule.momentum)
    if not isinstance(schedule.relative_steps, bool):
        yield "relative_steps True or False", repr(schedule.relative_steps)
    elif schedule.relative_steps and schedule.optimizer != "sgd":
        yield 'optimizer "sgd" with relative_steps', repr(schedule.optimizer)
    if schedule.rate_decay not in get_args(RateDecay):
        yield f"rate_decay one of {', '.join(get_args(RateDecay))}", repr(schedule.rate_decay)
    if type(schedule.warmup) is not int or schedule.warmup < 0:
        yield "warmup a whole number of minibatches", repr(schedule.warmup)
    if schedule.ema_decay is not None and not (_number(schedule.ema_decay, above=0) and schedule.ema_decay < 1):
        yield "ema_decay above 0 and below 1", repr(schedule.ema_decay)
    if not _number(schedule.weight_decay) or schedule.weight_decay < 0:
        yield "weight_decay of at least 0", repr(schedule.weight_decay)
    for name in ("learning_rate", "batch_size", "clip_norm", "minibatches", "epochs", "snapshot_epochs"):
        value = getattr(schedule, name)
        if not _number(value, above=0) and (value is not None or name in ("learning_rate", "batch_size")):
            yield f"{name} above 0 and finite", repr(value)
    if schedule.minibatches is not None and schedule.epochs is not None:
        yield "minibatches or epochs", f"{schedule.minibatches} and {schedule.epochs}"


def check_tensor(
    values: object, shape: tuple[int, ...], what: str, who: str, advice: str = "give one row per image"
) -> Tensor:
    """Raise PluginError unless ``values`` is a float32 tensor of ``shape``; ``advice`` is for another shape."""
    if not isinstance(values, Tensor):
        raise fault(who, what, "a torch tensor", described(values), "make one of it")
    if tuple(values.shape) != shape:
        raise fault(who, what, f"shape {shape}", tuple(values.shape), advice)
    if values.dtype != torch.float32:
        raise fault(who, what, "float32", plain(values.dtype), "convert it: .float()")
    return values


def fault(who: str, what: str, expected: str, found: object, advice: str) -> PluginError:
    """The fault of a component in the form of every message: where, what was expected, what was found, what to do."""
    return PluginError(who, f"{what}: expected {expected}, found {found}: {advice}")


def described(value: object) -> str:
    """What a value is, for a sentence: its type, or shape and dtype of a tensor."""
    if value is None:
        return "None"
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)} {plain(value.dtype)}"
    if isinstance(value, list | tuple | Mapping) and not value:
        return f"an empty {type(value).__name__}"
    return f"a {type(value).__name__}"


def plain(dtype: torch.dtype) -> str:
    """The name of a dtype without ``torch.``."""
    return str(dtype).removeprefix("torch.")


def _number(value: object, above: float = -math.inf) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > above
