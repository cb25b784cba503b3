"""Folders of runs with scores that a test chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from adkit.metrics import METRICS
from adkit.runner.category import COLUMNS
from adkit.utils.table import row_writer
from tests.report.page.records import report


def write_run(
    folder: Path,
    scores: Mapping[str, float],
    *,
    groups: Mapping[str, str] | None = None,
    calls: Sequence[str] = (),
    more: Sequence[tuple[str, str, int, float, str]] = (),
) -> Path:
    """A run of category ``tile`` with these scores; an image is anomalous if its name begins with ``bad``.

    Args:
        groups: image → group.
        calls: images that are called anomalous; none: there is no threshold.
        more: further rows of (category, image, label, score, fold).
    """
    folder.mkdir(parents=True)
    made = report()
    metrics = dict.fromkeys(METRICS, None) | {"image_auroc": 0.5}
    made.mean.update(metrics)
    made.timings = {"fit": 1.5, "evaluate": 2.5}
    made.peak_memory_bytes = 2_000_000_000
    made.write(folder / "report.json")
    with (folder / "scores.csv").open("w", encoding="utf-8", newline="") as file:
        write = row_writer(file)
        write(COLUMNS)
        write(["tile", "calibration", "tile/train/x.png", "", "good", 0, 0.5, "", 0, ""])
        for image, score in scores.items():
            kind, group = ("bad" if image.startswith("bad") else "good"), (groups or {}).get(image, "")
            call = int(image in calls) if calls else ""
            write(["tile", "test", image, group, kind, int(kind == "bad"), float(score), "", call, ""])
        for category, image, label, score, fold in more:
            write([category, "test", image, "", "bad" if label else "good", label, float(score), "", "", fold])
    return folder
