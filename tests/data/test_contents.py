"""Images in which there is nothing to see are told as the data is opened."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import adkit
from adkit.data.contents import contents_warning
from adkit.data.images import Range
from adkit.data.samples import Sample

RANDOM = np.random.default_rng(0)


def noise(low: int, high: int, kind: type = np.uint8) -> Image.Image:
    return Image.fromarray(RANDOM.integers(low, high, (8, 8)).astype(kind))


def told(folder: Path, *images: Image.Image, range: Range | None = None) -> str | None:
    """What is said of these images, by the name tile."""
    samples = []
    for number, image in enumerate(images):
        image.save(folder / f"{number}.png")
        samples.append(Sample(f"{number}.png", folder / f"{number}.png", 0, "good"))
    return contents_warning("tile", samples, range)


def test_images_that_differ_need_no_word(tmp_path: Path) -> None:
    assert told(tmp_path, noise(0, 256), noise(0, 256)) is None


def test_one_image_needs_no_word(tmp_path: Path) -> None:
    assert told(tmp_path, noise(0, 256)) is None


def test_transparent_images_are_white(tmp_path: Path) -> None:
    clear = [Image.fromarray(RANDOM.integers(0, 256, (8, 8, 4), np.uint8)) for _ in range(2)]
    for image in clear:
        image.putalpha(0)
    assert told(tmp_path, *clear) == (
        "tile: the 2 normal images that were looked at are of one color (255 of 255), as transparent pixels are: "
        "nothing is to be learned from them; look at how they were written"
    )


def test_images_of_different_colors_need_no_word(tmp_path: Path) -> None:
    assert told(tmp_path, *(Image.new("L", (8, 8), value) for value in (10, 200))) is None


def test_images_of_the_same_pixels_are_told(tmp_path: Path) -> None:
    image = noise(0, 256)
    assert told(tmp_path, image, image, image) == (
        "tile: the 3 normal images that were looked at have all the same pixels: a detector of them knows one image; "
        "look at the files"
    )


def test_a_narrow_range_of_16_bits_is_told(tmp_path: Path) -> None:
    deep = noise(801, 1200, np.uint16)
    deep.putpixel((0, 0), 800)
    deep.putpixel((1, 0), 1200)
    assert told(tmp_path, deep, noise(800, 1200, np.uint16)) == (
        "tile: the 2 normal images that were looked at have values from 3.11 to 4.67 of 255, 0.6% of the range, in "
        'which little is to be seen: set data.range = "auto"'
    )


def test_a_range_that_is_too_wide_is_to_be_narrowed(tmp_path: Path) -> None:
    values = np.array([[800, 1200]], np.uint16)
    text = told(tmp_path, Image.fromarray(values), Image.fromarray(values.T), range=(0, 40_000))
    assert text is not None and text.endswith("little is to be seen: narrow data.range, which is 0 to 40000")


def test_a_range_that_fits_needs_no_word(tmp_path: Path) -> None:
    values = np.array([[800, 1200]], np.uint16)
    assert told(tmp_path, Image.fromarray(values), Image.fromarray(values.T), range=(800, 1200)) is None


def test_a_narrow_range_of_8_bits_is_to_be_stretched(tmp_path: Path) -> None:
    text = told(tmp_path, *(Image.fromarray(np.array([[20, value]], np.uint8)) for value in (21, 22)))
    assert text is not None and text.endswith("little is to be seen: stretch them before, all in the same way")


def test_a_range_beside_all_values_leaves_one_color(tmp_path: Path) -> None:
    values = np.array([[800, 1200]], np.uint16)
    assert told(tmp_path, Image.fromarray(values), range=(0, 100)) == (
        "tile: the 1 normal image that was looked at is of one color (255 of 255): nothing is to be learned from them; "
        "look at how they were written"
    )


def test_all_images_together_have_the_range(tmp_path: Path) -> None:
    assert told(tmp_path, noise(10, 16), noise(100, 106)) is None


def test_images_that_cannot_be_read_are_left_to_the_loader(tmp_path: Path) -> None:
    samples = [Sample("gone.png", tmp_path / "gone.png", 0, "good")]
    assert contents_warning("tile", samples) is None


@pytest.mark.parametrize("transparent", [False, True])
def test_scores_that_are_all_equal_have_no_threshold(small_recipe, stripes: Path, transparent: bool) -> None:
    if transparent:
        for path in (stripes / "stripes" / "train").rglob("*.png"):
            image = Image.fromarray(RANDOM.integers(0, 256, (64, 64, 4), np.uint8))
            image.putalpha(0)
            image.save(path)
    report = adkit.run(small_recipe)
    alike = [text for text in report.warnings if "kept back for a threshold have all the same score" in text]
    assert (report.categories["stripes"].threshold is None, len(alike)) == (transparent, int(transparent))
    loaded = adkit.Detector.load(report.folder, "cpu")
    anomalous = loaded.predict(stripes / "stripes" / "test" / "square" / "000.png").anomalous
    assert (anomalous is None) == transparent


def test_a_threshold_that_was_set_stays(small_recipe, stripes: Path) -> None:
    for path in (stripes / "stripes" / "train").rglob("*.png"):
        image = Image.fromarray(RANDOM.integers(0, 256, (64, 64, 4), np.uint8))
        image.putalpha(0)
        image.save(path)
    small_recipe["threshold"] = {"value": 0.2}
    report = adkit.run(small_recipe)
    threshold = report.categories["stripes"].threshold
    assert threshold is not None and threshold.value == 0.2
    assert not any("so there is none" in text for text in report.warnings)
    with pytest.raises(adkit.UserError, match="expected scores of calibration images that differ, found all the same"):
        adkit.Detector.load(report.folder, "cpu").with_false_positive_rate(0.5)


def test_images_are_looked_at_over_the_whole_folder(tmp_path: Path) -> None:
    # The first twelve of twenty-three are alike, the others not.
    assert told(tmp_path, *[Image.new("L", (8, 8), 9)] * 12, *(noise(0, 256) for _ in range(11))) is None
