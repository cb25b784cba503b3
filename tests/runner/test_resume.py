"""Runs that are interrupted and go on: nothing finished is done again, and nothing comes out otherwise."""

import hashlib
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

import adkit
from adkit import UserError
from adkit.utils.progress import Display
from tests.data.categories import write_category


class Watch(Display):
    """Notes every stage, and interrupts as Ctrl-C would when one begins or has done so many images."""

    def __init__(self, stop=None, after=0):
        super().__init__(quiet=True)
        self.stages = []
        self.images = {}
        self.said = []
        self._stop, self._after = stop, after

    def say(self, text):
        self.said.append(text)

    @contextmanager
    def stage(self, name, subject, total=None):
        here = self._stop == (name, subject)
        if here and not self._after:
            raise KeyboardInterrupt
        self.stages.append((name, subject))
        with super().stage(name, subject, total) as advance:

            def count(images):
                advance(images)
                self.images[name] = self.images.get(name, 0) + images
                if here and self.images[name] >= self._after:
                    raise KeyboardInterrupt

            yield count


def interrupt(recipe, name, subject, after=0, **options):
    with pytest.raises(KeyboardInterrupt):
        adkit.run(recipe, display=Watch((name, subject), after), **options)


def go_on(recipe, **options):
    watch = Watch()
    return adkit.run(recipe, display=watch, interrupted="resume", **options), watch


def outcome(report):
    """Everything of a run but times and folders."""
    folder = Path(report.folder)
    kept = report.model_dump(exclude={"timings", "folder", "resumed", "peak_memory_bytes", "git"})
    detectors = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((folder / "detector").rglob("*.*"))
    }
    return kept, (folder / "scores.csv").read_bytes(), (folder / "recipe.toml").read_bytes(), detectors


def recipe(tmp_path, **data):
    """As quick as a run can be."""
    return {
        "run": {"name": "small", "output": str(tmp_path / "runs"), "device": "cpu", "precision": "float32"},
        "data": {"image_size": 32, "batch_size": 4, **data},
        "extractor": {"use": "timm", "backbone": "test_resnet", "weights": "none", "levels": ["layer1", "layer2"]},
        "scorer": {"use": "knn", "k": 1},
    }


@pytest.fixture
def three(tmp_path):
    """A recipe with the categories a, b and c of 14 images each."""
    for name in "abc":
        write_category(tmp_path / "three" / name, seed=ord(name))
    return recipe(tmp_path, format="mvtec", root=str(tmp_path / "three"))


@pytest.fixture
def classes(classes):
    """The 21 images are extracted in batches of 4."""
    classes["data"]["batch_size"] = 4
    return classes


@pytest.mark.parametrize(
    ("stage", "category"),
    [
        *(("fit", "b"), ("evaluate", "b"), ("save", "c")),
        *(
            pytest.param(*moment, marks=pytest.mark.slow)
            for moment in (("calibrate", "b"), ("metrics", "b"), ("save", "b"), ("fit", "c"))
        ),
    ],
)
def test_interrupted_and_gone_on_with_is_the_run_undisturbed(three, tmp_path, stage, category):
    expected = outcome(adkit.run(three, output=tmp_path / "undisturbed"))
    interrupt(three, stage, category)
    report, _ = go_on(three)
    assert outcome(report) == expected
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["small"]


def test_a_finished_category_is_not_looked_at_again(three):
    interrupt(three, "fit", "c")
    _, watch = go_on(three)
    assert {subject for _, subject in watch.stages} == {"small", "c"}


def test_a_run_that_was_interrupted_twice(three, tmp_path):
    expected = outcome(adkit.run(three, output=tmp_path / "undisturbed"))
    interrupt(three, "fit", "b")
    interrupt(three, "evaluate", "c", interrupted="resume")
    report, _ = go_on(three)
    assert outcome(report) == expected
    assert report.resumed == 2


def without(report, sentence=None):
    """The report with its warnings in one order, but for one of them."""
    return report.model_copy(update={"warnings": sorted(text for text in report.warnings if text != sentence)})


@pytest.mark.parametrize("category", ["a", "b"])
def test_a_finished_detector_that_was_damaged_is_made_again_and_named(three, tmp_path, category):
    expected = outcome(without(adkit.run(three, output=tmp_path / "undisturbed")))
    interrupt(three, "fit", "c")
    file = tmp_path / "runs" / ".small.partial" / "run" / "detector" / category / "scorer.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    report, watch = go_on(three)
    sentence = (
        f"{category}: finished before the interruption and damaged since, so it is done again: {file}: expected the "
        "digest that the manifest states, found another: it was altered or damaged"
    )
    assert [text for text in report.warnings if "damaged" in text] == [sentence]
    assert {subject for _, subject in watch.stages} == {"small", category, "c"}
    assert outcome(without(report, sentence)) == expected


