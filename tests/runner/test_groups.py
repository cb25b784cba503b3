"""Images of one part: on one side of every split, in what a run leaves, and in verdicts on new parts."""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import adkit
from adkit import Detector, UserError
from adkit.cli.check import check
from adkit.data.dataset import open_dataset
from adkit.data.formats.arrays import ArraysTable
from adkit.data.formats.csv_list import CsvTable
from adkit.data.formats.folder import FolderTable
from adkit.data.formats.mvtec import MvtecTable
from adkit.data.groups import keys_by
from adkit.inference.assemble import assemble
from adkit.recipe.reader import read_recipe
from adkit.report.report import Report
from adkit.runner.fit import without
from adkit.training.plan import split_of
from tests.cli.commands import adkit as adkit_command
from tests.recipe.small import write_small
from tests.runner.score_rows import rows

GROUP = r"(t\d+)_"


def write_parts(root: Path) -> None:
    """Twelve normal parts to train on and four to test, three images each; two anomalous parts of two images."""
    rng = np.random.default_rng(0)
    for folder, parts, shots in (
        ("train/good", range(12), 3),
        ("test/good", range(12, 16), 3),
        ("test/bad", (20, 21), 2),
    ):
        for part in parts:
            base = rng.integers(0, 200, (48, 48, 3))
            for shot in range(shots):
                path = root / "tile" / folder / f"t{part:02}_shot{shot}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray((base + rng.integers(0, 20, base.shape)).astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def grouped(tmp_path_factory):
    """The tables of a recipe of a few images of parts."""
    folder = tmp_path_factory.mktemp("grouped")
    recipe = write_small(folder)
    write_parts(folder / "parts")
    recipe["data"] |= {"root": str(folder / "parts"), "group": GROUP}
    recipe["threshold"] = {"false_positive_rate": 0.3}
    return recipe


def run(recipe, name, **tables):
    merged = {**recipe, **{table: {**recipe.get(table, {}), **keys} for table, keys in tables.items()}}
    merged["run"] = {**merged["run"], "name": name}
    report = adkit.run(merged)
    return report, rows(report)


def part_of(id: str) -> str:
    key = keys_by(GROUP)(id)
    assert key is not None
    return key


@pytest.fixture(scope="module")
def split(grouped):
    return run(grouped, "split")


# Data --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("group", "id", "key"),
    [
        (r"(t\d+)_", "tile/good/t017_1.png", "t017"),
        (r"lot(\d+)/.*_(\w)\.", "lot3/x_b.png", "3/b"),
        (r"(t\d+)_|part(\d+)", "part7.png", "7"),
        ("folder", "lot3/cam1/x.png", "cam1"),
        ("folder:1", "lot3/cam1/x.png", "lot3"),
        ("folder:1", "/lot3/cam1/x.png", "lot3"),
        ("folder", "/x.png", None),
        ("folder:2", "lot3/cam1/x.png", "cam1"),
        ("folder:3", "lot3/cam1/x.png", None),
        ("folder", "x.png", None),
        (r"(t\d+)_", "x.png", None),
        (r"(t\d+)?_", "a_b.png", None),
    ],
)
def test_the_key_of_an_id(group, id, key):
    assert keys_by(group)(id) == key


def test_parentheses_that_find_the_same_digits_in_other_places_are_other_parts():
    key = keys_by(r"lot(\d+)_part(\d+)")
    assert key("lot1_part23.png") != key("lot12_part3.png")


@pytest.mark.parametrize("group", ["t017", "(", "folder:0"])
def test_what_says_no_part_is_refused(grouped, group):
    with pytest.raises(UserError, match=r"data\.group: expected"):
        run(grouped, "never", data={"group": group})


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("folds", [0, 4])
def test_no_split_of_a_dataset_separates_a_group(grouped, seed, folds):
    table = MvtecTable(root=grouped["data"]["root"], group=GROUP, calibration=0.25)
    (category,) = open_dataset(table, seed, folds).categories
    sides = category.folds or (category.train, category.calibration)
    keys = [{part_of(sample.id) for sample in side} for side in sides]
    assert sum(map(len, keys)) == 12
    assert all(keys)


