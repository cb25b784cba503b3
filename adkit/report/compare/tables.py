"""A comparison as a table: for the terminal, and as CSV, Markdown and LaTeX."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal

from adkit.metrics import METRICS
from adkit.report.compare.comparison import Comparison, Difference
from adkit.report.page.figures import value
from adkit.utils.escapes import harmless
from adkit.utils.table import row_writer

if TYPE_CHECKING:
    from rich.table import Table

Format = Literal["csv", "markdown", "latex"]
_LATEX: Final = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    letter: f"\\{letter}" for letter in "&%$#_{}"
}


def written(found: Comparison, format: Format) -> str:
    """The table of the runs in a format, ending with a line break."""
    return {"csv": _csv, "markdown": _markdown, "latex": _latex}[format](found)


def terminal_tables(found: Comparison) -> list[Table]:
    """The table of the runs, and one of the images that they disagree on most where there are any."""
    from rich.table import Table
    from rich.text import Text

    heads, rows = _cells(found)
    runs = Table(title="runs", title_justify="left")
    runs.add_column(heads[0], overflow="fold")
    for head in heads[1:]:
        runs.add_column(head.replace(" ", "\n", 1), justify="right")
    for row in rows:
        runs.add_row(*(Text(harmless(one)) for one in row))
    if not found.disagreements:
        return [runs]
    images = Table(title="disagreements", title_justify="left")
    for head in ("image", "kind"):
        images.add_column(head, overflow="fold")
    for run in found.runs:
        images.add_column(Text(harmless(run.name)), justify="right", overflow="fold")
    for one in found.disagreements:
        places = (f"{place:.2f}" for place in one.places)
        images.add_row(*(Text(harmless(text)) for text in (one.image, one.kind, *places)))
    return [runs, images]


def _cells(found: Comparison) -> tuple[list[str], list[list[str]]]:
    titles = [METRICS[name].title.replace("\n", " ") for name in found.metrics]
    heads = ["run", *titles, f"AUROC less {found.runs[0].name}", "other verdicts", "seconds", "memory"]
    rows = []
    for at, run in enumerate(found.runs):
        metrics = [value(values[at]) for values in found.metrics.values()]
        verdicts = None if at == 0 else found.verdicts[at - 1]
        memory = f"{run.report.peak_memory_bytes / 1e9:.1f} GB"
        less = "" if at == 0 else interval(found.differences[at - 1])
        rows.append([run.name, *metrics, less, "" if verdicts is None else str(verdicts), f"{run.seconds:.0f}", memory])
    return heads, rows


def interval(one: Difference) -> str:
    """A difference with its interval, as tables show it."""
    if one.value is None:
        return "–"
    ends = "" if one.interval is None else f" [{one.interval[0]:+.3f}, {one.interval[1]:+.3f}]"
    return f"{one.value:+.3f}{ends}"


def _csv(found: Comparison) -> str:
    sink = io.StringIO()
    write = row_writer(sink)
    write(
        [
            "run",
            *found.metrics,
            "image_auroc_shared",
            "difference",
            "difference_low",
            "difference_high",
            "interval_by",
            "other_verdicts",
            "images",
            "seconds",
            "peak_memory_bytes",
        ]
    )
    for at, run in enumerate(found.runs):
        one = None if at == 0 else found.differences[at - 1]
        low, high = (None, None) if one is None or one.interval is None else one.interval
        verdicts = None if at == 0 else found.verdicts[at - 1]
        difference = (None, None) if one is None else (one.value, one.how)
        cells = [run.name, *(values[at] for values in found.metrics.values()), found.auroc[at], difference[0], low]
        write([*cells, high, difference[1], verdicts, found.images, run.seconds, run.report.peak_memory_bytes])
    return sink.getvalue()


def _markdown(found: Comparison) -> str:
    heads, rows = _cells(found)
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(harmless(one).replace('|', chr(92) + '|') for one in cells)} |\n"

    return "".join(map(line, lines))


def _latex(found: Comparison) -> str:
    heads, rows = _cells(found)

    def line(cells: Sequence[str]) -> str:
        plain = (harmless(one).replace("–", "--") for one in cells)
        return f"{' & '.join(''.join(_LATEX.get(letter, letter) for letter in one) for one in plain)} \\\\\n"

    columns = f"l{'r' * (len(heads) - 1)}"
    body = "".join(map(line, rows))
    return f"\\begin{{tabular}}{{{columns}}}\n\\hline\n{line(heads)}\\hline\n{body}\\hline\n\\end{{tabular}}\n"
