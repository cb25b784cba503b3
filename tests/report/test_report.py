import io

import pytest
from rich.console import Console

from adkit.metrics import METRICS
from adkit.report.report import CategoryReport, ImageCounts, Report, means
from adkit.report.tables import metrics_table


def category(**metrics):
    images = ImageCounts(train=1, calibration=0, test_normal=1, test_anomalous=1, unreadable=0)
    return CategoryReport(metrics=dict.fromkeys(METRICS) | metrics, images=images, threshold=None)


def report(**categories):
    return Report(
        name="tiles",
        folder="runs/tiles",
        categories=categories,
        mean=means(categories),
        timings={},
        peak_memory_bytes=1,
        versions={},
        git=None,
        seed=0,
        device="cpu",
        precision="float32",
        components=[],
        images=ImageCounts(train=1, calibration=0, test_normal=1, test_anomalous=1, unreadable=0),
        unreadable=[],
        warnings=[],
    )


def printed(one):
    console = Console(file=io.StringIO(), width=80)
    console.print(metrics_table(one))
    return console.file.getvalue()


def test_mean_and_standard_error_by_hand():
    found = means({"a": category(image_auroc=0.8), "b": category(image_auroc=0.9)})
    assert found["image_auroc"] == pytest.approx(0.85)
    assert found["sem"]["image_auroc"] == pytest.approx(0.05)  # sd 0.0707 over the root of 2


def test_one_category_has_no_standard_error():
    assert means({"a": category(image_auroc=0.8)})["sem"]["image_auroc"] is None


def test_mean_leaves_out_categories_without_the_metric():
    found = means({"a": category(pixel_auroc=0.8), "b": category()})
    assert found["pixel_auroc"] == 0.8


def test_table_fits_80_columns_with_all_metrics():
    full = dict.fromkeys(METRICS, 0.123)
    text = printed(report(carpet=category(**full), transistor=category(**full)))
    assert "…" not in text
    assert [line.split("│")[1].strip() for line in text.splitlines() if line.startswith("│")] == [
        "carpet",
        "transistor",
        "mean",
        "± SEM",
    ]


def test_table_leaves_out_metrics_that_no_category_has():
    text = printed(report(a=category(image_auroc=0.5)))
    assert "AUROC" in text
    assert "AUPRO" not in text


def test_round_trip_through_a_file(tmp_path):
    one = report(a=category(image_auroc=0.1 + 0.2))
    one.write(tmp_path / "report.json")
    assert Report.load(tmp_path / "report.json") == one


def test_nothing_measured_has_no_table():
    assert metrics_table(report(a=category())) is None
