"""The table ``[features]``: what happens between extractor and scorer, the same for all of them.

Importing this module imports no torch, so that a recipe is checked quickly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator

from adkit.errors import UserError
from adkit.plugin.params import Params
from adkit.plugin.types import Features, Level
from adkit.utils.text import counted, some

if TYPE_CHECKING:
    import torch
    from torch import Tensor

CONCAT = "concat"
"""Name of the level that joins the spatial levels."""
FAINTEST = 0.01
"""Smallest share of an image's mean deviation that features are divided by."""
Channels = Annotated[int, Field(ge=1)] | tuple[Annotated[int, Field(ge=0)], ...]
"""How many channels to keep, or which ones."""


class FeaturesTable(Params):
    """How levels are pooled, combined and thinned before a scorer sees them."""

    combine: Literal["none", "concat"] = Field(
        default="none",
        description="concat: resample the spatial levels to the first one's grid and join their channels",
    )
    standardize: Literal["none", "image", "location"] = Field(
        default="none",
        description="what spatial levels are standardized by, so that light and contrast count less: image: each "
        "channel by its mean and deviation over the image's cells; location: each cell by those over its channels",
    )
    neighborhood: int = Field(
        default=1,
        ge=1,
        description="odd side, in cells, of the square over which spatial levels are averaged",
    )
    border: Literal["inside", "zero"] = Field(
        default="inside",
        description="what a neighborhood that reaches over the border is the mean of: inside: its cells on the grid; "
        "zero: these and zeros for the others, as in PatchCore, so that cells at the border, which differ because the "
        "network pads images there, too, count for less",
    )
    channels: Channels | None = Field(
        default=None,
        description="how many channels of each level to keep, drawn at random, or a list of those to keep",
    )

    @field_validator("neighborhood")
    @classmethod
    def _odd(cls, side: int) -> int:
        if side % 2 == 0:
            raise ValueError(f"expected an odd number, so that one cell is the middle, found {side}")
        return side

    @field_validator("channels")
    @classmethod
    def _some_once(cls, channels: Channels | None) -> Channels | None:
        if isinstance(channels, tuple) and (not channels or len(set(channels)) < len(channels)):
            raise ValueError("expected at least one channel and none twice")
        return channels


