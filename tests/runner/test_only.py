"""``adkit run --only``: some of the categories, each with what it has in the whole run."""

import pytest
import tomli_w

import adkit
from adkit import UserError
from adkit.cli.main import main
from adkit.utils.progress import Display
from tests.runner.score_rows import scores


class Interrupting(Display):
    """Ends the run where the last class would be fitted."""

    def stage(self, name, subject, total=None):
        if (name, subject) == ("fit", "red"):
            raise KeyboardInterrupt
        return super().stage(name, subject, total)


def test_only_the_named_ones_are_run_in_the_order_of_the_data(classes):
    assert list(adkit.run(classes, only=["red", "blue"]).categories) == ["blue", "red"]


def test_a_class_has_the_scores_of_the_whole_run(classes):
    whole = scores(adkit.run(classes), category="green")
    found = scores(adkit.run(classes, only=["green"]), category="green")
    assert found == pytest.approx(whole, rel=1e-5)  # in other batches


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_adapted_class_has_the_scores_of_the_whole_run(classes, precision):
    classes["run"]["precision"] = precision
    classes["adapter"] = {"use": "panda", "blocks": ["layer4"]}
    classes["training"] = {"batch_size": 2, "epochs": 3, "clip_norm": 1.0}
    whole = scores(adkit.run(classes), category="green")
    assert scores(adkit.run(classes, only=["green"]), category="green") == pytest.approx(whole, rel=1e-4)


def test_the_command_takes_it_more_than_once(classes, tmp_path, capsys):
    (tmp_path / "recipe.toml").write_text(tomli_w.dumps(classes))
    assert main(["run", str(tmp_path / "recipe.toml"), "--only", "red", "--only", "green"]) == 0
    report = adkit.Report.load(tmp_path / "runs" / "small" / "report.json")
    assert list(report.categories) == ["green", "red"]


def test_a_name_that_the_data_does_not_have_is_told_with_those_that_it_has(classes):
    with pytest.raises(
        UserError, match=r"--only: .* found 'gren' \(did you mean green\?\): name some of blue, green, red"
    ):
        adkit.run(classes, only=["gren"])


def test_a_resumed_run_is_of_the_same_categories(classes):
    with pytest.raises(KeyboardInterrupt):
        adkit.run(classes, display=Interrupting(quiet=True))
    with pytest.raises(UserError, match="it was of blue, green, red, and this is of green alone"):
        adkit.run(classes, interrupted="resume", only=["green"])


def test_classes_that_are_done_are_kept_when_resumed(classes):
    with pytest.raises(KeyboardInterrupt):
        adkit.run(classes, display=Interrupting(quiet=True), only=["green", "red"])
    report = adkit.run(classes, interrupted="resume", only=["green", "red"])
    assert (list(report.categories), report.resumed) == (["green", "red"], 1)
