"""What of a run's figures the terminal is shown."""

from adkit.report.tables import suspects

HEAD = "category,split,id,group,kind,label,score,p_value,anomalous,fold\n"


def row(category, image, label, score, split="test"):
    return f"{category},{split},{image},,kind,{label},{score},,0,\n"


def test_the_normal_images_that_score_above_most_anomalous_ones_are_named(tmp_path):
    rows = [row("tile", f"bad{score}", 1, score) for score in (1, 2, 3, 4)]
    rows += [row("tile", f"good{score}", 0, score) for score in (0.5, 1.5, 2, 3.5)]
    (tmp_path / "scores.csv").write_text(HEAD + "".join(rows))
    # 2 is above 1 alone, not above 2.
    assert suspects(tmp_path / "scores.csv") == [("good3.5", 0.75), ("good2", 0.25), ("good1.5", 0.25)]


def test_each_category_has_scores_of_its_own_and_those_without_anomalous_images_none(tmp_path):
    rows = [row("a", "bad", 1, 10), row("a", "good", 0, 11), row("b", "bad", 1, 1000), row("b", "fine", 0, 900)]
    rows += [row("c", "alone", 0, 5000), row("a", "calibrates", 0, 99, "calibration")]
    (tmp_path / "scores.csv").write_text(HEAD + "".join(rows))
    assert suspects(tmp_path / "scores.csv") == [("good", 1.0)]
