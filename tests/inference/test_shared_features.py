"""Features of single images, which folds, other splits and grown folders take out of one another's streams."""

from __future__ import annotations

import shutil
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from adkit.errors import UserError
from adkit.inference import cache as module
from adkit.inference.cache import _same_in_batches
from adkit.inference.kept import FEATURES, RUNTIMES, kept_files
from adkit.inference.pipeline import Embedding
from adkit.plugin import Context, Features, Geometry, Level
from adkit.toolkit.features import FeaturesTable, FeatureTransform
from tests.inference.outcomes import flip_a_bit, outcome
from tests.recipe.small import write_small

pytest.importorskip("openvino")
Recipe = dict[str, Any]
NOTHING = "0.00001"
"""GB that are too few for features; networks that were converted are read all the same."""
FOLDS: list[dict[str, dict[str, Any]]] = [
    {"run": {"folds": 3}},
    {"run": {"folds": 3, "fold_test": True}, "data": {"resize": "pad", "metric_size": 40, "group": "([0-9])[.]png"}},
    {"threshold": {"method": "cross", "folds": 3}},
]


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Networks for OpenVINO, which need not be converted for each test."""
    return tmp_path_factory.mktemp("runtimes")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, converted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / RUNTIMES).symlink_to(converted)
    monkeypatch.setenv("ADKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ADKIT_CACHE_GB", "1")


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    made = write_small(tmp_path)
    made["run"] |= {"synthetic": 0, "thumbnails": 0, "runtime": "openvino"}
    return made


@pytest.fixture
def extracted(extracted: list[int], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that went through an extractor, but for those of the probe of batches."""

    def probed(embeddings: Sequence[Embedding], size: int) -> bool:
        before = len(extracted)
        found = _same_in_batches(embeddings, size)
        del extracted[before:]
        return found

    monkeypatch.setattr(module, "_same_in_batches", probed)
    return extracted


def taken(extracted: list[int]) -> int:
    """How many images went through an extractor since it was last asked."""
    count = sum(extracted)
    extracted.clear()
    return count


def with_tables(recipe: Recipe, tables: dict[str, dict[str, Any]]) -> Recipe:
    return recipe | {name: recipe.get(name, {}) | keys for name, keys in tables.items()}


def images_of(recipe: Recipe) -> Path:
    return Path(recipe["data"]["root"]) / "stripes"


@pytest.mark.parametrize("tables", FOLDS, ids=["folds", "fold_test", "cross"])
def test_folds_extract_an_image_once_and_find_the_same(
    recipe: Recipe, extracted: list[int], monkeypatch: pytest.MonkeyPatch, tables: dict[str, dict[str, Any]]
) -> None:
    folded = with_tables(recipe, tables)
    images = len(list(images_of(recipe).glob("t*/*/*.png")))
    kept = outcome(folded, "kept")
    first = taken(extracted)
    assert outcome(folded, "again") == kept
    probes = len(extracted)
    assert taken(extracted) == probes  # single images, which detectors keep the scores of
    assert first == images + probes
    monkeypatch.setenv("ADKIT_CACHE_GB", NOTHING)
    assert outcome(folded, "anew") == kept
    assert taken(extracted) > 1.5 * images


@pytest.mark.parametrize("why", ["torch", "probe"])
def test_where_features_may_depend_on_the_batch_folds_extract_their_own(
    recipe: Recipe, extracted: list[int], monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    folded = with_tables(recipe, FOLDS[0])
    if why == "torch":
        folded["run"]["runtime"] = "torch"
    else:
        monkeypatch.setattr(module, "_same_in_batches", lambda embeddings, size: False)
    kept = outcome(folded, "kept")
    first = taken(extracted)
    monkeypatch.setenv("ADKIT_CACHE_GB", NOTHING)
    assert outcome(folded, "anew") == kept
    again = 2 * (2 + 6)  # the calibration images and those of the test are the same lists in three folds
    assert taken(extracted) - again == first


class Centered(nn.Module):
    """An extractor whose features depend on the batch."""

    levels = {"color": Level(3, (2, 2), Geometry.covering((2, 2), (8, 8)))}

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, images: torch.Tensor) -> Features:
        colors = nn.functional.adaptive_avg_pool2d(images - self.share * images.mean(), 2).permute(0, 2, 3, 1)
        return Features({"color": colors.contiguous()}, {"color": self.levels["color"].geometry})


@pytest.mark.parametrize("size", [2, 3, 8])
@pytest.mark.parametrize(("share", "same"), [(0.0, True), (0.01, False)])
def test_features_that_depend_on_the_batch_are_found(size: int, share: float, same: bool) -> None:
    extractor = Centered(share)
    transform = FeatureTransform(FeaturesTable(), extractor.levels, torch.Generator())
    embedding = Embedding(extractor, transform, Context(image_size=(8, 8)))  # type: ignore[arg-type]
    assert _same_in_batches([embedding], size) == same


