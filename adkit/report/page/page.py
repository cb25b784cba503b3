"""``report.html`` from a run's folder: ``report.json``, ``recipe.toml`` and the records of its categories."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from adkit.errors import UserError
from adkit.metrics import METRICS, PRO_LIMIT
from adkit.report.page.charts import HEIGHT, WIDTH, Chart, chart
from adkit.report.page.figures import headlines, percent, rate_promised, value
from adkit.report.page.record import FOLDER, PageRecord, record_path
from adkit.report.report import Report, TrainingReport
from adkit.utils.atomic import whole_file
from adkit.utils.colors import color_ramp
from adkit.utils.escapes import harmless_lines

PAGE: Final = "report.html"
_TEMPLATES: Final = Path(__file__).parent / "templates"
_SCRIPTS: Final = ("data", "threshold", "images", "start")
"""The parts of the script, in the order in which they run, in one scope."""
_GROUPS: Final = {
    "train": "training",
    "held_out": "held out",
    "test_normal": "test, normal",
    "test_anomalous": "test, anomalous",
}
"""The groups of a snapshot in words."""


def remake_page(run: Path) -> Path:
    """Write the page of a finished run again, of what its folder has, and return its path.

    Raises:
        UserError: there is no such run, it was not finished, or another version of adkit made it.
    """
    again, run = "run its recipe again to get a page", run.absolute()  # of which "." and "/" have names, too
    try:
        report = Report.load(run / "report.json")
        _require_metrics(report)
    except (FileNotFoundError, NotADirectoryError) as error:
        if (run.parent / f".{run.name}.partial").exists():
            advice = "finish it first: adkit run RECIPE --resume"
            raise UserError(f"{run}: expected a finished run, found one that was interrupted; {advice}") from error
        raise UserError(
            f"{run}: expected the folder of a run, with report.json in it, found none: name one that adkit run left, "
            "such as runs/quickstart"
        ) from error
    except ValueError as error:  # pydantic's, and of bytes that are no text
        raise UserError(
            f"{run / 'report.json'}: expected a report of this version of adkit, found another one or a damaged file: "
            f"{again}"
        ) from error
    try:
        return write_page(run, report)
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: expected what the page is made of, found no such file: {again}") from error
    except ValueError as error:  # pydantic's among them
        raise UserError(
            f"{run / FOLDER}: expected records of this version of adkit, found others or damaged files: {again}"
        ) from error


def _require_metrics(report: Report) -> None:
    """Raise ValueError unless a report has every metric wherever it has some."""
    tables: list[Mapping[str, object] | object] = [report.mean]
    if len(report.categories) > 1:
        tables.append(report.mean.get("sem"))
    for category in report.categories.values():
        tables += [category.metrics, *(kind.metrics for kind in category.kinds.values())]
    for table in tables:
        if not isinstance(table, Mapping) or not METRICS.keys() <= table.keys():
            raise ValueError("a table lacks metrics")


def write_page(run: Path, report: Report) -> Path:
    """Write ``report.html`` into the folder of a run, from its report and what the folder has besides."""
    recipe = (run / "recipe.toml").read_text(encoding="utf-8")
    records = [PageRecord.load(record_path(run, number)) for number in range(len(report.categories))]
    if [record.category for record in records] != list(report.categories):
        raise ValueError("the records are of other categories")
    text = page(report, recipe, records)
    with whole_file(run / PAGE) as draft:
        draft.write_text(text, encoding="utf-8", newline="\n")
    return run / PAGE


def page(report: Report, recipe: str, records: Sequence[PageRecord]) -> str:
    """The page as text; ``records`` are those of the report's categories, in their order."""
    templates = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    # Nothing from outside is in these, so that they may stand in the page as they are.
    style = Markup((_TEMPLATES / "page.css").read_text(encoding="utf-8"))
    script = Markup(_script())
    shown = [name for name in METRICS if any(one.metrics[name] is not None for one in report.categories.values())]
    return templates.get_template("page.html.j2").render(
        report=report,
        recipe=recipe,
        headlines=headlines(report),
        metrics={name: METRICS[name] for name in shown},
        trainings=[(one, _charts(one)) for category in report.categories.values() for one in category.trainings],
        chart_size=(WIDTH, HEIGHT),
        policy=_policy(style, script),
        style=style,
        script=script,
        data=_script_json(_data(report, records)),
        value=value,
        percent=percent,
        rate_promised=rate_promised,
    )


