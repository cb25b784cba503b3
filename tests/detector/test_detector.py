"""``adkit.Detector.predict``: what it takes and what it gives."""

import gc
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import adkit
from adkit import Detector, UserError
from adkit.data.view import View
from adkit.detector.inputs import _checked_array, input_items, read_input
from adkit.detector.regions import find_regions
from adkit.inference.pipeline import Pipeline


@pytest.fixture
def detector(small_run):
    return Detector.load(small_run.folder, "cpu")


@pytest.fixture
def image(stripes):
    return stripes / "stripes" / "test" / "square" / "000.png"


def test_every_kind_of_image_gives_the_same(detector, image):
    expected = detector.predict(image)
    pillow = Image.open(image)
    array = np.asarray(pillow)
    for images in (str(image), pillow, array, array[None], [image], (array,)):
        np.testing.assert_array_equal(detector.predict(images).scores, expected.scores)


def test_a_tensor_is_taken_at_the_images_size(detector):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    expected = detector.predict(pixels).scores
    np.testing.assert_array_equal(detector.predict(tensor).scores, expected)
    np.testing.assert_array_equal(detector.predict(tensor[None]).scores, expected)


def test_gray_is_taken_as_three_equal_channels(detector):
    gray = np.random.default_rng(0).integers(0, 256, (48, 40), dtype=np.uint8)
    expected = detector.predict(np.repeat(gray[..., None], 3, 2))
    np.testing.assert_array_equal(detector.predict(gray).scores, expected.scores)


RANDOM = np.random.default_rng(0)
COLORS = RANDOM.integers(0, 256, (48, 40, 4), np.uint8)
DEPTH = RANDOM.integers(0, 65536, (48, 40), np.uint16)


@pytest.mark.parametrize(
    ("array", "in_file"),
    [
        (COLORS[..., :1], Image.fromarray(COLORS[..., 0])),
        (COLORS, Image.fromarray(COLORS)),
        (DEPTH, Image.fromarray(DEPTH)),
        (DEPTH[..., None], Image.fromarray(DEPTH)),
        (COLORS[:, :, :3].astype(np.uint16) * 257, Image.fromarray(COLORS[:, :, :3])),
        (COLORS[::-1, ::2, 2::-1], Image.fromarray(COLORS[::-1, ::2, 2::-1].copy())),
        (np.asfortranarray(COLORS[..., :3]), Image.fromarray(COLORS[..., :3].copy())),
    ],
    ids=["one channel", "with alpha", "16 bits", "16 bits, one channel", "16 bits, colors", "turned view", "Fortran"],
)
def test_arrays_are_what_cameras_give(detector, tmp_path, array, in_file):
    in_file.save(tmp_path / "file.png")
    array.setflags(write=False)
    np.testing.assert_array_equal(detector.predict(array).scores, detector.predict(tmp_path / "file.png").scores)


def test_16_bits_of_a_color_are_rounded_to_8():
    values = np.array([[[0, 128, 129], [257, 385, 386]]], np.uint16)  # 385 / 257 is 1.498, 386 / 257 is 1.502
    assert _checked_array(values, "it").tolist() == [[[0, 0, 1], [1, 1, 2]]]


def test_a_list_may_mix(detector, image):
    array = np.asarray(Image.open(image))
    found = detector.predict([image, array, Image.open(image)], batch_size=2)
    assert (found.scores.shape, found.maps.shape) == ((3,), (3, 64, 64))
    np.testing.assert_allclose(found.scores, found.scores[0], rtol=1e-5)


def test_a_cameras_rotation_is_applied(detector, image, tmp_path):
    turned, exif = Image.open(image), Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as pillow:
        np.testing.assert_array_equal(detector.predict(pillow).scores, detector.predict(tmp_path / "turned.png").scores)


def test_maps_are_float32_and_highest_at_the_defect(detector, stripes, image):
    mask = np.asarray(Image.open(stripes / "stripes" / "ground_truth" / "square" / "000_mask.png").resize((64, 64))) > 0
    (drawn,) = detector.predict(image).maps
    assert drawn.dtype == np.float32
    assert drawn[mask].mean() > drawn[~mask].mean()


def test_no_images_give_no_predictions(detector):
    found = detector.predict([])
    assert (len(found), found.maps.shape, found.p_values.shape, found.anomalous.shape) == (0, (0, 64, 64), (0,), (0,))


def test_pooled_features_have_no_maps(small_recipe, image):
    small_recipe["extractor"]["levels"] = ["pool"]
    assert Detector.load(adkit.run(small_recipe).folder, "cpu").predict(image).maps is None


