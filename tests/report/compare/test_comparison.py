"""Runs side by side: what is compared, and what cannot be."""

import numpy as np
import pytest

from adkit.bootstrap import Tested, paired_difference
from adkit.errors import UserError
from adkit.report.compare.comparison import compare
from adkit.report.compare.delong import difference
from adkit.report.report import Report
from tests.report.compare.runs import write_run

ONE = {"good1": 1, "good2": 2, "bad1": 3, "bad2": 4}
OTHER = {"good1": 1, "good2": 2, "bad1": 0, "bad2": 3}


@pytest.fixture
def two(tmp_path):
    return [write_run(tmp_path / "one", ONE), write_run(tmp_path / "other", OTHER)]


def noisy(folder):
    """Two runs of 40 images, as folders; scores are halves of whole numbers, which a file keeps."""
    rng = np.random.default_rng(3)
    names = [f"{'bad' if number % 2 else 'good'}{number:02}" for number in range(40)]
    return [
        write_run(folder / str(at), {name: rng.integers(0, 9) / 2 + name.startswith("bad") for name in names})
        for at in range(2)
    ]


def test_a_difference_is_of_the_other_less_the_first_by_delong(tmp_path):
    found = compare(noisy(tmp_path))
    (apart,) = found.differences
    first, other = (np.array([row.score for row in run.rows.values()]) for run in found.runs)
    labels = np.array([row.label for row in found.runs[0].rows.values()])
    value, low, high = difference(other, first, labels)
    assert (apart.value, apart.interval, apart.how) == (value, (low, high), "DeLong")
    assert value == pytest.approx(found.auroc[1] - found.auroc[0])


def test_a_few_images_have_no_interval(two):
    found = compare(two)
    assert found.auroc == [1.0, 0.5]
    (apart,) = found.differences
    assert (apart.value, apart.interval) == (-0.5, None)
    assert apart.how.startswith("an interval takes 10 groups on either side of the test, found 2 of normal images")


def test_only_an_interval_without_0_is_sure(tmp_path):
    rng = np.random.default_rng(0)
    names = [f"{'bad' if number % 2 else 'good'}{number}" for number in range(40)]
    sharp = {name: rng.normal() + 3 * name.startswith("bad") for name in names}
    blunt = {name: rng.normal() for name in names}
    runs = [write_run(tmp_path / str(at), scores) for at, scores in enumerate((blunt, sharp, dict(blunt)))]
    assert [one.sure for one in compare(runs).differences] == [True, False]


def test_groups_are_drawn_whole(tmp_path):
    rng = np.random.default_rng(1)
    names = [f"{'bad' if number % 2 else 'good'}{number}" for number in range(60)]
    groups = {name: f"part{number // 2}" for number, name in enumerate(names)}
    scores = [{name: rng.normal() + name.startswith("bad") for name in names} for _ in range(2)]
    runs = [write_run(tmp_path / str(at), one, groups=groups) for at, one in enumerate(scores)]
    labels = np.array([int(name.startswith("bad")) for name in names])
    keys = [groups[name] for name in names]
    tests = [Tested(np.array([float(f"{one[name]:.9g}") for name in names]), labels, keys) for one in scores]
    (apart,) = compare(runs).differences
    value, low, high = paired_difference([tests[1]], [tests[0]])["image_auroc"]
    assert (apart.value, apart.interval) == (pytest.approx(value), (pytest.approx(low), pytest.approx(high)))
    assert apart.how == "resamples of groups, in pairs"


def test_of_several_categories_it_is_the_mean(tmp_path):
    rng = np.random.default_rng(2)

    def rows(category):
        return [(category, f"{category}/{n}", n % 2, float(rng.normal() + n % 2), "") for n in range(40)]

    runs = [write_run(tmp_path / str(at), {}, more=rows("a") + rows("b")) for at in range(2)]
    found = compare(runs)
    (apart,) = found.differences
    assert apart.value == pytest.approx(found.auroc[1] - found.auroc[0])
    assert apart.how == "resamples of images, in pairs"
    assert found.images == 80


def test_an_image_of_several_folds_is_one_image(tmp_path):
    folds = [("tile", name, int(name.startswith("bad")), float(n), f) for f in "01" for n, name in enumerate(ONE)]
    found = compare([write_run(tmp_path / name, {}, more=folds) for name in ("one", "other")])
    assert found.images == 4
    assert found.differences[0].value == 0
    assert found.differences[0].interval is None
    assert found.differences[0].how.startswith("an interval takes 10 groups on either side of the test")


