"""The recipe that ``adkit init`` writes, and what it says of a folder."""

import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adkit.cli.check import check
from adkit.errors import UserError
from adkit.init.draft import draft
from adkit.recipe.reader import read_recipe
from tests.cli.commands import adkit
from tests.data.categories import write_category


def parts(root: Path, good: int = 4, size: tuple[int, int] = (96, 96)) -> Path:
    """Normal and two anomalous images of noise, of ``size`` (width, height)."""
    rng = np.random.default_rng(0)
    for name, count in {"good": good, "bad": 2}.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            noise = rng.integers(0, 256, (size[1], size[0]), dtype=np.uint8)
            Image.fromarray(noise).save(root / name / f"{number:03}.png")
    return root


def test_what_it_says_and_writes(tmp_path):
    done = adkit("init", parts(tmp_path / "parts"), "--quick", cwd=tmp_path)
    recipe = tmp_path / "parts.toml"
    assert done.stdout.splitlines() == [
        "found: a folder of images (normal good, anomalous bad)",
        "found: parts: 4 normal images, 2 anomalous",
        "found: images of 96 × 96 pixels",
        "doubt: a fifth of the normal images, 1, sets the threshold, which can promise no less than 0.5 of false "
        "alarms: a promise of 0.05 takes 95 normal images, or parts",
        "wrote parts.toml, which adkit check finds in order",
        "  adkit check parts.toml",
        "  adkit run parts.toml",
    ]
    assert check(recipe).startswith(f"{recipe}: in order")
    assert tomllib.loads(recipe.read_text())["threshold"] == {"false_positive_rate": 0.5}


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "parts.toml").write_text("mine")
    done = adkit("init", parts(tmp_path / "parts"), cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == ("parts.toml: expected no such file yet, found one: remove it, or name another by --recipe\n")
    assert (tmp_path / "parts.toml").read_text() == "mine"


def test_enough_images_promise_one_false_alarm_in_twenty(tmp_path):
    found = draft(parts(tmp_path, good=119), copies=False)
    assert tomllib.loads(found.text)["threshold"] == {"false_positive_rate": 0.05}
    assert not found.doubts


def test_images_of_more_than_8_bits_get_a_range(tmp_path):
    (tmp_path / "good").mkdir()
    for number in range(3):
        values = np.full((96, 96), 800, np.uint16)
        values[number] = 1200
        Image.fromarray(values).save(tmp_path / "good" / f"{number}.png")
    found = draft(tmp_path, copies=False)
    assert tomllib.loads(found.text)["data"]["range"] == "auto"
    assert "gray images of more than 8 bits" in found.found
    assert not [text for text in found.doubts if "range" in text]  # which the first look asked for


def test_small_images_are_compared_as_wholes(tmp_path):
    tables = tomllib.loads(draft(parts(tmp_path, size=(28, 28)), copies=False).text)
    assert tables["extractor"]["levels"] == ["pool"]
    assert "localizer" not in tables


def test_long_images_are_doubtful(tmp_path):
    found = draft(parts(tmp_path, size=(240, 96)), copies=False)
    assert found.doubts[0].startswith("images up to 2.5 times as long as wide become square: data.resize")


def test_masks_that_cannot_be_used_are_left_out_and_told(tmp_path):
    root = parts(tmp_path / "parts")
    (root / "masks").mkdir()
    Image.new("L", (8, 8), 255).save(root / "masks" / "elsewhere.png")
    found = draft(root, copies=False)
    assert "masks" not in tomllib.loads(found.text)["data"]
    assert any(text.startswith("the masks are left out: ") for text in found.doubts)


def test_a_category_of_mvtec(tmp_path):
    write_category(tmp_path / "stripes")
    found = draft(tmp_path, copies=False)
    recipe = read_recipe(tomllib.loads(found.text))
    assert recipe.data.format == "mvtec"
    assert found.found[0] == "1 category as MVTec AD has them (stripes)"


@pytest.mark.slow
def test_images_of_one_part_get_a_group(tmp_path):
    """Three shots each of 60 parts, which differ by a little noise."""
    rng = np.random.default_rng(0)
    (tmp_path / "good").mkdir()
    for part in range(60):
        small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        shown = np.asarray(small.resize((96, 96), Image.Resampling.BICUBIC), np.int16)
        for shot in range(3):
            noisy = np.clip(shown + rng.integers(-4, 5, shown.shape), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(tmp_path / "good" / f"part{part:02}_shot{shot}.png")
    found = draft(tmp_path)
    group = tomllib.loads(found.text)["data"]["group"]
    assert any("near copies" in text for text in found.doubts)
    assert read_recipe(tomllib.loads(found.text)).data.group == group


def test_a_name_that_is_no_text_is_told(tmp_path):
    done = adkit("init", parts(tmp_path / "caf\udce9"), cwd=tmp_path)
    assert done.returncode == 2
    assert r"caf\xe9: expected a name that is text, found bytes that are none: rename the folder" in done.stderr


def test_a_folder_with_a_dot_in_its_name_keeps_it(tmp_path):
    assert adkit("init", parts(tmp_path / "parts.v2"), "--quick", cwd=tmp_path).returncode == 0
    assert (tmp_path / "parts.v2.toml").exists()


def test_what_cannot_be_read_is_told(tmp_path):
    root = parts(tmp_path / "parts", good=5)
    (root / "good" / "002.png").write_text("none")
    (doubt,) = [text for text in draft(root, copies=False).doubts if "cannot be read" in text]
    assert doubt.startswith("1 image of 5 that were looked at cannot be read (good/002.png: the file is not a PNG")
    for path in (root / "good").iterdir():
        path.write_text("none")
    with pytest.raises(UserError, match=r"parts: expected images, found none that can be read \(good/000.png: "):
        draft(root, copies=False)


def test_arrays_of_something_else_are_told_with_their_file(tmp_path):
    (tmp_path / "b.npz").write_bytes(b"\xff\xfe\0")
    with pytest.raises(UserError, match=r"b.npz: root: expected an npz .*\(it holds pickled objects\)"):
        draft(tmp_path / "b.npz", copies=False)
