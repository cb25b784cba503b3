"""``[scorer] levels``: a scorer that reads some of the levels, such as those of a head that an adapter trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from adkit.errors import UserError
from adkit.plugin.guard import named
from adkit.plugin.scorer import Scorer
from adkit.plugin.types import Features, Level, Scores, Stream
from adkit.utils.text import did_you_mean


def require_levels(chosen: Sequence[str], there: Mapping[str, object]) -> None:
    """Refuse names of levels that the features do not have.

    Raises:
        UserError: the sentence names the levels that there are.
    """
    for name in chosen:
        if name not in there:
            raise UserError(
                f"scorer.levels: expected levels of the features, found {name!r}{did_you_mean(name, there)}: name some "
                f"of {', '.join(there)}"
            )


@dataclass(frozen=True)
class _StreamOfLevels:
    """A stream of some levels of another: implements ``adkit.plugin.Stream``."""

    whole: Stream
    chosen: Sequence[str]

    @property
    def levels(self) -> Mapping[str, Level]:
        return {name: self.whole.levels[name] for name in self.chosen}

    @property
    def count(self) -> int:
        return self.whole.count

    def __iter__(self) -> Iterator[Features]:
        # A loop would hold the last features while the next ones are made.
        return map(partial(_of, chosen=self.chosen), self.whole)


class ScorerOfLevels(Scorer):
    """A scorer that sees some of the levels alone."""

    def __init__(self, inner: Scorer, chosen: Sequence[str]) -> None:
        """
        Args:
            inner: the scorer, under its guard.
            chosen: the levels that it sees, in this order.
        """
        self.inner, self.chosen, self.who = inner, tuple(chosen), named(inner)
        self.device: str = getattr(inner, "device", "cpu")

    def fit(self, stream: Stream) -> None:
        require_levels(self.chosen, stream.levels)
        self.inner.fit(_StreamOfLevels(stream, self.chosen))

    def score(self, features: Features) -> Scores:
        return self.inner.score(_of(features, self.chosen))

    def state_dict(self) -> dict[str, Tensor]:
        return self.inner.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.inner.load_state_dict(state)

    def require(self, levels: Mapping[str, Level], images: int) -> None:
        require_levels(self.chosen, levels)
        self.inner.require({name: levels[name] for name in self.chosen}, images)

    def memory(self, levels: Mapping[str, Level], images: int) -> int | None:
        require_levels(self.chosen, levels)
        return self.inner.memory({name: levels[name] for name in self.chosen}, images)

    def operations(self, levels: Mapping[str, Level], images: int) -> float | None:
        require_levels(self.chosen, levels)
        return self.inner.operations({name: levels[name] for name in self.chosen}, images)

    def nearest(self, level: str, cells: Tensor, k: int) -> tuple[Tensor, Tensor] | None:
        return self.inner.nearest(level, cells, k) if level in self.chosen else None

    def for_export(self) -> Scorer:
        return ScorerOfLevels(self.inner.for_export(), self.chosen)


def _of(features: Features, chosen: Sequence[str]) -> Features:
    return Features({name: features[name] for name in chosen}, {name: features.geometry[name] for name in chosen})