def _script() -> str:
    parts = ((_TEMPLATES / f"{name}.js").read_text(encoding="utf-8") for name in _SCRIPTS)
    return f'(() => {{\n"use strict";\n{"".join(parts)}}})();\n'


def _shown(found: Any) -> Any:
    """Text from outside made harmless; autoescape does the rest."""
    return harmless_lines(found) if isinstance(found, str) and not isinstance(found, Markup) else found


def _policy(style: str, script: str) -> str:
    """A content security policy under which nothing but this style and this script takes effect, and nothing loads."""

    def digest(text: str) -> str:
        return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")

    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest(style)}'; script-src 'sha256-{digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _script_json(data: Mapping[str, Any]) -> Markup:
    """JSON that cannot end the element it stands in, whatever text is in it."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)


def _data(report: Report, records: Sequence[PageRecord]) -> dict[str, Any]:
    """What the script reads."""
    categories = []
    for record in records:
        found = report.categories[record.category]
        threshold, pixel = found.threshold, found.pixel_threshold
        one = record.model_dump(exclude={"schema_version", "category"})
        one["name"] = harmless_lines(record.category)
        one["kinds"] = [harmless_lines(kind) for kind in record.kinds]
        one["group_names"] = [harmless_lines(name) for name in record.group_names]
        for picture in one["pictures"]:
            for patch in (picture["evidence"] or {}).get("nearest", ()):
                patch["image"] = harmless_lines(patch["image"])
        one["names"] = [(row, harmless_lines(name)) for row, name in record.names]
        one["threshold"] = None if threshold is None else threshold.value
        one["map_threshold"] = None if pixel is None else pixel.value
        one["per"] = "image" if threshold is None else threshold.per
        one["promised"] = None if threshold is None else rate_promised(threshold)
        one["approximate"] = threshold is not None and threshold.approximate
        categories.append(one)
    ramp = color_ramp().tobytes()
    return {"categories": categories, "ramp": base64.b64encode(ramp).decode("ascii"), "pro_limit": PRO_LIMIT}


def _charts(training: TrainingReport) -> list[Chart]:
    """What a training did at its checks and snapshots, as charts."""
    kept = float(training.kept_minibatches)
    losses: dict[str, list[tuple[float, float]]] = {"loss": []}
    judged, aurocs = [], []
    for check in training.checks:
        at = float(check.minibatches)
        if check.loss is not None:
            losses["loss"].append((at, check.loss))
        for term, mean in check.terms.items() if len(check.terms) > 1 else ():  # one alone is the loss
            losses.setdefault(term, []).append((at, mean))
        if check.value is not None:
            judged.append((at, check.value))
    relative = all(one.normalized for one in training.snapshots)
    distances: dict[str, list[tuple[float, float]]] = {}
    for one in training.snapshots:
        for group, distance in (one.normalized if relative else one.distances).items():
            distances.setdefault(_GROUPS.get(group, group), []).append((float(one.minibatches), distance))
        if one.image_auroc is not None:
            aurocs.append((float(one.minibatches), one.image_auroc))
    title = "Distance over that of training images" if relative else "Distance"
    charts = (
        chart("Loss", "minibatches", losses, kept),
        chart("What the stopper judged by", "minibatches", {"value": judged}, kept),
        chart(title, "minibatches", distances, kept),
        chart("Image AUROC at snapshots", "minibatches", {"AUROC": aurocs}, kept),
    )
    return [one for one in charts if one is not None]
