"""Near copies in runs: images of parts that were photographed twice, and nobody says so."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import adkit
from adkit.cli.check import check
from tests.recipe.small import write_small


def write_parts(category: Path) -> None:
    """60 parts to train on, each photographed twice with other noise, and 20 to test on, half of them anomalous."""
    generator = np.random.default_rng(0)
    shutil.rmtree(category)
    for part in range(80):
        look = generator.integers(0, 256, (6, 6, 3)).repeat(8, 0).repeat(8, 1)
        folder = "train/good" if part < 60 else "test/good" if part < 70 else "test/crack"
        for photo in range(2 if part < 60 else 1):
            path = category / folder / f"part{part:02d}_{photo}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.clip(look + generator.normal(0, 2, look.shape), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(path)


@pytest.fixture
def parts(tmp_path):
    """A recipe for such images, without and with the parts named by ``data.group``."""
    recipe = write_small(tmp_path)
    recipe["data"]["image_size"] = 32
    recipe["data"]["batch_size"] = 32
    write_parts(tmp_path / "data" / "stripes")
    return recipe


def warnings(report):
    return [text for text in report.warnings if "much closer than others" in text]


def test_a_run_warns_of_calibration_images_with_near_copies_in_training(parts):
    report = adkit.run(parts)
    (text,) = warnings(report)
    assert text.startswith("stripes: expected calibration images of other parts than the training images, found ")
    assert r'set [data] group = "(part\\d+)_"' in text
    with Image.open(Path(report.folder) / "near-copies.png") as sheet:
        assert sheet.format == "PNG" and sheet.width > 1000


def test_the_suggestion_ends_the_warning(parts):
    parts["data"]["group"] = r"(part\d+)_"
    report = adkit.run(parts)
    assert not warnings(report)
    assert not (Path(report.folder) / "near-copies.png").exists()


def test_the_first_fold_is_looked_at(parts):
    parts["data"].pop("calibration")
    parts["threshold"] = {"method": "cross", "folds": 3}
    assert len(warnings(adkit.run(parts))) == 1


def test_test_images_of_the_parts_trained_on(parts, tmp_path):
    good = tmp_path / "data" / "stripes"
    for path in (good / "train" / "good").glob("*_1.png"):
        path.rename(good / "test" / "good" / path.name)
    (text,) = warnings(adkit.run(parts))
    assert "expected test images of other parts" in text and "scores will be worse than reported on new parts" in text


def test_check_says_what_the_run_would_say(parts, tmp_path):
    sheet = tmp_path / "sheet.png"
    (line,) = [line for line in check(parts, contact_sheet=sheet).splitlines() if "much closer than others" in line]
    (text,) = warnings(adkit.run(parts))
    assert line == f"warning: {text}".replace("near-copies.png", str(sheet))
    assert sheet.exists()


def test_check_without_near_copies_or_with_named_parts(parts, tmp_path):
    for path in (tmp_path / "data" / "stripes" / "train" / "good").glob("*_1.png"):
        path.unlink()
    sheet = tmp_path / "sheet.png"
    assert "stripes: no sign of near copies between" in check(parts, contact_sheet=sheet)
    parts["data"]["group"] = r"(part\d+)_"
    assert "stripes: the parts are named, so near copies were not looked for" in check(parts, contact_sheet=sheet)
    assert not sheet.exists()


def test_copies_have_one_remedy(parts, tmp_path):
    stripes = tmp_path / "data" / "stripes"
    for path in (stripes / "train" / "good").glob("*_1.png"):
        shutil.copy(path.with_name(path.name.replace("_1", "_0")), stripes / "test" / "good" / path.name)
        path.unlink()
    report = adkit.run(parts)
    assert [text for text in report.warnings if "60 test images are among the training images too" in text]
    assert not warnings(report)