def test_images_that_are_added_are_the_only_ones_that_are_extracted(
    recipe: Recipe, extracted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe["data"]["calibration"] = 0
    outcome(recipe, "first")
    for name, color in (("aa.png", "red"), ("zz.png", "blue")):  # before all others and after them
        Image.new("RGB", (48, 48), color).save(images_of(recipe) / "train" / "good" / name)
    taken(extracted)
    found = outcome(recipe, "second")
    assert taken(extracted) == 2 + 1  # and the one that the detector keeps the score of
    monkeypatch.setenv("ADKIT_CACHE_GB", NOTHING)
    assert outcome(recipe, "anew") == found


def test_few_images_that_are_known_are_not_looked_for_one_by_one(recipe: Recipe, extracted: list[int]) -> None:
    train, test = images_of(recipe) / "train" / "good", images_of(recipe) / "test" / "good"
    shutil.copy(train / "000.png", test / "copy.png")
    outcome(recipe, "first")
    assert taken(extracted) == 8 + 7 + 1


def test_images_that_cannot_be_read_are_looked_at_again_and_no_other(
    recipe: Recipe, extracted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe["data"] |= {"max_bad_share": 0.5}
    folded = with_tables(recipe, FOLDS[1])
    for name in ("train/good/003.png", "test/good/000.png"):
        (images_of(recipe) / name).write_bytes(b"none")
    kept = outcome(folded, "kept")
    assert len(kept[1]["unreadable"]) == 2
    taken(extracted)
    assert outcome(folded, "again") == kept
    assert set(extracted) == {1}
    monkeypatch.setenv("ADKIT_CACHE_GB", NOTHING)
    assert outcome(folded, "anew") == kept


def test_damage_among_the_entries_of_folds_is_told_and_computed_again(
    recipe: Recipe, extracted: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    folded = with_tables(recipe, FOLDS[1])
    kept = outcome(folded, "kept")
    flip_a_bit(max(kept_files(FEATURES), key=lambda one: one.stat().st_size))
    extracted.clear()
    assert outcome(folded, "again")[0] == kept[0]
    assert max(extracted) > 1
    assert caplog.text.count("damaged") == 2  # and once more in the report of the run
    extracted.clear()
    assert outcome(folded, "third") == kept
    assert set(extracted) == {1}


def test_masks_have_the_size_that_is_asked_for_whatever_size_was_kept(
    recipe: Recipe, extracted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome(with_tables(recipe, FOLDS[1]), "first")
    smaller = with_tables(recipe, {**FOLDS[1], "data": {"resize": "pad", "metric_size": 32, "group": "([0-9])[.]png"}})
    taken(extracted)
    found = outcome(smaller, "smaller")
    anomalous = len(list(images_of(recipe).glob("test/[!g]*/*.png")))
    assert taken(extracted) == anomalous + 3  # whose masks are others, and one for the detector of each fold
    monkeypatch.setenv("ADKIT_CACHE_GB", NOTHING)
    assert outcome(smaller, "anew") == found


def test_of_many_small_entries_a_few_are_read_and_the_rest_becomes_one(
    recipe: Recipe, extracted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ENTRIES", 2)
    recipe["data"]["calibration"] = 0
    outcome(recipe, "first")
    train = images_of(recipe) / "train" / "good"
    for number in range(3):
        Image.new("RGB", (48, 48), (40 * number, 0, 0)).save(train / f"new{number}.png")
        taken(extracted)
        outcome(recipe, f"grown {number}")
        assert taken(extracted) == 1 + 1 + (number == 2)  # the last of two small ones is made once more
    found = outcome(recipe, "last")
    assert taken(extracted) == 1 + 1  # that one again, for three are too many
    monkeypatch.setenv("ADKIT_CACHE_GB", NOTHING)
    assert outcome(recipe, "anew") == found


def break_members(ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a disk fail wherever a part of kept features is read whose name ends like this."""

    def failing(self: zipfile.ZipFile, name: str) -> bytes:
        if FEATURES in str(self.filename) and name.endswith(ending):
            raise OSError(116, "Stale file handle")
        return read(self, name)

    read = zipfile.ZipFile.read
    monkeypatch.setattr(zipfile.ZipFile, "read", failing)


def test_an_entry_that_breaks_while_it_is_read_ends_the_run_with_a_sentence(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome(recipe, "first")

    break_members(".safetensors", monkeypatch)
    with pytest.raises(UserError, match=r"[.]zip: expected kept features that stay .* Stale file handle.*run it again"):
        outcome(recipe, "second")


def test_an_entry_whose_index_cannot_be_read_is_as_good_as_none(
    recipe: Recipe, extracted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = outcome(recipe, "first")
    break_members("index.json", monkeypatch)
    extracted.clear()
    assert outcome(recipe, "second") == first
    assert max(extracted) > 1


def test_a_file_that_the_system_does_not_open_is_not_taken_for_damaged(
    recipe: Recipe, extracted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = outcome(recipe, "first")
    entries = kept_files(FEATURES)

    def refused(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(zipfile.ZipFile, "__init__", refused)
        assert outcome(recipe, "second")[0] == first[0]
    assert kept_files(FEATURES) == entries
    extracted.clear()
    assert outcome(recipe, "third") == first
    assert set(extracted) == {1}


def test_features_are_kept_whatever_the_clock_says(
    recipe: Recipe, extracted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(time, "localtime", lambda *_: time.gmtime(0))  # of 1970, which zip files do not know
        first = outcome(recipe, "first")
    extracted.clear()
    assert outcome(recipe, "second") == first
    assert set(extracted) == {1}
