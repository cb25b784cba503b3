"""What notebooks show of reports and predictions."""

import re
from html.parser import HTMLParser

import numpy as np

from adkit.detector.detector import Detector, Predictions
from tests.report.page.records import report


class Cells(HTMLParser):
    """The texts of the cells of a table, row by row."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.open = [], False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.rows.append([])
        self.open = tag in ("td", "th")
        if self.open:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self.open = False

    def handle_data(self, data):
        if self.open:
            self.rows[-1][-1] += data


def predictions(count=3, maps=None, anomalous=True):
    scores = np.arange(count, dtype=np.float32)
    return Predictions(
        scores=scores,
        p_values=1 / (1 + scores.astype(np.float64)),
        anomalous=scores > 1 if anomalous else None,
        maps=maps,
        threshold=1.0 if anomalous else None,
        sizes=((8, 8),) * count,
        regions=None,
    )


def test_a_report_shows_its_figures_and_thresholds():
    promise = "a new normal image is called anomalous with a chance of at most 0.05"
    rows = Cells(report(("tile", "wood"))._repr_html_()).rows
    assert rows == [
        ["category", "image\nAUROC", "threshold", "promise"],
        ["tile", "0.875", "0.5", promise],
        ["wood", "0.875", "0.5", promise],
        ["mean", "0.875", "", ""],
    ]


def test_no_name_becomes_html():
    text = report(("<script>alert(1)</script>\x1b[2J",))._repr_html_()
    assert "<script" not in text
    assert "\x1b" not in text
    assert "&lt;script&gt;" in text


def test_the_most_anomalous_image_comes_first():
    rows = Cells(predictions()._repr_html_()).rows
    assert rows[1:] == [
        ["2", "2", "0.333", "yes", "–", "–"],
        ["1", "1", "0.5", "no", "–", "–"],
        ["0", "0", "1", "no", "–", "–"],
    ]


def test_of_many_images_some_are_shown_and_all_are_counted():
    text = predictions(50)._repr_html_()
    assert len(Cells(text).rows) == 21
    assert "50 images, 48 anomalous (score above 1); the 20 with the highest scores" in text


def test_without_a_threshold_nothing_is_called_anomalous():
    text = predictions(anomalous=False)._repr_html_()
    assert "<p>3 images</p>" in text
    assert [row[3] for row in Cells(text).rows[1:]] == ["–"] * 3


def test_no_images_are_none():
    assert "<p>0 images, 0 anomalous (score above 1)</p>" in predictions(0)._repr_html_()


def test_maps_share_a_range_of_colors():
    maps = np.stack([np.zeros((8, 8)), np.ones((8, 8)), np.ones((8, 8))]).astype(np.float32)
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', predictions(maps=maps)._repr_html_())
    assert pictures[0] == pictures[1] != pictures[2]


def test_a_detectors_predictions_show_themselves(small_run, stripes):
    found = Detector.load(small_run.folder).predict(next((stripes / "stripes" / "train" / "good").iterdir()))
    assert found._repr_html_().count("<img ") == 1
