"""The smallest recipe with a training, for tests of logs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.recipe.small import write_small

TRAINING = {"minibatches": 12, "batch_size": 4, "snapshot_epochs": 1}  # two minibatches an epoch


def write_trained(folder: Path, **log: Any) -> dict[str, Any]:
    """A recipe of six epochs by ``panda``; ``log`` are the keys of ``[log]``."""
    adapter = {"use": "panda", "blocks": 2}
    recipe = write_small(folder, adapter=adapter, training=dict(TRAINING), log=log)
    recipe["extractor"]["levels"] = ["layer4"]
    return recipe


def outcome(folder: str) -> dict[str, str]:
    """What a run left that does not depend on when and where it ran."""
    report = json.loads((Path(folder) / "report.json").read_text())
    for key in ("folder", "timings", "peak_memory_bytes", "git", "resumed"):
        del report[key]
    for category in report["categories"].values():
        for training in category["trainings"]:
            del training["seconds"]
    page = next((Path(folder) / "page").iterdir()).read_text()
    return {"report": json.dumps(report), "scores": (Path(folder) / "scores.csv").read_text(), "page": page}