class FeatureTransform:
    """The step from the features of an extractor to those that a scorer reads, as a ``FeaturesTable`` says.

    The joined level is named ``concat``; a ``pool`` level stays a level of its own and is only thinned. Channels that
    are kept stay in ascending order.

    Raises:
        UserError: the table does not suit the levels.
    """

    kept: dict[str, tuple[int, ...]]
    """Level after the transform → the channels that it keeps, ascending; empty where every level keeps all."""

    def __init__(
        self,
        table: FeaturesTable,
        levels: Mapping[str, Level],
        generator: torch.Generator,
        kept: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        """
        Args:
            levels: those of the extractor.
            generator: draws the channels to keep.
            kept: channels that an earlier transform chose, by its levels; default: choose anew.
        """
        self._identity = table == FeaturesTable()
        self._axes = {"none": (), "image": (1, 2), "location": (3,)}[table.standardize]
        self._side, self._zeros = table.neighborhood, table.border == "zero"
        self._given = dict(levels)
        self._sources = _sources(table, levels)
        self._kept: dict[str, Tensor] = {}
        self.kept = {}
        self.levels: dict[str, Level] = {}
        for name, sources in self._sources.items():
            first, channels = levels[sources[0]], sum(levels[source].channels for source in sources)
            if table.channels is not None:
                if kept is None:
                    chosen = _choose(table.channels, name, channels, generator)
                else:
                    chosen = _checked(kept.get(name, ()), table.channels, name, channels)
                self._keep(chosen, sources)
                self.kept[name] = tuple(chosen.tolist())
                channels = len(chosen)
            self.levels[name] = Level(channels, first.grid, first.geometry)

    def __call__(self, features: Features) -> Features:
        if self._identity:
            return features
        import torch

        levels = {}
        for name, sources in self._sources.items():
            parts = [self._part(features[source], source, self.levels[name]) for source in sources]
            levels[name] = torch.cat(parts, dim=3) if len(parts) > 1 else parts[0]  # (n, h, w, Σc)
        return Features(levels, {name: level.geometry for name, level in self.levels.items()})

    def _keep(self, kept: Tensor, sources: list[str]) -> None:
        """Note which of each source's own channels make up the channels ``kept`` of their concatenation."""
        first = 0
        for source in sources:
            last = first + self._given[source].channels
            self._kept[source] = kept[(kept >= first) & (kept < last)] - first
            first = last

    def _part(self, tensor: Tensor, source: str, target: Level) -> Tensor:
        """Compute one source's share of the level ``target``; thinned first, because that makes the rest cheaper."""
        from adkit.toolkit.resample import centers_of, resample

        given = self._given[source]
        if self._axes and given.spatial:
            tensor = _standardized(tensor, self._axes)
        if source in self._kept:
            tensor = tensor.index_select(3, self._kept[source].to(tensor.device))
        if self._side > 1 and given.spatial:
            tensor = _average(tensor, self._side, self._zeros)
        if (given.grid, given.geometry) == (target.grid, target.geometry):
            return tensor
        rows, columns = (centers_of(target.geometry, axis, target.grid[axis]) for axis in (0, 1))
        return resample(tensor, given.geometry, rows, columns)


def _sources(table: FeaturesTable, levels: Mapping[str, Level]) -> dict[str, list[str]]:
    """Map each level after the transform to the levels it is made of; ``concat`` takes the place of its first one."""
    if table.combine == "none":
        return {name: [name] for name in levels}
    spatial = [name for name, level in levels.items() if level.spatial]
    if not spatial:
        raise UserError(
            f'features.combine: "concat" needs at least one spatial level, found only {", ".join(levels)}: '
            'name one of the backbone\'s modules in extractor.levels or use combine = "none"'
        )
    sources = {CONCAT if level.spatial else name: [name] for name, level in levels.items()}
    return sources | {CONCAT: spatial}


def _choose(wanted: Channels, name: str, channels: int, generator: torch.Generator) -> Tensor:
    import torch

    if isinstance(wanted, int):
        if wanted > channels:
            raise UserError(
                f"features.channels: expected at most {channels}, which level {name!r} has, found {wanted}: keep fewer"
            )
        return torch.randperm(channels, generator=generator)[:wanted].sort().values
    if max(wanted) >= channels:
        raise UserError(
            f"features.channels: expected channels from 0 to {channels - 1}, which level {name!r} has, found "
            f"{max(wanted)}: name others"
        )
    return torch.tensor(sorted(wanted))


def _checked(kept: Sequence[int], wanted: Channels, name: str, channels: int) -> Tensor:
    import torch

    asked = wanted if isinstance(wanted, int) else len(wanted)
    if len(kept) != asked or sorted(set(kept)) != list(kept) or not 0 <= kept[0] <= kept[-1] < channels:
        raise UserError(
            f"features.channels: expected {counted(asked, 'channel')} of level {name!r} to keep, ascending and below "
            f"{channels}, found {some(list(map(str, kept))) or 'none'}: use those that an earlier transform kept"
        )
    return torch.tensor(kept)


def _standardized(tensor: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Standardize a level (n, h, w, c) over ``axes``: those of cells, for each channel of an image, or of channels.

    No deviation counts as less than ``FAINTEST`` of the image's mean deviation: a channel or a cell that hardly varies
    would otherwise be nothing but rounding.
    """
    centered = tensor - tensor.mean(axes, keepdim=True)
    deviation = centered.square().mean(axes, keepdim=True).sqrt()
    floor = (FAINTEST * deviation.mean((1, 2, 3), keepdim=True)).clamp_min(1e-12)
    return centered / deviation.maximum(floor)


def _average(tensor: Tensor, side: int, zeros: bool) -> Tensor:
    """Average a level (n, h, w, c) over squares of ``side`` cells, to the same shape.

    Args:
        zeros: whether cells outside of the grid count, as zeros.
    """
    import torch.nn.functional as F

    planes = tensor.permute(0, 3, 1, 2)  # (n, c, h, w)
    planes = F.avg_pool2d(planes, side, stride=1, padding=side // 2, count_include_pad=zeros)
    return planes.permute(0, 2, 3, 1)  # (n, h, w, c)
