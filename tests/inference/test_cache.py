"""Features that are kept between runs: the same figures without extracting, and never those of something else."""

from __future__ import annotations

import errno
import os
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from adkit.data.samples import Sample
from adkit.errors import UserError
from adkit.inference.cache import _file, keys_of
from adkit.inference.entries import Masks
from adkit.inference.identity import weights_of
from adkit.inference.kept import FEATURES, RUNTIMES, cache_limit, folder_of, free_bytes, kept_files, opened, shrink
from adkit.inference.pipeline import Embedding
from adkit.inference.runtimes import _keep
from adkit.utils.atomic import draft_of
from tests.cli.commands import adkit as command
from tests.inference.outcomes import flip_a_bit, outcome
from tests.recipe.small import write_small, write_small_classes

Recipe = dict[str, Any]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ADKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ADKIT_CACHE_GB", "1")
    return tmp_path / "cache" / "features"


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    made = write_small(tmp_path)
    made["run"] |= {"synthetic": 20, "thumbnails": 0}
    return made


def test_a_second_run_extracts_nothing_and_finds_the_same(recipe: Recipe, extracted: list[int]) -> None:
    first = outcome(recipe, "first")
    assert sum(extracted) > 25
    extracted.clear()
    assert outcome(recipe, "second") == first
    assert extracted == [1]  # of a probe, which the detector keeps


