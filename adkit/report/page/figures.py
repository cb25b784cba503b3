"""The headline figures of a report: each with what it means and how sure it is."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from adkit.metrics import METRICS
from adkit.report.report import CategoryReport, Report, ThresholdReport
from adkit.utils.text import counted


@dataclass(frozen=True)
class Headline:
    """A figure at the top of the page."""

    title: str
    value: str
    sure: str
    """Its interval or error, in words; may be empty."""
    meaning: str
    wrong: bool = False
    """Whether it breaks what was promised."""


def value(number: float | None) -> str:
    """A metric as tables show it."""
    return "–" if number is None else f"{number:.3f}"


def percent(share: float | None) -> str:
    """A share as a percentage with at most one decimal."""
    if share is None:
        return "–"
    return f"{100 * share:.1f}".removesuffix(".0") + "%"


def rate_promised(threshold: ThresholdReport) -> float | None:
    """The false-alarm rate that a threshold promises; None where its value was set by hand."""
    if threshold.false_positive_rate_asked is None or threshold.false_positive_rate_supported is None:
        return None
    return max(threshold.false_positive_rate_asked, threshold.false_positive_rate_supported)


def headlines(report: Report) -> list[Headline]:
    """Up to four figures: how images are ranked, how defects are located, and what the threshold does."""
    found = [_metric(report, "image_auroc")]
    pixel = next((name for name in ("pixel_aupro", "pixel_auroc") if report.mean[name] is not None), None)
    found.append(None if pixel is None else _metric(report, pixel))
    thresholds = {name: one.threshold for name, one in report.categories.items() if one.threshold is not None}
    found += [_alarms(thresholds), _found(thresholds)]
    shown = [one for one in found if one is not None]
    return shown if len(shown) > 2 else [*shown, *filter(None, [_drawn(report)])]


def _metric(report: Report, name: str) -> Headline | None:
    mean = report.mean[name]
    if not isinstance(mean, float):
        return None
    title = METRICS[name].title.replace("\n", " ")
    return Headline(title[0].upper() + title[1:], value(mean), _sure(report, name), METRICS[name].meaning)


def _sure(report: Report, name: str) -> str:
    if len(report.categories) > 1:
        errors = report.mean["sem"]
        error = errors.get(name) if isinstance(errors, dict) else None
        known = {key: one.metrics[name] for key, one in report.categories.items() if one.metrics[name] is not None}
        lowest = min(known, key=lambda key: known[key] or 0.0)
        spread = "" if error is None else f" ± {error:.3f}"
        return f"mean of {len(known)}{spread}, lowest: {lowest} {value(known[lowest])}"
    only: CategoryReport = next(iter(report.categories.values()))
    if name in only.intervals:
        low, high = only.intervals[name]
        return f"95% interval {value(low)} to {value(high)}"
    if only.sem is not None and (error := only.sem.get(name)) is not None:
        return f"± {error:.3f}, the standard error over folds"
    return only.intervals_missing or ""


def _alarms(thresholds: dict[str, ThresholdReport]) -> Headline | None:
    tested = {name: one for name, one in thresholds.items() if one.test_false_positive_rate is not None}
    if not tested:
        return None
    rates = {name: one.test_false_positive_rate or 0.0 for name, one in tested.items()}
    promises = {rate_promised(one) for one in tested.values()}
    meaning = "The share of normal test images above the threshold."
    if len(promises) == 1 and (rate := promises.pop()) is not None:
        about = "about" if any(one.approximate for one in tested.values()) else "at most"
        meaning = f"Normal test images above the threshold, which promises {about} {percent(rate)}."
    broken = [
        name
        for name, one in tested.items()
        if (promised := rate_promised(one)) is not None
        and one.test_false_positive_interval is not None
        and one.test_false_positive_interval[0] > promised
    ]
    if len(tested) > 1:
        highest = max(rates, key=lambda name: rates[name])
        sure = f"mean of {len(rates)}, highest: {highest} {percent(rates[highest])}"
    else:
        only = next(iter(tested.values()))
        interval = only.test_false_positive_interval or (0.0, 1.0)
        parts = f" from {counted(only.test_normal_groups, 'part')}" if only.per == "part" else ""
        sure = f"95% interval {percent(interval[0])} to {percent(interval[1])}{parts}"
    if broken:
        meaning += f" More than promised, beyond chance: {', '.join(broken)}."
    return Headline("False alarms", percent(fmean(rates.values())), sure, meaning, wrong=bool(broken))


def _found(thresholds: dict[str, ThresholdReport]) -> Headline | None:
    rates = {name: one.test_recall for name, one in thresholds.items() if one.test_recall is not None}
    if not rates:
        return None
    lowest = min(rates, key=lambda name: rates[name])
    sure = f"mean of {len(rates)}, lowest: {lowest} {percent(rates[lowest])}" if len(rates) > 1 else ""
    meaning = "Anomalous test images above the threshold."
    return Headline("Defects found", percent(fmean(rates.values())), sure, meaning)


def _drawn(report: Report) -> Headline | None:
    known = [one.synthetic_auroc for one in report.categories.values() if one.synthetic_auroc is not None]
    if not known:
        return None
    meaning = "How often a normal image with a defect drawn into it scores higher than one without."
    return Headline("Drawn defects AUROC", value(fmean(known)), "", meaning)
