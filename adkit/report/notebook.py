"""What a report and predictions show of themselves in a notebook, as HTML."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from adkit.utils.colors import color_ramp
from adkit.utils.escapes import harmless
from adkit.utils.text import counted

MOST: Final = 20
"""Predictions that are shown, the most anomalous first; all of them count in the line above."""
_SIDE: Final = 96
"""The side of a small map in pixels."""


def report_html(name: str, heads: Sequence[str], rows: Iterable[Sequence[object]], page: str) -> str:
    """A run's name, a table with a row for each category, and where its page lies."""
    return Markup("<p><b>{}</b></p>{}<p>page: {}</p>").format(harmless(name), _table(heads, rows), harmless(page))


def predictions_html(
    scores: NDArray[np.float32],
    p_values: NDArray[np.float64] | None,
    anomalous: NDArray[np.bool_] | None,
    threshold: float | None,
    boxes: Sequence[int] | None,
    maps: NDArray[np.float32] | None,
) -> str:
    """The most anomalous of n images that were scored, with their maps.

    Args:
        boxes: for each image their number.

    The others are as ``Predictions`` has them.
    """
    order = np.argsort(-scores, kind="stable")[:MOST]
    said = counted(len(scores), "image")
    if anomalous is not None and threshold is not None:
        said += f", {int(anomalous.sum()):,} anomalous (score above {threshold:.4g})"
    if len(order) < len(scores):
        said += f"; the {len(order)} with the highest scores"
    ends = None if maps is None or not len(maps) else (float(maps.min()), float(maps.max()))
    rows: list[list[object]] = []
    for at in map(int, order):
        found: list[object] = [at, f"{scores[at]:.4g}"]
        found.append("–" if p_values is None else f"{p_values[at]:.3g}")
        found.append("–" if anomalous is None else "yes" if anomalous[at] else "no")
        found.append("–" if boxes is None else boxes[at])
        found.append("–" if maps is None or ends is None else _map(maps[at], ends))
        rows.append(found)
    heads = ["image", "score", "p-value", "anomalous", "boxes", "map"]
    return Markup("<p>{}</p>{}").format(said, _table(heads, rows))


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> Markup:
    """A table; whatever is no markup is escaped."""
    head = Markup("").join(Markup("<th>{}</th>").format(one) for one in heads)
    body = Markup("").join(
        Markup("<tr>{}</tr>").format(
            Markup("").join(
                Markup("<td>{}</td>").format(one if isinstance(one, Markup) else harmless(str(one))) for one in row
            )
        )
        for row in rows
    )
    return Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(head, body)


def _map(values: NDArray[np.float32], ends: tuple[float, float]) -> Markup:
    """A small picture of a map, in the colors of heatmaps over the range of all maps."""
    low, high = ends
    steps = np.rint((values - low) / ((high - low) or 1.0) * 255).astype(np.uint8)
    picture = Image.fromarray(steps).resize((_SIDE, _SIDE), Image.Resampling.BOX)
    picture.putpalette(color_ramp().tobytes())
    file = io.BytesIO()
    picture.save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode("ascii")
    return Markup('<img alt="map" width="{}" height="{}" src="data:image/png;base64,{}">').format(_SIDE, _SIDE, data)