def test_images_are_placed_among_the_others_of_their_category(two):
    """good1 and good2 are above 0 and 1 of 3 others for one run, 1 and 2 for the other; bad1 above 2 and above 0."""
    found = compare(two)
    first, *others = found.disagreements
    assert (first.image, first.places) == ("bad1", (pytest.approx(2 / 3), 0.0))
    assert [(one.image, one.places[0]) for one in others] == [("good1", 0.0), ("good2", pytest.approx(1 / 3))]
    assert first.apart == pytest.approx(2 / 3)


def test_verdicts_that_differ_are_counted(tmp_path):
    runs = [
        write_run(tmp_path / "one", ONE, calls=["bad1", "bad2"]),
        write_run(tmp_path / "other", ONE, calls=["bad2", "good2"]),
        write_run(tmp_path / "none", ONE),
    ]
    assert compare(runs).verdicts == [2, None]


def test_images_of_one_run_alone_take_no_part(tmp_path):
    runs = [write_run(tmp_path / "one", ONE | {"good9": 9}), write_run(tmp_path / "other", ONE)]
    found = compare(runs)
    assert found.images == 4
    assert found.auroc == [1.0, 1.0]
    assert found.notes == ["one was tested on 1 image more, which take no part in differences"]


def test_runs_by_other_runtimes_are_told_to_be(two):
    for folder, runtime in zip(two, ("torch 2.14.1", "openvino 2026.4.1"), strict=True):
        report = Report.load(folder / "report.json")
        report.model_copy(update={"runtimes": [runtime]}).write(folder / "report.json")
    (note,) = compare(two).notes
    assert note.startswith("the runs were computed differently: one in ")
    assert " by torch 2.14.1, other in " in note
    assert note.endswith(" by openvino 2026.4.1")


def test_one_label_alone_has_no_difference(tmp_path):
    found = compare([write_run(tmp_path / name, {"good1": 1, "good2": 2}) for name in ("one", "other")])
    assert found.differences[0].value is None
    assert "no category has both normal and anomalous test images" in found.differences[0].how


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path):
    found = compare([write_run(tmp_path / name / "dn2", ONE) for name in ("a", "b")])
    assert [run.name for run in found.runs] == ["a/dn2", "b/dn2"]


def test_other_labels_are_refused(tmp_path):
    one = write_run(tmp_path / "one", {"good1": 1, "bad1": 2})
    other = write_run(tmp_path / "other", {"bad1": 2}, more=[("tile", "good1", 1, 1.0, "")])
    with pytest.raises(UserError, match=r"good1: expected the same label .* found normal in one and anomalous in o"):
        compare([one, other])


def test_runs_on_other_data_are_refused(tmp_path):
    one, other = write_run(tmp_path / "one", ONE), write_run(tmp_path / "other", {"good7": 1, "bad7": 2})
    with pytest.raises(UserError, match=r"expected runs with test images in common, found none of one in other"):
        compare([one, other])


def test_one_run_is_refused(two):
    with pytest.raises(UserError, match="two or more runs, found one"):
        compare(two[:1])
    with pytest.raises(UserError, match=r"expected different runs, found .*one more than once"):
        compare([two[0], two[0]])


def test_what_is_no_run_is_refused(two, tmp_path):
    with pytest.raises(UserError, match=r"expected the folder of a run, with report.json in it, found none"):
        compare([two[0], tmp_path])


def test_runs_of_other_folds_are_refused(tmp_path):
    folds = [("tile", name, int(name.startswith("bad")), 1.0, fold) for fold in "012" for name in ONE]
    one, other = write_run(tmp_path / "one", ONE), write_run(tmp_path / "other", {}, more=folds)
    with pytest.raises(UserError, match=r"expected runs of the same run.folds, found none in one and 3 in other"):
        compare([one, other])


@pytest.mark.parametrize("cut", ["bad2,", "bad2,,bad,1,nan"])
def test_a_row_that_is_damaged_is_refused(two, cut):
    scores = two[1] / "scores.csv"
    head = scores.read_text().partition("bad2")[0]
    scores.write_text(head + cut + ("," * 3 if "nan" in cut else "") + "\n")
    with pytest.raises(UserError, match=r"scores.csv: expected the scores of a run, found a damaged file"):
        compare(two)


@pytest.mark.parametrize("text", ["", "category,split\ntile,test\n", "\0", None])
def test_damaged_scores_are_refused(two, text):
    scores = two[1] / "scores.csv"
    if text is None:
        scores.unlink()
    else:
        scores.write_text(text)
    with pytest.raises(UserError, match=r"expected (the scores of a run|runs with test images in common)"):
        compare(two)