def test_a_share_for_the_test_separates_no_group(grouped):
    root = Path(grouped["data"]["root"]) / "tile"
    table = FolderTable(root=str(root), normal="train/good", anomalous="test/bad", group=GROUP, test_share=0.5)
    (category,) = open_dataset(table, 0).categories
    tested = {part_of(sample.id) for sample in category.test if not sample.label}
    assert len(tested) == 6
    assert not tested & {part_of(sample.id) for sample in (*category.train, *category.calibration)}


def test_ids_without_a_group_are_named_three_at_a_time(grouped):
    table = MvtecTable(root=grouped["data"]["root"], group=r"(t0\d)_")
    with pytest.raises(UserError, match=r"found none for 22 images \(tile/train/good/t10_shot0\.png, .* 19 more\)"):
        open_dataset(table, 0)


def test_or_they_are_parts_of_their_own(grouped):
    table = MvtecTable(root=grouped["data"]["root"], group=r"(t0\d)_", group_missing="own")
    (category,) = open_dataset(table, 0).categories
    alone = [sample for sample in category.normal if sample.group == sample.id]
    assert len(alone) == 18
    assert category.grouped


def test_an_expression_that_finds_no_part_at_all_is_told(grouped):
    table = MvtecTable(root=grouped["data"]["root"], group=r"(part\d+)_", group_missing="own")
    (warning,) = open_dataset(table, 0).warnings
    assert warning.startswith("tile: expected a group for some image by (part\\d+)_, found none for any of 52 images (")


def test_a_group_on_both_sides_of_training_and_test_is_named(grouped, tmp_path):
    write_parts(tmp_path)
    folder = tmp_path / "tile"
    (folder / "train/good/t01_shot0.png").rename(folder / "test/good/t01_shot0.png")
    (warning,) = open_dataset(MvtecTable(root=str(tmp_path), group=GROUP), 0).warnings
    assert warning.startswith("tile: 1 group has images both in training and in the test")
    assert warning.endswith("put each group on one side: t01")


def test_calibration_images_of_groups_that_are_trained_on_move_to_training(tmp_path):
    write_parts(tmp_path)
    folder = tmp_path / "tile"
    (folder / "validation/good").mkdir(parents=True)
    for name in ("t01_shot0.png", "t02_shot0.png", "t02_shot1.png", "t02_shot2.png"):
        (folder / "train/good" / name).rename(folder / "validation/good" / name)
    dataset = open_dataset(MvtecTable(root=str(tmp_path), group=GROUP), 0)
    (category,) = dataset.categories
    assert {part_of(sample.id) for sample in category.calibration} == {"t02"}
    assert [text.partition(",")[0] for text in dataset.warnings] == [
        "tile: 1 calibration image is of groups that are trained on"
    ]


def test_a_column_of_a_csv_file_names_groups(grouped, tmp_path):
    root = Path(grouped["data"]["root"])
    lines = ["path,label,split,part"]
    lines += [f"{path},good,train,{number % 4}" for number, path in enumerate(sorted(root.glob("tile/train/good/*")))]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    (category,) = open_dataset(CsvTable(root=str(tmp_path / "list.csv"), group="part"), 0).categories
    sizes = [{sample.group for sample in side} for side in (category.train, category.calibration)]
    assert sorted(map(len, sizes)) == [1, 3]
    with pytest.raises(UserError, match=r"expected the column lot of data\.group, found path, label, split, part"):
        open_dataset(CsvTable(root=str(tmp_path / "list.csv"), group="lot"), 0)
    (tmp_path / "list.csv").write_text("\n".join([*lines[:-1], lines[-1].rpartition(",")[0] + ", "]))
    with pytest.raises(UserError, match=r"by part, found none for 1 image \(.*\): name it in the data, or set"):
        open_dataset(CsvTable(root=str(tmp_path / "list.csv"), group="part"), 0)


def write_table(root: Path, *lines: str) -> CsvTable:
    """A table of parts that are named after their first image."""
    write_parts(root)
    (root / "tile/list.csv").write_text("\n".join(["path,label,split,part", *lines]))
    return CsvTable(root=str(root / "tile/list.csv"), group="part")


