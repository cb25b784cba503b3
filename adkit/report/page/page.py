"""``report.html`` from a run's folder: ``report.json``, ``recipe.toml`` and the records of its categories."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from adkit.errors import UserError
from adkit.metrics import METRICS, PRO_LIMIT
from adkit.report.finished import AGAIN, damaged_records, read_report
from adkit.report.page.charts import HEIGHT, WIDTH, Chart, chart
from adkit.report.page.figures import headlines, percent, rate_promised, value
from adkit.report.page.record import FOLDER, PageRecord, record_path
from adkit.report.page.render import TEMPLATES, environment, policy, style
from adkit.report.report import Report, TrainingReport
from adkit.utils.atomic import whole_file
from adkit.utils.colors import color_ramp
from adkit.utils.escapes import harmless_lines

PAGE: Final = "report.html"
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
    run = run.absolute()  # of which "." and "/" have names, too
    report = read_report(run)
    try:
        return write_page(run, report)
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: expected what the page is made of, found no such file: {AGAIN}") from error
    except ValueError as error:  # pydantic's among them
        raise damaged_records(run / FOLDER) from error


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
    looks, script = style(), Markup(_script())
    shown = [name for name in METRICS if any(one.metrics[name] is not None for one in report.categories.values())]
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            report=report,
            recipe=recipe,
            headlines=headlines(report),
            metrics={name: METRICS[name] for name in shown},
            trainings=[(one, _charts(one)) for category in report.categories.values() for one in category.trainings],
            chart_size=(WIDTH, HEIGHT),
            policy=policy(looks, script),
            style=looks,
            script=script,
            data=_script_json(_data(report, records)),
            value=value,
            percent=percent,
            rate_promised=rate_promised,
        )
    )


def _script() -> str:
    parts = ((TEMPLATES / f"{name}.js").read_text(encoding="utf-8") for name in _SCRIPTS)
    return f'(() => {{\n"use strict";\n{"".join(parts)}}})();\n'


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
