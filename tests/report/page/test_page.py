import base64
import io
import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adkit import run
from adkit.data.dataset import open_dataset
from adkit.data.samples import Sample
from adkit.errors import UserError
from adkit.recipe.reader import read_recipe
from adkit.report.page import pictures
from adkit.report.page.charts import chart, ticks
from adkit.report.page.page import page, remake_page
from adkit.report.page.pictures import Cell, mean_patches, patches
from adkit.report.page.record import PageRecord, allotted, by_interest, packed, unpacked
from adkit.report.report import Report
from tests.cli.commands import adkit
from tests.report.page.records import VIEW, record, report, sample, thumbnails


def decoded(text):
    return Image.open(io.BytesIO(base64.b64decode(text)))


def data_of(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text)[1])


def test_numbers_come_back_from_their_bytes():
    scores = np.array([0.1, -2.5, 1e-30], np.float32)
    assert unpacked(packed(scores, "float32"), "float32").tobytes() == scores.tobytes()


def test_the_most_wrong_come_first_then_the_closest_calls():
    # Margins to 0.5: a normal at 0.9 is wrong by 0.4, an anomalous one at 0.4 by 0.1; right are 0.6 by 0.1, 0.2 by 0.3.
    scores, labels = np.array([0.2, 0.6, 0.9, 0.4]), np.array([0, 1, 0, 1])
    assert by_interest(scores, labels, 0.5).tolist() == [2, 3, 1, 0]


def test_without_a_threshold_both_labels_take_turns():
    scores, labels = np.array([1.0, 3.0, 2.0, 8.0, 4.0]), np.array([0, 0, 0, 1, 1])
    assert by_interest(scores, labels, None).tolist() == [1, 4, 2, 3, 0]


@pytest.mark.parametrize(
    ("counts", "total", "shares"),
    [([5, 5, 5], 6, [2, 2, 2]), ([1, 10, 10], 9, [1, 4, 4]), ([3, 4], 100, [3, 4]), ([7, 7], 0, [0, 0])],
)
def test_pictures_are_shared_among_categories(counts, total, shares):
    assert allotted(counts, total) == shares


def test_a_share_that_does_not_divide_is_used_up_and_no_more():
    assert sum(allotted([9, 9, 9], 10)) == 10


def test_a_picture_keeps_its_shape_and_its_colors(tmp_path):
    shown = thumbnails().of(sample(tmp_path, "red"), 3, None)
    assert (shown.row, shown.width, shown.height) == (3, 80, 40)
    assert decoded(shown.image).getpixel((40, 20))[0] > 240


def test_a_large_image_is_made_small(tmp_path):
    shown = thumbnails().of(sample(tmp_path, size=(1024, 512)), 0, None)
    assert (shown.width, shown.height) == (256, 128)


def test_a_line_of_pixels_is_a_picture(tmp_path):
    Image.new("L", (1, 3000)).save(tmp_path / "a.png")
    width, height = pictures.small_image(tmp_path / "a.png", 40_000)[1]
    assert width == 1 and 100 < height < 1000


def test_pictures_of_deep_images_show_the_range_of_the_recipe(tmp_path):
    values = np.full((40, 80), 1000, np.int32)
    values[:, 40:] = 3000
    Image.fromarray(values).save(tmp_path / "a.tif")
    view, one = replace(VIEW, range=(1000.0, 3000.0)), Sample("a", tmp_path / "a.tif", 0, "good")
    shown = replace(thumbnails(), view=view).of(one, 0, None)
    assert [decoded(shown.image).getpixel(at) for at in ((10, 20), (70, 20))] == [0, 255]
    (patch,) = patches(one, [Cell((32.0, 8.0), (16.0, 16.0))], view)
    assert decoded(patch.picture).getpixel((2, 36)) == 0