def test_threads_may_share_a_detector(detector, stripes):
    images = sorted((stripes / "stripes").glob("test/*/*.png"))
    expected = [detector.predict(path).scores[0] for path in images]
    found = [None] * len(images)

    def work(index):
        found[index] = [detector.predict(images[index]).scores[0] for _ in range(5)]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[score] * 5 for score in expected]


def test_a_file_that_is_no_image_is_said_to_be_none(detector, tmp_path):
    (tmp_path / "a.png").write_text("<html>")
    with pytest.raises(UserError) as caught:
        detector.predict([tmp_path / "a.png"])
    assert str(caught.value) == (
        f"{tmp_path / 'a.png'}: expected an image that can be read, found that the file is not a PNG, JPEG, TIFF, BMP, "
        "WebP, GIF, PPM, JPEG 2000, AVIF, QOI, PCX, SGI, Sun, PSD or TGA image: it begins with b'<html>'; fix it or "
        "leave it out"
    )


def test_an_unreadable_image_is_named(detector, image, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(image.read_bytes()[:200])
    with pytest.raises(UserError, match=r"broken\.png: expected an image .* the file is truncated"):
        detector.predict([image, broken])
    with pytest.raises(UserError, match=r"not there: expected an image .* the file is not there"):
        detector.predict(tmp_path / "not there")
    with pytest.raises(UserError, match="it is not a file but a folder"):
        detector.predict(Path(tmp_path))
    with Image.open(broken) as pillow, pytest.raises(UserError, match=r"image 0: .* damaged"):
        detector.predict(pillow)


def test_the_error_of_an_image_does_not_hold_what_was_decoded_of_it(tmp_path):
    broken = tmp_path / "broken.png"
    Image.new("L", (70, 90)).save(broken)
    broken.write_bytes(broken.read_bytes()[:-30])
    (item,) = input_items(broken, View("squash", 8, 8))
    error = read_input(item)
    assert "broken.png: expected an image that can be read, found that" in str(error)
    images = [one for one in gc.get_objects() if issubclass(type(one), Image.Image)]
    assert not [one for one in images if one.size == (70, 90)]


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (3, "found int"),
        ([None], "found NoneType"),
        (np.zeros((8, 8, 3)), "found float64 of shape"),
        (np.zeros((8, 8, 2), np.uint8), r"found uint8 of shape \(8, 8, 2\)"),
        (np.zeros((8, 8), np.int64), r"found int64 of shape \(8, 8\): convert it, channels last"),
        (np.zeros((0, 8), np.uint8), r"found uint8 of shape \(0, 8\)"),
        (torch.zeros(3, 32, 32), r"expected a float tensor of shape \(3, 64, 64\), found torch.float32 of shape"),
        (torch.zeros(3, 64, 64, dtype=torch.uint8), "found torch.uint8"),
        (torch.full((3, 64, 64), 2.0), r"expected values in \[0, 1\], found 2 to 2"),
        (torch.full((3, 64, 64), float("nan")), r"expected values in \[0, 1\], found nan"),
    ],
    ids=str,
)
def test_what_is_no_image_is_refused(detector, images, sentence):
    with pytest.raises(UserError, match=sentence):
        detector.predict(images)


def test_a_batch_has_at_least_one_image(detector, image):
    with pytest.raises(UserError, match="batch_size: expected at least 1, found 0"):
        detector.predict(image, batch_size=0)


def test_a_device_that_is_not_here_is_named(small_run):
    with pytest.raises(UserError, match=r"^device: expected auto or a device that this machine has"):
        Detector.load(small_run.folder, "cuda:99")


def test_sizes_are_the_images_own(detector, image, tmp_path):
    turned, exif = Image.new("L", (30, 20)), Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    found = detector.predict([image, np.zeros((7, 9), np.uint8), tmp_path / "turned.png", torch.zeros(3, 64, 64)])
    assert found.sizes == ((48, 48), (7, 9), (30, 20), (64, 64))


def test_regions_are_those_of_the_map_in_pixels_of_the_image(detector, stripes):
    images = sorted((stripes / "stripes" / "test" / "square").iterdir())
    found = detector.predict(images)
    assert any(found.regions)
    for values, regions in zip(found.maps, found.regions, strict=True):
        assert regions == find_regions(values, detector.pixel_threshold, detector.view, (48, 48))
        assert bool(regions) == (values.max() > detector.pixel_threshold)


def test_regions_of_a_tensor_are_in_pixels_of_the_image(small_recipe):
    small_recipe["data"]["crop"] = 48  # so that an image of the image's size would be enlarged and cropped
    detector = Detector.load(adkit.run(small_recipe).folder, "cpu")
    tensor = torch.zeros(3, 48, 48)
    tensor[:, 10:30, 12:28] = 1
    found = detector.predict(tensor)
    above = np.argwhere(found.maps[0] > detector.pixel_threshold)
    (regions,) = found.regions
    assert min(region.x for region in regions) == above[:, 1].min()
    assert max(region.y + region.height for region in regions) == above[:, 0].max() + 1