def test_without_the_cache_it_finds_the_same(recipe: Recipe, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    kept = outcome(recipe, "kept")
    monkeypatch.setenv("ADKIT_CACHE_GB", "0")
    assert outcome(recipe, "anew") == kept


@pytest.mark.parametrize(
    "other",
    [
        {"scorer": {"use": "knn", "k": 3}},
        {"scorer": {"use": "gaussian"}},
        {"localizer": {"use": "bilinear", "smoothing": 4.0}},
        {"threshold": {"false_positive_rate": 0.3}},
        {"features": {"neighborhood": 3, "combine": "concat"}},
    ],
    ids=["k", "scorer", "localizer", "threshold", "features"],
)
def test_another_recipe_on_the_same_features_reads_them(recipe: Recipe, extracted: list[int], other: Recipe) -> None:
    outcome(recipe, "first")
    extracted.clear()
    found = outcome(recipe | other, "other")
    assert sum(extracted) == 1
    os.environ["ADKIT_CACHE_GB"] = "0"
    assert outcome(recipe | other, "anew") == found


def changed_image(recipe: Recipe) -> None:
    path = sorted(Path(recipe["data"]["root"]).rglob("train/good/*.png"))[0]
    with Image.open(path) as image:
        pixels = np.asarray(image).copy()
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(path)


def table(name: str, **keys: Any) -> Callable[[Recipe], None]:
    return lambda recipe: recipe.__setitem__(name, recipe.get(name, {}) | keys)


@pytest.mark.parametrize(
    "change",
    [
        changed_image,
        table("data", image_size=96),
        table("data", batch_size=8),
        table("data", resize="pad"),
        table("extractor", levels=["layer1"]),
        table("extractor", backbone="test_vit", levels=["pool"]),
        table("run", precision="bfloat16"),
        table("run", seed=1),
    ],
    ids=["image", "size", "batch", "resize", "levels", "backbone", "precision", "seed of weights"],
)
def test_what_features_depend_on_makes_them_other_ones(
    recipe: Recipe, extracted: list[int], change: Callable[[Recipe], None]
) -> None:
    recipe.pop("localizer")
    outcome(recipe, "first")
    extracted.clear()
    change(recipe)
    outcome(recipe, "other")
    train = [one for one in extracted if one > 1]
    assert sum(train) >= 6


def test_code_that_changed_makes_them_other_ones(
    recipe: Recipe, extracted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome(recipe, "first")
    extracted.clear()
    monkeypatch.setattr("adkit.inference.cache.source_of", lambda home: "another")
    outcome(recipe, "other")
    assert sum(extracted) > 25


def test_labels_and_masks_come_with_the_features_of_the_test(recipe: Recipe) -> None:
    first = outcome(recipe, "first")
    assert first[1]["mean"]["pixel_aupro"] is not None
    mask = sorted(Path(recipe["data"]["root"]).rglob("ground_truth/**/*.png"))[0]
    with Image.open(mask) as image:
        turned = image.transpose(Image.Transpose.ROTATE_180)
    turned.save(mask)
    assert outcome(recipe, "second")[1]["mean"]["pixel_auroc"] != first[1]["mean"]["pixel_auroc"]


def test_images_that_cannot_be_read_are_told_by_each_run(recipe: Recipe, extracted: list[int]) -> None:
    recipe["data"]["max_bad_share"] = 0.5
    sorted(Path(recipe["data"]["root"]).rglob("test/good/*.png"))[0].write_bytes(b"none")
    first = outcome(recipe, "first")
    assert len(first[1]["unreadable"]) == 1
    extracted.clear()
    assert outcome(recipe, "second") == first
    assert sum(extracted) > 1  # the test is not kept, for the image may come back


def test_damage_is_told_and_computed_again(recipe: Recipe, extracted: list[int], caplog: Any) -> None:
    first = outcome(recipe, "first")
    for path in kept_files(FEATURES):
        flip_a_bit(path)
    extracted.clear()
    assert outcome(recipe, "second")[0] == first[0]
    assert sum(extracted) > 25
    assert "damaged" in caplog.text
    extracted.clear()
    outcome(recipe, "third")
    assert sum(extracted) == 1  # the damaged ones were written anew


def test_what_was_cut_off_is_computed_again(recipe: Recipe, extracted: list[int]) -> None:
    outcome(recipe, "first")
    for path in kept_files(FEATURES):
        path.write_bytes(path.read_bytes()[:100])
    extracted.clear()
    outcome(recipe, "second")
    assert sum(extracted) > 25


def test_a_run_that_ends_early_leaves_nothing(recipe: Recipe, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Embedding, images: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Embedding, "extract", interrupted)
    with pytest.raises(KeyboardInterrupt):
        outcome(recipe, "first")
    assert not cache.exists() or not list(cache.iterdir())


def test_a_cache_that_cannot_be_written_is_told_and_ends_nothing(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ADKIT_CACHE", str(tmp_path / "file"))
    _, figures = outcome(recipe, "first")
    assert any("features could not be kept there" in text for text in figures["warnings"])


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_disk_that_fills_up_ends_nothing(
    recipe: Recipe, cache: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    write = zipfile.ZipFile.writestr
    written = []

    def full(self: zipfile.ZipFile, name: str, data: bytes) -> None:
        if len(written) >= after:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(name)
        write(self, name, data)

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    found = outcome(recipe, "first")
    told = [
        text for text in found[1]["warnings"] if "features could not be kept there (No space left on device)" in text
    ]
    assert len(told) == 1
    assert not list(cache.iterdir())
    monkeypatch.setenv("ADKIT_CACHE_GB", "0")
    assert outcome(recipe, "anew")[0] == found[0]


def test_classes_of_the_same_images_share_it(tmp_path: Path, extracted: list[int]) -> None:
    recipe = write_small_classes(tmp_path)
    first = outcome(recipe, "first")
    extracted.clear()
    assert outcome(recipe, "second") == first
    assert sum(extracted) <= 3


def test_adapted_features_are_not_kept(tmp_path: Path, cache: Path) -> None:
    recipe = write_small(tmp_path, adapter={"use": "panda"}, training={"minibatches": 1}, scorer={"use": "knn"})
    recipe["extractor"]["levels"] = ["pool"]
    del recipe["localizer"]
    outcome(recipe, "first")
    assert not cache.exists()


def test_what_was_used_longest_ago_goes_first(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome(recipe, "first")
    first = kept_files(FEATURES)
    size = sum(path.stat().st_size for path in first)
    for number, path in enumerate(first):
        os.utime(path, (number, number))
    monkeypatch.setenv("ADKIT_CACHE_GB", f"{1.5 * size / 1e9:.12f}")
    outcome(recipe | {"data": recipe["data"] | {"image_size": 80}}, "other")
    left = kept_files(FEATURES)
    assert first[0] not in left
    assert sum(path.stat().st_size for path in left) <= 1.5 * size


def test_what_would_take_more_than_half_is_not_kept(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADKIT_CACHE_GB", "0.000001")
    outcome(recipe, "first")
    assert not kept_files(FEATURES)


def test_what_is_there_is_read_where_there_is_no_room_for_more(
    recipe: Recipe, extracted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = outcome(recipe, "first")
    extracted.clear()
    monkeypatch.setattr("adkit.inference.cache.free_bytes", lambda folder: 0)
    assert outcome(recipe, "second") == first
    assert sum(extracted) == 1


def test_that_there_is_no_room_is_told_once(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adkit.inference.cache.free_bytes", lambda folder: 1000)
    _, figures = outcome(recipe, "first")
    assert not kept_files(FEATURES)
    (told,) = [text for text in figures["warnings"] if "features could not be kept" in text]
    assert "at most a quarter of the 1e-06 GB free there" in told


def test_what_others_are_writing_counts(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.mkdir(parents=True)
    for number, name in enumerate(("older.zip", "newer.zip")):
        (cache / name).write_bytes(bytes(400))
        os.utime(cache / name, (number, number))
    draft_of(cache / "other.zip").write_bytes(bytes(300))
    monkeypatch.setenv("ADKIT_CACHE_GB", "0.000001")
    shrink(cache / "newer.zip")
    assert [path.name for path in kept_files(FEATURES)] == ["newer.zip"]


def test_what_a_killed_process_left_goes_after_an_hour(cache: Path) -> None:
    cache.mkdir(parents=True)
    left, written = draft_of(cache / "one.zip"), draft_of(cache / "two.zip")
    for draft, age in ((left, 3700), (written, 3500)):
        draft.touch()
        os.utime(draft, (time.time() - age,) * 2)
    shrink(cache / "three.zip")
    assert list(cache.iterdir()) == [written]


def test_a_folder_that_may_not_be_entered_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADKIT_CACHE", str(tmp_path / "locked" / "cache"))
    locked = tmp_path / "locked"
    locked.mkdir(mode=0)
    root = os.geteuid() == 0
    if root:  # whom no mode stops
        os.seteuid(65534)
    try:
        assert free_bytes(locked / "one" / "two") >= 0
        assert opened(locked / "one.zip") is None
        _keep(folder_of(RUNTIMES) / "one.zip", {}, "")
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.parametrize("asked", ["many", "-1", "nan", "inf"])
def test_a_limit_that_is_none_is_refused(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADKIT_CACHE_GB", asked)
    with pytest.raises(UserError, match=f"ADKIT_CACHE_GB: expected a number of GB, 0 or more, found '{asked}'"):
        cache_limit()


def test_the_command_shows_and_clears_it_and_touches_nothing_else(recipe: Recipe, cache: Path) -> None:
    outcome(recipe, "first")
    (cache / "mine.zip").touch()
    count = len(kept_files(FEATURES)) - 1
    shown = command("cache").stdout.splitlines()
    assert shown[0].split()[:3] == ["features", str(count), "files"]
    assert shown[-1] == str(cache.parent)
    assert command("cache", "--clear").stdout.splitlines()[-1] == f"removed from {cache.parent}"
    assert [path.name for path in cache.iterdir()] == ["mine.zip"]


def test_entries_are_files_that_any_tool_can_open(recipe: Recipe) -> None:
    outcome(recipe, "first")
    with zipfile.ZipFile(kept_files(FEATURES)[0]) as found:
        assert found.testzip() is None
        assert {Path(name).suffix for name in found.namelist()} == {".safetensors", ".json"}


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def test_no_byte_of_a_file_that_changes_is_taken_for_features_or_ends_a_run(recipe: Recipe) -> None:
    outcome(recipe, "first")
    path = min(kept_files(FEATURES), key=lambda one: one.stat().st_size)
    whole = path.read_bytes()
    ends = [*range(64), *range(len(whole) - 400, len(whole))]
    for at in ends:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        found = opened(path)
        if found is not None:  # a byte that means nothing, such as that of a time
            file, _ = found
            assert file.testzip() is None
            file.close()


def test_an_entry_that_says_it_is_compressed_is_damaged(recipe: Recipe, caplog: pytest.LogCaptureFixture) -> None:
    outcome(recipe, "first")
    (path, *_) = kept_files(FEATURES)
    whole = bytearray(path.read_bytes())
    whole[whole.rindex(b"PK\1\2") + 10] = zipfile.ZIP_LZMA
    path.write_bytes(whole)
    assert opened(path) is None
    assert "damaged (it is compressed" in caplog.text


def test_features_of_an_image_that_changed_before_it_was_read_are_not_kept(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = min(Path(recipe["data"]["root"]).rglob("test/*/*.png"))
    whole = image.read_bytes()

    def changed(samples: Sequence[Sample], masks: Masks | None) -> dict[str, str | None]:
        found = keys_of(samples, masks)
        if any(sample.source == image for sample in samples):
            Image.new("RGB", (64, 64), "red").save(image)
        return found

    with monkeypatch.context() as patched:
        patched.setattr("adkit.inference.cache.keys_of", changed)
        outcome(recipe, "changing")
    image.write_bytes(whole)
    kept = outcome(recipe, "kept")
    monkeypatch.setenv("ADKIT_CACHE_GB", "0")
    assert outcome(recipe, "anew") == kept


def test_an_image_that_another_of_its_size_and_time_replaced_is_another_one(tmp_path: Path) -> None:
    path, other = tmp_path / "image.bmp", tmp_path / "other.bmp"
    for file, color in ((path, "red"), (other, "blue")):
        Image.new("RGB", (8, 8), color).save(file)
        os.utime(file, (1000, 1000))
    digests = _file(path), _file(other)
    other.replace(path)
    assert digests[0] != digests[1] == _file(path)


class Held(nn.Module):
    """A module with a tensor in one of the places where modules have them."""

    def __init__(self, place: str, value: float) -> None:
        super().__init__()
        held = torch.full((3,), value)
        if place == "parameter":
            self.weights = nn.Parameter(held)
        elif place == "array":
            self.weights = held.numpy()
        elif place == "tensor":
            self.weights = held
        else:
            self.register_buffer("weights", held, persistent=place == "buffer")


@pytest.mark.parametrize("place", ["parameter", "buffer", "buffer that is not saved", "tensor", "array"])
def test_weights_are_told_apart_wherever_they_are(place: str) -> None:
    one, same, other = (weights_of(Held(place, v)) for v in (1.0, 1.0, 2.0))  # type: ignore[arg-type]
    assert one == same
    assert one != other


def test_no_file_is_read_to_know_images_whose_features_take_too_much(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADKIT_CACHE_GB", "0.000001")
    monkeypatch.setattr("adkit.inference.cache.keys_of", None)  # which raises where it is called
    assert outcome(recipe, "first")[1]["unreadable"] == []


def test_an_image_whose_contents_are_not_known_is_never_one_that_was_kept(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = min(Path(recipe["data"]["root"]).rglob("test/*/*.png"))

    def unknown(samples: Sequence[Sample], masks: Masks | None) -> dict[str, str | None]:
        return keys_of(samples, masks) | {sample.id: None for sample in samples if sample.source == image}

    with monkeypatch.context() as patched:
        patched.setattr("adkit.inference.cache.keys_of", unknown)
        outcome(recipe, "first")
        Image.new("RGB", (64, 64), "red").save(image)
        found = outcome(recipe, "second")
    monkeypatch.setenv("ADKIT_CACHE_GB", "0")
    assert outcome(recipe, "anew") == found