def test_a_picture_stays_within_its_bytes(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    one = sample(tmp_path)
    Image.fromarray(noise).save(one.source)
    shown = thumbnails(3_000).of(one, 0, noise[..., 0].astype(np.float32))
    assert len(base64.b64decode(shown.image)) + len(base64.b64decode(shown.map)) <= 3_000


def test_a_map_is_from_its_lowest_to_its_highest_value(tmp_path):
    values = np.full((64, 64), 2.0, np.float32)
    values[:, 32:] = 6.0
    shown = thumbnails().of(sample(tmp_path), 0, values)
    assert (shown.low, shown.high) == (2.0, 6.0)
    drawn = np.asarray(decoded(shown.map))
    assert drawn[:, 0].max() == 0
    assert drawn[:, -1].min() == 255


def test_a_mask_is_outlined_in_the_pixels_of_the_picture(tmp_path):
    mask = np.zeros((400, 800), np.uint8)
    mask[100:200, 400:600] = 255  # rows 32 to 64, columns 128 to 192 of a picture of 256 × 128
    Image.fromarray(mask).save(tmp_path / "mask.png")
    shown = thumbnails().of(sample(tmp_path, size=(800, 400), mask=tmp_path / "mask.png"), 0, None)
    points = np.array(re.findall(r"([\d.]+) ([\d.]+)", shown.outline), float)
    assert points.min(0) == pytest.approx([128, 32], abs=0.6)
    assert points.max(0) == pytest.approx([192, 64], abs=0.6)


def test_a_defect_of_a_few_pixels_is_outlined(tmp_path):
    mask = np.zeros((1000, 1000), np.uint8)
    mask[500:502, 500:502] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    shown = thumbnails().of(sample(tmp_path, size=(1000, 1000), mask=tmp_path / "mask.png"), 0, None)
    assert shown.outline.startswith("M")


def test_an_image_that_was_moved_has_no_picture_and_the_page_says_so(tmp_path):
    one = sample(tmp_path)
    one.source.unlink()
    shown = thumbnails().of(one, 0, np.zeros((64, 64), np.float32))
    assert shown.image is None
    assert "This image can no longer be read." in page(report(), "", [record(pictures=[shown])])


HOSTILE = "</script><img src=x onerror=alert(1)>.png"


def test_no_text_from_outside_becomes_html():
    one = report(names=[f"tile{HOSTILE}"], warnings=[f"warning {HOSTILE}"])
    text = page(one, f'name = "{HOSTILE}"', [record(f"tile{HOSTILE}", names=[HOSTILE] * 4, kinds=["good", HOSTILE])])
    assert "<img src=x" not in text
    assert "&lt;img src=x" in text
    assert text.count("</script>") == 2  # the data's and the script's own
    assert data_of(text)["categories"][0]["names"][0] == [0, HOSTILE]


def test_names_that_turn_letters_around_are_shown_as_escapes():
    text = page(report(warnings=["a\u202eb"]), "", [record(names=["\u202egnp.exe"] * 4)])
    assert "\u202e" not in text
    assert data_of(text)["categories"][0]["names"][0][1].startswith("\\xe2\\x80\\xae")


def test_the_policy_allows_this_script_and_this_style_alone():
    text = page(report(), "", [record()])
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', text)[1].replace("&#39;", "'")
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy


def test_warnings_stand_before_the_figures():
    text = page(report(warnings=["mind the gap"]), "", [record()])
    assert text.index("mind the gap") < text.index(">0.875<")


def test_ticks_are_round_and_enclose():
    assert ticks(0.13, 0.87) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(3.0, 3.0)[0] <= 3.0 <= ticks(3.0, 3.0)[-1]


def test_a_value_that_never_changes_lies_at_the_top():
    one = chart("t", "x", {"AUROC": [(0, 1.0), (1, 1.0)]})
    assert one.y_ticks[-1].text == "1"
    assert one.lines[0].points[0][1] == one.top


def test_a_loss_that_is_not_finite_is_left_out():
    assert chart("t", "x", {"loss": [(0, math.nan), (1, math.inf)]}) is None
    assert len(chart("t", "x", {"loss": [(0, 2.0), (1, math.inf)]}).lines[0].points) == 1


def test_labels_of_lines_that_end_together_do_not_cover_each_other():
    lines = chart("t", "x", {"a": [(0, 0), (1, 1)], "b": [(0, 1), (1, 1)]}).lines
    assert abs(lines[0].label_at - lines[1].label_at) >= 12


def test_a_run_leaves_a_page(small_run):
    written = Path(small_run.folder, "report.html")
    assert written.stat().st_size < 1_000_000
    assert f"<h1>{small_run.name}</h1>" in written.read_text()


def test_a_page_is_made_again_without_the_images(small_run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(small_run.folder, copy)
    before = (copy / "report.html").read_bytes()
    (copy / "report.html").unlink()
    assert remake_page(copy).read_bytes() == before


def test_the_command_writes_the_page_and_says_where(small_run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(small_run.folder, copy)
    (copy / "report.html").unlink()
    done = adkit("report", copy)
    assert (done.returncode, done.stdout) == (0, f"report: {copy / 'report.html'}\n")
    assert (copy / "report.html").exists()


def test_no_run(tmp_path):
    with pytest.raises(UserError, match=r"expected the folder of a run, with report.json in it, found none"):
        remake_page(tmp_path)


def test_a_run_that_was_interrupted(tmp_path):
    (tmp_path / ".tile.partial").mkdir()
    with pytest.raises(UserError, match=r"expected a finished run, found one that was interrupted; finish it first"):
        remake_page(tmp_path / "tile")


def test_a_run_of_an_adkit_without_pages(tmp_path):
    report().write(tmp_path / "report.json")
    (tmp_path / "recipe.toml").touch()
    done = adkit("report", tmp_path)
    assert done.returncode == 2
    assert "expected what the page is made of, found no such file: run its recipe again" in done.stderr


def test_records_of_another_run(small_run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(small_run.folder, copy)
    record("elsewhere").save(copy, 0)
    with pytest.raises(UserError, match=r"page: expected records of this version of adkit, found others"):
        remake_page(copy)


def test_a_report_of_another_version(tmp_path):
    (tmp_path / "report.json").write_text('{"schema": "adkit.report/1"}')
    with pytest.raises(UserError, match=r"expected a report of this version of adkit, found another one"):
        remake_page(tmp_path)


@pytest.mark.parametrize("given", ["", ".", "/"])
def test_a_folder_without_a_name_is_refused_in_words(tmp_path, given):
    done = adkit("report", given, cwd=tmp_path)
    assert done.returncode == 2
    assert "expected the folder of a run, with report.json in it, found none" in done.stderr


def test_the_folder_that_one_is_in_may_be_the_run(small_run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(small_run.folder, copy)
    assert adkit("report", ".", cwd=copy).stdout == f"report: {copy / 'report.html'}\n"


@pytest.mark.parametrize("table", [{}, {"image_auroc": None}])
def test_a_report_that_lacks_metrics_is_told_to_be_damaged(small_run, tmp_path, table):
    copy = tmp_path / "run"
    shutil.copytree(small_run.folder, copy)
    written = json.loads((copy / "report.json").read_text())
    for change in ({"mean": table}, {"categories": {"stripes": written["categories"]["stripes"] | {"metrics": table}}}):
        (copy / "report.json").write_text(json.dumps(written | change))
        with pytest.raises(UserError, match=r"report.json: expected a report of this version of adkit, found another"):
            remake_page(copy)


@pytest.mark.parametrize(
    "change",
    [
        {"scores": "no base64"},
        {"scores": packed([0.1], "float32")},
        {"labels": packed([0, 1, 1], "float32")},
        {"kind_of": packed([7, 7, 7, 7], "uint8")},
        {"peaks": packed([0.5], "float32")},
        {"calibration_groups": packed([0], "uint32")},
        {"names": [(4, "beyond")]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_record_whose_numbers_do_not_fit_is_told_to_be_damaged(small_run, tmp_path, change):
    copy = tmp_path / "run"
    shutil.copytree(small_run.folder, copy)
    whole = record("stripes").model_dump(by_alias=True)
    (copy / "page" / "000000.json").write_text(json.dumps(whole))
    remake_page(copy)
    (copy / "page" / "000000.json").write_text(json.dumps(whole | change))
    with pytest.raises(UserError, match=r"page: expected records of this version of adkit, found others or damaged"):
        remake_page(copy)


def test_the_number_of_pictures_is_the_recipes(small_recipe):
    small_recipe["run"]["thumbnails"] = 3
    found = run(small_recipe)
    text = Path(found.folder, "report.html").read_text()
    one = data_of(text)["categories"][0]
    assert len(one["pictures"]) == 3
    assert len(one["names"]) == found.images.test_normal + found.images.test_anomalous


def test_figures_of_the_page_are_those_of_the_report(small_run):
    text = Path(small_run.folder, "report.html").read_text()
    cells = dict(re.findall(r'data-metric="(\w+)">([\d.–]+)', text))
    only = next(iter(Report.load(Path(small_run.folder, "report.json")).categories.values()))
    assert cells == {name: f"{value:.3f}" for name, value in only.metrics.items() if value is not None}


def test_evidence_shows_the_cell_and_where_it_lies(tmp_path):
    # A grid of 4 × 4 cells over an input of 64 pixels, of an image of 80 × 40: cell (1, 2) spans x from 40 to 60 and
    # y from 10 to 20, so its center lies at (50, 15).
    cell = Cell((24.0, 40.0), (16.0, 16.0))
    (patch,) = patches(sample(tmp_path, "red"), [cell], VIEW)
    assert patch.place == (50, 15)
    left, top, width, height = patch.box
    assert (width / height, decoded(patch.picture).size) == (2, (72, 72))
    assert 0 <= left < 1
    assert 0 <= top < 1


def test_evidence_of_a_run_names_the_training_images_that_were_closest(small_run):
    record = PageRecord.load(Path(small_run.folder, "page", "000000.json"))
    for picture in record.pictures:
        assert len(picture.evidence.nearest) == 3
        distances = [patch.distance for patch in picture.evidence.nearest]
        assert distances == sorted(distances)
        assert all("/train/good/" in patch.image for patch in picture.evidence.nearest)
        # With k = 1 and the highest value of each level, an image's score is the mean of its levels' distances.
        assert distances[0] >= unpacked(record.scores, "float32")[picture.row] - 1e-6


@pytest.mark.parametrize("scorer", [{"use": "knn", "k": 1}, {"use": "gaussian"}], ids=str)
def test_evidence_of_several_members_is_that_of_one_and_of_the_images_that_it_saw(small_recipe, scorer):
    small_recipe |= {"scorer": scorer, "threshold": {"method": "cross", "folds": 3}}
    found = run(small_recipe)
    recipe = read_recipe(small_recipe)
    (category,) = open_dataset(recipe.data, recipe.run.seed, 3).categories
    left_out = [{sample.id for sample in fold} for fold in category.folds]
    record = PageRecord.load(Path(found.folder, "page", "000000.json"))
    for picture in record.pictures:
        assert picture.evidence.member in (1, 2, 3)
        names = {patch.image for patch in picture.evidence.nearest}
        assert len(picture.evidence.nearest) == (3 if scorer["use"] == "knn" else 0)
        assert (picture.evidence.mean is None) == bool(names)
        assert not names & left_out[picture.evidence.member - 1]


def test_the_mean_of_a_place_is_that_of_the_images_that_can_be_read(tmp_path):
    given = [replace(sample(tmp_path, color), id=color) for color in ("black", "#c8c8c8")]
    gone = replace(given[0], source=tmp_path / "gone.png")
    (mean,) = mean_patches([given[0], gone, given[1]], [Cell((24.0, 40.0), (16.0, 16.0))], VIEW)
    colors = np.asarray(decoded(mean.picture), int)
    assert abs(colors - 100).max() <= 2  # JPEG
    assert mean.images == 2
    assert mean_patches([gone], [Cell((24.0, 40.0), (16.0, 16.0))], VIEW) == []


def test_where_the_scorer_names_no_cells_evidence_is_the_mean_of_the_place(small_recipe):
    small_recipe["scorer"] = {"use": "gaussian"}
    found = run(small_recipe)
    record = PageRecord.load(Path(found.folder, "page", "000000.json"))
    assert record.pictures
    for picture in record.pictures:
        assert picture.evidence.nearest == []
        assert picture.evidence.mean.images == found.images.train