def test_a_finished_detector_that_is_missing_is_made_again(three, tmp_path):
    interrupt(three, "fit", "b")
    file = tmp_path / "runs" / ".small.partial" / "run" / "detector" / "a" / "manifest.json"
    file.unlink()
    report, _ = go_on(three)
    assert any(f"{file}: expected the manifest of a detector, found no file" in text for text in report.warnings)
    assert (tmp_path / "runs" / "small" / "detector" / "a" / "manifest.json").is_file()


def test_the_report_counts_what_earlier_attempts_took(three):
    interrupt(three, "fit", "c")
    record = sorted(Path(three["run"]["output"]).glob(".small.partial/finished/*"))[-1]
    before = json.loads(record.read_text())["timings"]
    report, watch = go_on(three)
    assert report.resumed == 1
    assert report.timings["fit"] == pytest.approx(watch.timings["fit"], abs=1e-3)
    assert watch.timings["fit"] > before["fit"]
    assert watch.timings["metrics"] > before["metrics"]


def test_an_undisturbed_run_was_never_resumed(three):
    assert adkit.run(three).resumed == 0


def test_going_on_with_what_was_never_interrupted_is_a_run(three):
    report, _ = go_on(three)
    assert list(report.categories) == ["a", "b", "c"]


def test_nobody_said_what_to_do(three):
    interrupt(three, "fit", "c")
    with pytest.raises(UserError, match="interrupted after 2 of 3 categories: go on with --resume, or start over with"):
        adkit.run(three)


def test_starting_over_does_everything_again(three):
    interrupt(three, "fit", "c")
    watch = Watch()
    adkit.run(three, display=watch, interrupted="fresh")
    assert ("fit", "a") in watch.stages


def test_drafts_that_a_killed_run_left_are_removed(three, tmp_path):
    interrupt(three, "fit", "b")
    (record,) = tmp_path.rglob("page/000000.json")
    for place in (record.parent, record.parent.parent):  # a record of the page, and the page
        (place / ".0123456789abcdef.draft").touch()
    report, _ = go_on(three)
    assert not list(Path(report.folder).rglob("*.draft"))


def test_warnings_of_finished_categories_are_told_again(three):
    interrupt(three, "fit", "b")
    _, watch = go_on(three)
    assert any(text.startswith("warning: a: 2 calibration images cannot promise") for text in watch.said)


def test_what_is_gone_on_with_is_told(three):
    interrupt(three, "fit", "b")
    _, watch = go_on(three)
    assert f"{Path(three['run']['output']) / 'small'}: going on after 1 of 3 categories" in watch.said


def test_unreadable_images_of_finished_categories_still_count(three, tmp_path):
    for name in "ac":
        (tmp_path / "three" / name / "test" / "good" / "000.png").write_bytes(b"")
    three["data"]["max_bad_share"] = 0.04  # 1 of 42 images, and not 2
    interrupt(three, "fit", "b")
    with pytest.raises(UserError, match="2 of 42 images cannot be read"):
        go_on(three)


def test_unreadable_images_of_finished_categories_are_in_the_report(three, tmp_path):
    (tmp_path / "three" / "a" / "test" / "good" / "000.png").write_bytes(b"")
    expected = outcome(adkit.run(three, output=tmp_path / "undisturbed"))
    interrupt(three, "fit", "b")
    assert outcome(go_on(three)[0]) == expected


def test_another_recipe_is_refused(three):
    interrupt(three, "fit", "b")
    three["scorer"]["k"] = 2
    with pytest.raises(UserError, match=r"the recipe changed: scorer\.k was 1 and is 2: undo that, or start over with"):
        go_on(three)


def test_a_refusal_leaves_what_is_finished(three):
    interrupt(three, "fit", "b")
    with pytest.raises(UserError):
        go_on(three | {"scorer": {"use": "knn", "k": 2}})
    assert go_on(three)[0].resumed == 1


def test_another_folder_by_another_name_is_the_same_run(three, tmp_path, monkeypatch):
    interrupt(three, "fit", "b")
    monkeypatch.chdir(tmp_path)
    three["run"]["output"] = "runs"
    assert go_on(three)[0].resumed == 1