def test_without_a_pixel_threshold_there_are_no_regions(small_recipe, image):
    small_recipe["threshold"] = {"pixel": False}
    found = Detector.load(adkit.run(small_recipe).folder, "cpu").predict(image)
    assert found.maps is not None
    assert found.regions is None


def calibration(small_run):
    manifest = json.loads((Path(small_run.folder) / "detector" / "manifest.json").read_text())
    return sorted(manifest["calibration"])


def test_another_rate_takes_its_threshold_from_the_calibration_scores(detector, small_run, image):
    low, high = calibration(small_run)
    assert detector.with_false_positive_rate(0.7).threshold == low  # ⌊0.7 · 3⌋ = 2 of 3 may lie above it
    found = detector.with_false_positive_rate(0.4)
    assert found.threshold == high
    assert found.promise == "a new normal image is called anomalous with a chance of at most 0.4"
    assert found.predict(image).threshold == high
    assert found.pixel_threshold == detector.pixel_threshold


def test_a_rate_that_too_few_images_support_is_told(detector, small_run):
    sentence = (
        "a new normal image is called anomalous with a chance of at most 0.333; 0.05 was asked for, which takes 19 "
        "calibration scores instead of 2"
    )
    assert detector.promise == sentence  # the run asked for 0.05
    assert detector.with_false_positive_rate(0.05).promise == sentence
    assert detector.with_false_positive_rate(0.05).threshold == detector.threshold == calibration(small_run)[1]


def test_a_threshold_set_by_hand_promises_nothing(detector, small_run, image):
    low, high = calibration(small_run)
    score = float(detector.predict(image).scores[0])
    other = detector.with_threshold((low + high) / 2)
    assert other.promise == (
        "nothing is promised about how often a new normal image is called anomalous, for the value was set by hand; "
        "by 2 calibration scores, expect a chance of about 0.667"
    )
    assert detector.with_threshold(score - 1).predict(image).anomalous.tolist() == [True]
    assert detector.with_threshold(score + 1).predict(image).anomalous.tolist() == [False]
    assert detector.threshold == high  # the detector itself stays as it is


def test_a_threshold_of_a_detector_that_has_none(small_recipe, image):
    small_recipe["data"]["calibration"] = 0
    detector = Detector.load(adkit.run(small_recipe).folder)
    assert (detector.threshold, detector.promise) == (None, None)
    other = detector.with_threshold(0.0)
    assert other.predict(image).anomalous.tolist() == [True]
    assert other.promise.endswith("there are no calibration images to say how often that is")
    with pytest.raises(UserError) as told:
        detector.with_false_positive_rate(0.1)
    assert str(told.value) == (
        "false-positive rate: expected a detector with scores of calibration images, found none: run its recipe with "
        "data.calibration above 0, or give a threshold"
    )


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, float("nan")])
def test_a_rate_lies_between_0_and_1(detector, rate):
    with pytest.raises(
        UserError, match=r"false-positive rate: expected a number between 0 and 1, both excluded, found"
    ):
        detector.with_false_positive_rate(rate)


@pytest.mark.filterwarnings("error")
def test_floats_beyond_what_images_hold_are_refused_in_a_sentence(detector):
    with pytest.raises(UserError, match=r"image 0: .* a float image has values from inf to inf: expected 0 to 1"):
        detector.predict(np.full((64, 64), 1e300))


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e39])
def test_a_threshold_is_finite(detector, value):
    with pytest.raises(UserError, match=r"threshold: expected a finite number, found"):
        detector.with_threshold(value)


def test_threads_may_use_a_detector_that_is_fresh(small_run, image):
    """The first use does nothing outside the lock that reads features through hooks."""
    expected = Detector.load(small_run.folder, "cpu").predict(image).scores
    for _ in range(4):
        fresh = Detector.load(small_run.folder, "cpu").with_threshold(0.5)
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda size, fresh=fresh: fresh.predict([image] * size).scores[:1], (1, 2, 3, 4)))
        np.testing.assert_allclose(np.concatenate(found), np.repeat(expected, 4), rtol=1e-5)


def test_whether_it_localizes_is_known_without_a_prediction(small_run, monkeypatch):
    detector = Detector.load(small_run.folder, "cpu")
    monkeypatch.setattr(Pipeline, "__call__", None)  # nothing may be computed for it
    assert detector.localizes
