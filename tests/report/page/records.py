"""Reports and records of pages, made by hand for tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from adkit.data.samples import Sample
from adkit.data.view import View
from adkit.metrics import METRICS
from adkit.report.page.pictures import Thumbnails
from adkit.report.page.record import PageRecord, Picture, packed
from adkit.report.report import CategoryReport, ImageCounts, Report, ThresholdReport, means

VIEW = View("squash", 64, 64)


def threshold(value: float, asked: float = 0.05) -> ThresholdReport:
    return ThresholdReport(
        value=value,
        method="split",
        per="image",
        promise="a new normal image is called anomalous with a chance of at most 0.05",
        approximate=False,
        folds=None,
        calibration_images=19,
        calibration_groups=19,
        false_positive_rate_asked=asked,
        false_positive_rate_supported=asked,
        false_positive_rate_smallest=0.05,
        test_false_positive_rate=0.0,
        test_false_positive_interval=(0.0, 0.3),
        test_normal_groups=2,
        test_recall=1.0,
    )


def report(names: Sequence[str] = ("tile",), warnings: Sequence[str] = ()) -> Report:
    counts = ImageCounts(train=4, calibration=19, test_normal=2, test_anomalous=2, unreadable=0)
    metrics = dict.fromkeys(METRICS) | {"image_auroc": 0.875}
    categories = {name: CategoryReport(metrics=metrics, images=counts, threshold=threshold(0.5)) for name in names}
    return Report(
        name="tiles",
        folder="runs/tiles",
        categories=categories,
        mean=means(categories),
        timings={"fit": 1.0},
        peak_memory_bytes=1,
        versions={},
        git=None,
        seed=0,
        device="cpu",
        precision="float32",
        components=[],
        images=counts,
        unreadable=[],
        warnings=list(warnings),
    )


def record(
    name: str = "tile",
    scores: Sequence[float] = (0.1, 0.6, 0.4, 0.9),
    labels: Sequence[int] = (0, 0, 1, 1),
    names: Sequence[str] | None = None,
    pictures: Sequence[Picture] = (),
    kinds: Sequence[str] = ("good", "crack"),
) -> PageRecord:
    count = len(scores)
    names = [f"{number}.png" for number in range(count)] if names is None else names
    return PageRecord(
        category=name,
        kinds=list(kinds),
        scores=packed(scores, "float32"),
        labels=packed(labels, "uint8"),
        kind_of=packed(labels, "uint8"),
        group_of=None,
        group_names=[],
        peaks=None,
        calibration=packed(np.linspace(0.05, 0.5, 19), "float32"),
        calibration_groups=None,
        calibration_peaks=None,
        names=list(enumerate(names)),
        pictures=list(pictures),
        pro=None,
        notes=[],
    )


def sample(tmp_path, color: str = "gray", size: tuple[int, int] = (80, 40), mask=None) -> Sample:
    path = tmp_path / f"{color}.png"
    Image.new("RGB", size, color).save(path)
    return Sample("a.png", path, 1, "crack", mask)


def thumbnails(limit: int = 40_000) -> Thumbnails:
    return Thumbnails(VIEW, 0, limit)
