"""The textures on disk: honest splits, exact masks, defects that brightness does not give away."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from adkit.data.formats import defects, textures
from adkit.data.formats.textures import (
    BAD,
    GOOD,
    SIZE,
    TEXTURES,
    draw_image,
    photographs,
    plans,
    regions,
    write_textures,
)
from adkit.errors import UserError

KINDS = tuple(defects.KINDS)
BRIGHTNESS = {"mean": np.mean, "spread": np.std, "minimum": np.min, "maximum": np.max}


@pytest.fixture
def root(textures):
    """The tests that read it are slow ones, since writing takes seconds."""
    return textures


@pytest.fixture(scope="module")
def photos():
    return photographs()


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


def files(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("texture", TEXTURES)
def test_layout(root, texture):
    counts = {
        folder.relative_to(root / texture).as_posix(): len(list(folder.glob("*.png")))
        for folder in (root / texture).glob("*/*")
    }
    expected = {f"{split}/good": number for split, number in GOOD.items()}
    expected |= {f"{part}/{kind}": BAD for part in ("test", "ground_truth") for kind in KINDS}
    assert counts == expected


@pytest.mark.slow
@pytest.mark.parametrize("path", [Path("train/good/000.png"), Path("test/hole/009.png")])
def test_images_are_rgb(root, path):
    image = read(root / "brick" / path)
    assert (image.shape, image.dtype) == ((SIZE, SIZE, 3), np.uint8)


@pytest.mark.slow
def test_every_defect_has_its_mask(root):
    for texture in TEXTURES:
        for kind in KINDS:
            stems = {path.stem for path in (root / texture / "test" / kind).iterdir()}
            masks = {path.stem for path in (root / texture / "ground_truth" / kind).iterdir()}
            assert masks == {f"{stem}_mask" for stem in stems} != set()


@pytest.mark.slow
def test_the_readme_says_where_it_comes_from_and_how_to_replace_it(root):
    text = (root / "README.txt").read_text(encoding="utf-8")
    assert "scikit-image" in text
    assert 'format = "mvtec"' in text


def test_regions_of_the_splits_are_disjoint():
    owners = np.zeros((512, 512), dtype=int)
    for region in regions().values():
        owners[region.top : region.bottom, region.left : region.right] += 1
    assert owners.max() == 1


@pytest.mark.parametrize("seed", [0, 1])
def test_crops_stay_in_their_split(seed):
    for plan in plans(seed):
        region, box = regions()[plan.split], plan.box
        assert (box.bottom - box.top, box.right - box.left) == (SIZE, SIZE)
        assert region.top <= box.top <= box.bottom <= region.bottom
        assert region.left <= box.left <= box.right <= region.right


@pytest.mark.slow
def test_what_is_written_is_what_is_planned(root, photos):
    for plan in plans(0):
        _, image, mask = draw_image(plan, photos)
        assert np.array_equal(read(root / plan.path), image)
        if plan.kind != "good":
            assert np.array_equal(read(root / plan.mask_path) > 0, mask)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_is_unaltered_outside_its_mask_and_altered_inside(photos, kind):
    for plan in plans(0):
        if plan.kind == kind:
            clean, image, mask = draw_image(plan, photos)
            differs = (clean != image).any(axis=-1)
            assert not (differs & ~mask).any()
            assert differs[mask].mean() > 0.95  # paint may happen to equal what it covers


@pytest.mark.parametrize("seed", [0, 1])
def test_each_defect_covers_between_0_3_and_6_percent(photos, seed):
    shares = [draw_image(plan, photos)[2].mean() for plan in plans(seed) if plan.kind != "good"]
    assert 0.003 <= min(shares) <= max(shares) <= 0.06


@pytest.mark.slow
@pytest.mark.parametrize("texture", TEXTURES)
@pytest.mark.parametrize("statistic", BRIGHTNESS)
def test_brightness_does_not_give_the_defects_away(root, texture, statistic):
    paths = sorted((root / texture / "test").glob("*/*.png"))
    anomalous = [path.parent.name != "good" for path in paths]
    auroc = roc_auc_score(anomalous, [BRIGHTNESS[statistic](read(path)) for path in paths])
    assert max(auroc, 1 - auroc) <= 0.80


def test_a_defect_keeps_to_the_range_of_the_image(photos):
    for plan in plans(0):
        if plan.kind != "good":
            clean, image, _ = draw_image(plan, photos)
            assert clean.min() <= image.min() <= image.max() <= clean.max()


def test_drawing_leaves_the_clean_image_as_it_was(photos):
    plan = next(plan for plan in plans(0) if plan.kind == "stain")
    clean = draw_image(plan, photos)[0]
    before = clean.copy()
    defects.draw("hole", clean, clean, np.random.default_rng(0))
    assert np.array_equal(clean, before)


@pytest.mark.slow
def test_one_seed_gives_the_same_bytes(root, tmp_path):
    write_textures(tmp_path / "again", seed=0)
    assert files(tmp_path / "again") == files(root)


def test_another_seed_gives_other_images(photos):
    first, other = (draw_image(next(plans(seed)), photos)[1] for seed in (0, 1))
    assert not np.array_equal(first, other)


def test_a_folder_that_is_there_is_not_touched(tmp_path):
    (tmp_path / "mine.png").write_bytes(b"mine")
    with pytest.raises(UserError, match="expected a folder yet to be made for the textures"):
        write_textures(tmp_path, seed=0)
    assert files(tmp_path) == {Path("mine.png"): b"mine"}


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"file/textures: cannot write the textures there \(Not a directory\)"):
        write_textures(tmp_path / "file" / "textures", seed=0)


def test_interrupted_writing_leaves_nothing(tmp_path, monkeypatch):
    save = textures._save
    written = []

    def interrupted_at_the_tenth(path, image):
        save(path, image)
        written.append(path)
        if len(written) == 10:
            raise KeyboardInterrupt

    monkeypatch.setattr(textures, "_save", interrupted_at_the_tenth)
    with pytest.raises(KeyboardInterrupt):
        write_textures(tmp_path / "textures", seed=0)
    assert len(written) == 10
    assert list(tmp_path.iterdir()) == []