def test_changed_images_are_refused(three, tmp_path):
    interrupt(three, "fit", "b")
    path = tmp_path / "three" / "b" / "train" / "good" / "003.png"
    Image.open(path).rotate(90).save(path)
    with pytest.raises(UserError, match=r"1 image changed \(.*b/train/good/003\.png\)"):
        go_on(three)


def test_images_that_came_and_went_are_refused(three, tmp_path):
    interrupt(three, "fit", "b")
    folder = tmp_path / "three" / "c" / "test" / "good"
    (folder / "000.png").rename(folder / "100.png")
    with pytest.raises(UserError, match=r"1 image left the data \(.*000\.png\); 1 image joined the data \(.*100"):
        go_on(three)


def test_other_labels_of_the_same_images_are_refused(three, tmp_path):
    images = sorted((tmp_path / "three" / "a" / "train" / "good").iterdir())

    def write(labels):
        lines = [f"{path},good,train,{name}" for name in "ab" for path in images[:4]]
        lines += [
            f"{path},{label},test,{name}" for name in "ab" for path, label in zip(images[4:], labels, strict=True)
        ]
        (tmp_path / "list.csv").write_text("\n".join(["path,label,split,category", *lines]))

    write(["good", "good", "bad", "bad"])
    three["data"] = {"format": "csv", "root": str(tmp_path / "list.csv"), "image_size": 32}
    interrupt(three, "fit", "b")
    write(["good", "bad", "good", "bad"])
    with pytest.raises(UserError, match=r"splits, labels, masks or groups changed in a, b"):
        go_on(three)


def test_classes_interrupted_while_their_images_are_extracted(classes, tmp_path):
    expected = outcome(adkit.run(classes, output=tmp_path / "undisturbed"))
    interrupt(classes, "extract", "small", after=9)  # in the third batch of four, which is not written any more
    report, watch = go_on(classes)
    assert outcome(report) == expected
    assert watch.images["extract"] == 21 - 8


def test_extracted_images_are_told(classes):
    interrupt(classes, "extract", "small", after=9)
    with pytest.raises(UserError, match=r"interrupted after the features of 8 of 21 images: go on with --resume"):
        adkit.run(classes)


def test_classes_interrupted_after_the_first(classes, tmp_path):
    expected = outcome(adkit.run(classes, output=tmp_path / "undisturbed"))
    interrupt(classes, "fit", "green")
    report, watch = go_on(classes)
    assert outcome(report) == expected
    assert "extract" not in watch.images


def test_extracting_goes_on_when_no_image_that_is_left_can_be_read(classes, tmp_path):
    last = sorted((tmp_path / "classes" / "test" / "red").iterdir())[-1]  # alone in the last batch
    last.write_bytes(b"")
    classes["data"]["max_bad_share"] = 0.1
    expected = outcome(adkit.run(classes, output=tmp_path / "undisturbed"))
    interrupt(classes, "fit", "blue")
    assert outcome(go_on(classes)[0]) == expected


def test_broken_images_among_those_extracted_are_remembered(classes, tmp_path):
    (tmp_path / "classes" / "train" / "blue" / "1.png").write_bytes(b"")
    classes["data"]["max_bad_share"] = 0.1
    expected = outcome(adkit.run(classes, output=tmp_path / "undisturbed"))
    interrupt(classes, "extract", "small", after=9)
    assert outcome(go_on(classes)[0]) == expected


def test_a_run_interrupted_while_its_frozen_blocks_run(three, tmp_path):
    three["extractor"]["levels"] = ["pool"]
    three |= {"adapter": {"use": "panda", "blocks": ["layer4"]}, "training": {"minibatches": 3, "batch_size": 2}}
    undisturbed = Watch()
    expected = adkit.run(three, output=tmp_path / "undisturbed", display=undisturbed)
    interrupt(three, "frozen blocks", "a", after=5)  # in the second batch of four, which is not written any more
    with pytest.raises(UserError, match="interrupted after part of the training: go on with --resume"):
        adkit.run(three)
    report, watch = go_on(three)
    assert outcome(report)[1] == outcome(expected)[1]
    assert watch.images["frozen blocks"] == undisturbed.images["frozen blocks"] - 4


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills processes that it forks")
def test_runs_that_are_killed_at_random_moments(tmp_path):
    script = Path(__file__).parents[2] / "benchmarks" / "kills.py"
    done = subprocess.run([sys.executable, script, "--kills", "4"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "4 kills" in done.stdout