def test_calibration_images_move_where_a_part_is_named_after_its_first_image(tmp_path):
    first, second, other = (f"train/good/{name}.png" for name in ("t00_shot0", "t00_shot1", "t01_shot0"))
    rows = (f"{first},good,calibration,{first}", f"{second},good,train,{first}", f"{other},good,calibration,{other}")
    dataset = open_dataset(write_table(tmp_path, *rows), 0)
    (category,) = dataset.categories
    assert [sample.id for sample in category.calibration] == [other]
    (warning,) = dataset.warnings
    assert warning.endswith(f"set whole groups apart: {first}")


def test_a_part_that_is_named_after_its_first_image_is_seen_on_both_sides(tmp_path):
    first, second = "train/good/t00_shot0.png", "train/good/t00_shot1.png"
    dataset = open_dataset(write_table(tmp_path, f"{first},good,train,{first}", f"{second},good,test,{first}"), 0)
    (warning,) = dataset.warnings
    assert warning.endswith(f"put each group on one side: {first}")


def test_arrays_may_name_groups(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (24, 8, 8)).astype(np.uint8)
    arrays = {"x_train": images[:16], "y_train": [0] * 16, "x_test": images[16:], "y_test": [0, 1] * 4}
    np.savez(tmp_path / "a.npz", **arrays, train_groups=np.arange(16) // 4, test_groups=["a"] * 8)
    (category,) = open_dataset(ArraysTable(root=str(tmp_path / "a.npz"), normal=0), 0).categories
    assert {sample.group for sample in category.calibration} & {sample.group for sample in category.train} == set()
    assert len(category.calibration) == 4
    np.savez(tmp_path / "a.npz", **arrays, train_groups=["", *"abcdefghijklmno"], test_groups=["p"] * 8)
    with pytest.raises(UserError, match=r"image of 0, found none for 1 image \(train-images#0\): name it in the data"):
        open_dataset(ArraysTable(root=str(tmp_path / "a.npz"), normal=0), 0)
    np.savez(tmp_path / "a.npz", **arrays, test_groups=["p"] * 8)
    with pytest.raises(UserError, match=r"found none for 16 images \(train-images#0, "):
        open_dataset(ArraysTable(root=str(tmp_path / "a.npz"), normal=0), 0)
    (category,) = open_dataset(ArraysTable(root=str(tmp_path / "a.npz"), normal=0, group_missing="own"), 0).categories
    assert {sample.group for sample in category.train} == {sample.id for sample in category.train}
    np.savez(tmp_path / "b.npz", **arrays, train_groups=np.arange(15))
    with pytest.raises(UserError, match=r"train_groups: expected 16 whole numbers or texts"):
        open_dataset(ArraysTable(root=str(tmp_path / "b.npz"), normal=0), 0)


# Runs --------------------------------------------------------------------------------------------------


def test_rows_have_their_group(split):
    _, rows = split
    assert {row["id"]: row["group"] for row in rows} == {row["id"]: part_of(row["id"]) for row in rows}


def test_the_report_counts_groups_beside_images(split):
    images = split[0].categories["tile"].images
    assert (images.train, images.calibration, images.test_normal, images.test_anomalous) == (27, 9, 12, 4)
    groups = images.groups
    assert (groups.train, groups.calibration, groups.test_normal, groups.test_anomalous) == (9, 3, 4, 2)


def test_the_threshold_is_one_score_of_a_group(split):
    report, rows = split
    threshold = report.categories["tile"].threshold
    of_group = defaultdict(list)
    for row in rows:
        if row["split"] == "calibration":
            of_group[row["group"]].append(float(row["score"]))
    assert threshold.calibration_groups == len(of_group) == 3
    manifest = json.loads(Path(report.folder, "detector", "manifest.json").read_text())
    kept = manifest["calibration"]
    assert len(kept) == 3
    assert all(sum(min(abs(np.array(scores) - one)) < 1e-6 for one in kept) == 1 for scores in of_group.values())
    assert threshold.value == pytest.approx(max(kept))  # ⌊0.3 · 4⌋ = 1 of 4 may lie above
    assert threshold.promise == (
        "of a new normal part, one image drawn at random is called anomalous with a chance of at most 0.3"
    )
    assert threshold.false_positive_rate_smallest == 0.25


def test_the_rate_on_the_test_is_the_mean_over_groups(split):
    report, rows = split
    shares = defaultdict(list)
    for row in rows:
        if row["split"] == "test" and row["label"] == "0":
            shares[row["group"]].append(int(row["anomalous"]))
    threshold = report.categories["tile"].threshold
    assert threshold.test_false_positive_rate == pytest.approx(np.mean([np.mean(one) for one in shares.values()]))
    assert threshold.test_normal_groups == 4


@pytest.mark.parametrize("method", ["hierarchical", "pooled"])
def test_all_scores_are_kept_where_all_count(grouped, method):
    report, _ = run(grouped, method, threshold={"method": method})
    manifest = json.loads(Path(report.folder, "detector", "manifest.json").read_text())
    assert len(manifest["calibration"]) == 9
    groups = manifest["calibration_groups"]
    assert (groups is None) == (method == "pooled")
    assert groups is None or sorted(groups) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert report.categories["tile"].threshold.approximate == (method == "pooled")


@pytest.mark.parametrize("method", ["split", "hierarchical", "pooled", "cross"])
def test_the_detector_gives_the_p_values_of_the_run(grouped, method):
    report, rows = run(grouped, f"p-{method}", threshold={"method": method})
    tested = [row for row in rows if row["split"] == "test"]
    found = Detector.load(report.folder, "cpu").predict([Path(grouped["data"]["root"], row["id"]) for row in tested])
    np.testing.assert_allclose(found.p_values, [float(row["p_value"]) for row in tested], rtol=1e-5)
    assert found.anomalous.tolist() == [row["anomalous"] == "1" for row in tested]


def test_folds_of_all_normal_images_test_each_once(grouped):
    report, rows = run(grouped, "folds", run={"folds": 4, "fold_test": True}, data={"calibration": 0.2})
    normal, anomalous = defaultdict(list), defaultdict(list)
    for row in rows:
        if row["split"] == "test":
            (anomalous if row["label"] == "1" else normal)[row["id"]].append(row["fold"])
    assert len(normal) == 48
    assert all(len(folds) == 1 for folds in normal.values())
    assert {tuple(sorted(folds)) for folds in anomalous.values()} == {("1", "2", "3", "4")}
    fold_of = defaultdict(set)
    for id, (fold,) in normal.items():
        fold_of[part_of(id)].add(fold)
    assert all(len(folds) == 1 for folds in fold_of.values())
    for row in rows:
        if row["split"] == "calibration":
            assert row["fold"] not in fold_of[row["group"]]
    assert report.categories["tile"].threshold.test_normal_groups == 16


def sides_of(rows, fold):
    """The groups of the calibration and of the normal test images of one fold."""
    chosen = [row for row in rows if row["fold"] == fold and row["label"] == "0"]
    return [{row["group"] for row in chosen if row["split"] == split} for split in ("calibration", "test")]


def test_folds_that_share_their_test_images_have_one_calibration(grouped):
    report, rows = run(grouped, "shared", run={"folds": 3})
    (first, tested), *others = [sides_of(rows, fold) for fold in "123"]
    assert others == [[first, tested], [first, tested]]
    assert (len(first), len(tested)) == (3, 4)
    # Nine groups of three images are in three folds, and the first detector is saved: six groups are trained on.
    images = report.categories["tile"].images
    assert (images.train, images.groups.train) == (18, 6)


TRAINED = {
    "extractor": {"levels": ["pool"]},
    "training": {"batch_size": 8, "epochs": 1, "clip_norm": 1.0},
}


def test_the_stopper_has_groups_of_its_own(grouped):
    tables = {"adapter": {"use": "panda", "blocks": ["layer4"]}, "stopper": {"use": "plateau", "validation": 0.3}}
    report, _ = run(grouped, "stopped", **TRAINED, **tables)
    images = report.categories["tile"].images
    # Of 12 groups three calibrate and three (9 of 27 images, for 8.1 wanted) are the stopper's.
    assert (images.train, images.stopping, images.calibration) == (18, 9, 9)
    assert (images.groups.train, images.groups.stopping, images.groups.calibration) == (6, 3, 3)


def test_the_images_for_scales_are_trained_on_too(grouped):
    tables = {**TRAINED, "training": TRAINED["training"] | {"snapshot_epochs": 1}}
    report, _ = run(grouped, "scaled", **tables, adapter={"use": "ses", "blocks": ["layer4"]})
    images = report.categories["tile"].images
    # Of twelve groups three calibrate; the group for the scales is one of the other nine, which all are in the gallery.
    assert (images.train, images.groups.train) == (27, 9)


def test_fewer_groups_than_folds_are_refused(grouped):
    with pytest.raises(UserError, match=r"threshold\.folds: expected at least 13 groups of normal images in tile"):
        run(grouped, "never", threshold={"method": "cross", "folds": 13})


@pytest.mark.parametrize(("folds", "fold_test", "found"), [(10, False, 9), (17, True, 16)])
def test_fewer_groups_than_folds_are_refused_by_a_check(grouped, folds, fold_test, found):
    recipe = grouped | {"run": grouped["run"] | {"folds": folds, "fold_test": fold_test}}
    with pytest.raises(UserError, match=rf"run\.folds: expected .* groups .*, found {found}: add groups, or ask for"):
        check(recipe)


def test_of_one_group_none_is_kept_back(grouped):
    report, _ = run(grouped, "one", data={"group": "folder:2"})
    assert report.warnings == [
        "tile: no group of normal images could be kept back for a threshold, so there is none: it takes one not "
        "trained on"
    ]


def test_too_few_groups_say_what_they_support(grouped):
    report, _ = run(grouped, "few", threshold={"false_positive_rate": 0.05})
    (warning,) = [text for text in report.warnings if "cannot promise" in text]
    assert warning.startswith("tile: 3 calibration groups cannot promise a false-positive rate of 0.05; the threshold")
    assert "It takes 19 groups: add normal parts" in warning


def test_pooled_images_do_not_pass_for_groups(grouped):
    report, _ = run(grouped, "few-pooled", threshold={"false_positive_rate": 0.05, "method": "pooled"})
    (warning,) = report.warnings
    # Nine images: pooled, the highest of them keeps 1 / 10, but three groups support 1 / 4.
    assert warning.startswith("tile: 3 calibration groups cannot support a false-positive rate of 0.05, only 0.25; the")


@pytest.mark.parametrize("threshold", [{"per": "part"}, {"method": "hierarchical"}])
def test_thresholds_about_parts_need_groups(small_recipe, threshold):
    small_recipe["threshold"] = threshold
    with pytest.raises(UserError, match=r"expected data\.group with"):
        adkit.run(small_recipe)


# New parts ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def per_part(grouped):
    return run(grouped, "per-part", threshold={"per": "part"})


def test_per_part_the_highest_of_each_group_counts(per_part):
    report, rows = per_part
    highest = defaultdict(float)
    for row in rows:
        if row["split"] == "calibration":
            highest[row["group"]] = max(highest[row["group"]], float(row["score"]))
    manifest = json.loads(Path(report.folder, "detector", "manifest.json").read_text())
    assert sorted(manifest["calibration"]) == pytest.approx(sorted(highest.values()))
    threshold = Report.load(Path(report.folder, "report.json")).categories["tile"].threshold
    assert threshold.promise == "a new normal part is called anomalous with a chance of at most 0.3"
    parts = {row["group"] for row in rows if row["split"] == "test" and row["label"] == "0" and row["anomalous"] == "1"}
    assert threshold.test_false_positive_rate == len(parts) / 4


def test_a_part_is_anomalous_when_any_of_its_images_is(per_part, grouped):
    report, rows = per_part
    tested = [row for row in rows if row["split"] == "test"]
    images = [Path(grouped["data"]["root"], row["id"]) for row in tested]
    found = Detector.load(report.folder, "cpu").predict(images, groups=[row["group"] for row in tested])
    assert [part.group for part in found.parts] == list(dict.fromkeys(row["group"] for row in tested))
    for part in found.parts:
        own = [number for number, row in enumerate(tested) if row["group"] == part.group]
        assert part.images == len(own)
        assert part.score == max(found.scores[own])
        assert found.scores[part.highest] == part.score
        assert part.p_value == min(found.p_values[own])
        assert part.anomalous == any(found.anomalous[own])


def test_groups_are_one_for_each_image(per_part, grouped):
    detector = Detector.load(per_part[0].folder, "cpu")
    image = next(Path(grouped["data"]["root"]).rglob("*.png"))
    with pytest.raises(UserError, match="expected one key for each of 2 images, found 1"):
        detector.predict([image, image], groups=["a"])
    with pytest.raises(UserError, match="expected one key for each of 2 images, found 1"):
        detector.predict([image, image], groups="t1")  # a text is one key, and not one a letter
    parts = detector.predict(image, groups="t1").parts
    assert parts is not None
    assert [part.group for part in parts] == ["t1"]


def test_the_command_gives_a_row_for_each_part(per_part, grouped, tmp_path):
    folder = Path(grouped["data"]["root"]) / "tile" / "test"
    broken = tmp_path / "t12_broken.png"
    broken.touch()
    done = adkit_command("predict", per_part[0].folder, folder, broken, "--group", GROUP, "--device", "cpu")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["group"] for row in rows] == ["t20", "t21", "t12", "t13", "t14", "t15"]
    assert [(row["images"], row["unreadable"]) for row in rows][2] == ("3", "1")
    assert done.stderr.splitlines()[-1].startswith("6 parts, ")
    out = tmp_path / "out"
    done = adkit_command("predict", per_part[0].folder, folder, "--group", GROUP, "--output", out, "--device", "cpu")
    assert not done.stdout
    with (out / "predictions.csv").open() as images, (out / "parts.csv").open() as parts:
        scores = {row["path"]: float(row["score"]) for row in csv.DictReader(images)}
        for row in csv.DictReader(parts):
            assert scores[row["path"]] == float(row["score"])
            assert float(row["score"]) == max(value for path, value in scores.items() if row["group"] in path)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (
            ["--group", GROUP, "--watch"],
            "--group: expected all images of a part before the verdict on it, found --watch",
        ),
        (["--group", "t17"], "--group: expected an expression with parentheses"),
        (["--group", r"(lot\d)"], "--group: expected a part in every path by '(lot"),
    ],
)
def test_what_cannot_judge_parts_is_refused(per_part, grouped, arguments, problem):
    done = adkit_command("predict", per_part[0].folder, grouped["data"]["root"], *arguments)
    assert done.returncode == 2
    assert problem in done.stderr


def test_a_threshold_per_image_judges_no_parts(split, grouped):
    done = adkit_command("predict", split[0].folder, grouped["data"]["root"], "--group", GROUP)
    assert done.returncode == 2
    assert "expected a detector whose threshold is per part, found one per image" in done.stderr


# Training ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["stopper", "scale"])
def test_what_training_holds_out_separates_no_group(grouped, what):
    adapters = {
        "stopper": {"adapter": {"use": "panda"}, "stopper": {"use": "vicinal", "validation": 0.3}},
        "scale": {"adapter": {"use": "ses"}, "training": {"snapshot_epochs": 1}},
    }
    recipe = read_recipe({**grouped, **adapters[what]})
    (category,) = open_dataset(recipe.data, 0).categories
    split = split_of("tile", category.train, (), category.groups, assemble(recipe))
    sides = (split.train, split.stopping) if what == "stopper" else (without(split.train, split.scale), split.scale)
    keys = [{part_of(sample.id) for sample in side} for side in sides]
    assert not keys[0] & keys[1]
    assert len(keys[1]) == (3 if what == "stopper" else 1)  # of nine parts, three images each: 8.1 and 2.7 images
