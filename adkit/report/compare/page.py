"""The page of a comparison: runs side by side, and the images on which they disagree with their maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from adkit.errors import UserError
from adkit.metrics import METRICS
from adkit.report.compare.comparison import Comparison, Disagreement, Run
from adkit.report.compare.tables import interval
from adkit.report.finished import damaged_records
from adkit.report.page.charts import ticks
from adkit.report.page.figures import value
from adkit.report.page.record import FOLDER, PageRecord, Picture, record_path
from adkit.report.page.render import environment, policy, style
from adkit.utils.atomic import whole_file
from adkit.utils.colors import color_ramp

_TEMPLATES: Final = Path(__file__).parent / "templates"
_LEFT, _WIDTH, _ROW = 190, 620, 34
"""Of the chart of differences: where its axis begins, its width, and the height of a run."""


@dataclass(frozen=True)
class Whisker:
    """A difference with its interval in the units of the chart."""

    name: str
    y: float
    at: float
    low: float
    high: float
    sure: bool
    told: str


@dataclass(frozen=True)
class Whiskers:
    """The chart of all differences that have an interval."""

    lines: list[Whisker]
    ticks: list[tuple[float, str]]
    zero: float
    left: int
    width: int
    height: int


def write_comparison(found: Comparison, path: Path) -> Path:
    """Write the page of a comparison.

    Raises:
        UserError: a run's pictures are damaged, or the file cannot be written.
    """
    looks = style()
    pictures = [_pictures(run, found.disagreements) for run in found.runs]
    ramp = color_ramp()[::16] / 255
    text = (
        environment(_TEMPLATES)
        .get_template("comparison.html.j2")
        .render(
            found=found,
            metrics={name: METRICS[name] for name in found.metrics},
            whiskers=_whiskers(found),
            images=[(one, [of.get((one.category, one.image)) for of in pictures]) for one in found.disagreements],
            ramp=[" ".join(f"{level:.3f}" for level in channel) for channel in ramp.T],
            policy=policy(looks, ""),
            style=looks,
            value=value,
            interval=interval,
        )
    )
    try:
        with whole_file(path) as draft:
            draft.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise UserError(f"{path}: expected that the page can be written there, found: {error.strerror}") from error
    return path


def _pictures(run: Run, shown: Sequence[Disagreement]) -> dict[tuple[str, str], Picture]:
    """Category and image → its picture in a run, for those that the run's page shows."""
    wanted = {(one.category, one.image) for one in shown}
    found = {}
    for record in _records(run):
        by_row = {picture.row: picture for picture in record.pictures}
        for row, name in record.names:
            if (record.category, name) in wanted and row in by_row:
                found[record.category, name] = by_row[row]
    return found


def _records(run: Run) -> Iterator[PageRecord]:
    for number in range(len(run.report.categories)):
        path = record_path(run.folder, number)
        if not path.exists():
            continue  # a run without a page
        try:
            yield PageRecord.load(path)
        except ValueError as error:
            raise damaged_records(run.folder / FOLDER) from error


def _whiskers(found: Comparison) -> Whiskers | None:
    pairs = zip(found.runs[1:], found.differences, strict=True)
    known = [(run.name, one, one.value, one.interval) for run, one in pairs if one.value is not None and one.interval]
    if not known:
        return None
    ends = [end for _, _, middle, (low, high) in known for end in (low, middle, high)]
    marks = ticks(min(0.0, *ends), max(0.0, *ends))

    def across(number: float) -> float:
        return round(_LEFT + (number - marks[0]) / (marks[-1] - marks[0]) * (_WIDTH - _LEFT - 20), 1)

    lines = [
        Whisker(name, _ROW * (at + 0.6), across(middle), across(low), across(high), one.sure, interval(one))
        for at, (name, one, middle, (low, high)) in enumerate(known)
    ]
    height = _ROW * len(lines) + 30
    return Whiskers(
        lines, [(across(one), f"{one:+g}" if one else "0") for one in marks], across(0), _LEFT, _WIDTH, height
    )
