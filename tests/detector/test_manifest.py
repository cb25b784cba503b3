"""Every value that a manifest cannot have is refused by the sentence that names its place, and its bounds are allowed.

The manifests are the golden one with a value changed and a digest that fits, as a forger would write it.
"""

import copy
import json
from pathlib import Path

import pytest

from adkit import UserError
from adkit.detector.manifest import FLOAT32_MAX, digest_of, read_manifest

GOLDEN = json.loads((Path(__file__).parent / "golden" / "manifest.json").read_text())
EXTRACTOR, SCORER = "extractor-1.safetensors", "scorer-1.safetensors"


@pytest.fixture
def read(tmp_path):
    """Reads the golden manifest with the value at a path of keys put instead of its own."""

    def changed(*path):
        *keys, last, value = path
        values = copy.deepcopy(GOLDEN)
        del values["digest"]
        table = values
        for key in keys:
            table = table[key]
        table[last] = value
        (tmp_path / "manifest.json").write_text(json.dumps(values | {"digest": digest_of(values)}))
        return read_manifest(tmp_path / "manifest.json")

    return changed


def refused(read, *path):
    with pytest.raises(UserError) as failure:
        read(*path)
    (sentence,) = failure.value.problems
    assert "manifest.json: expected the values of a detector, found " in sentence
    return sentence.partition("expected the values of a detector, found ")[2].partition("; ")[0]


def without(table, *keys):
    return {key: value for key, value in table.items() if key not in keys}


def cells(**change):
    """The table of levels whose one level has other values."""
    level = copy.deepcopy(GOLDEN["extractors"][0]["levels"]["quarters"])
    geometry = level["geometry"] | {key: change.pop(key) for key in ("start", "step", "centers") if key in change}
    return {"quarters": level | change | {"geometry": geometry}}


FILES, MEMBERS, EXTRACTORS = GOLDEN["files"], GOLDEN["members"], GOLDEN["extractors"]


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        (("members", 0, "scale", 0), "its tables: Value error, expected scales above 0 to divide by, found 0.0"),
        (("members", 1, "scale", -1), "its tables: Value error, expected scales above 0 to divide by, found -1.0"),
        (("members", 1, "scale", None), "its tables: Value error, expected scales above 0 to divide by, found None"),
        (("members", 1, "extractor", 2), "its tables: Value error, expected an extractor below 2, found 2"),
        (("members", 1, "extractor", -1), "members.1.extractor: Input should be greater than or equal to 0"),
        (
            ("preprocessing", "crop", 9),
            "preprocessing: Value error, expected crop to be at most image_size (8), found 9",
        ),
        (
            ("calibration_groups", [0, 0, 1]),
            "its tables: Value error, expected a group for each of 4 calibration scores, found 3",
        ),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_what_does_not_fit_together_is_refused(read, path, sentence):
    assert refused(read, *path) == sentence


@pytest.mark.parametrize("kept", ["threshold", "pixel_threshold"])
def test_either_threshold_needs_calibration_scores(read, kept, monkeypatch):
    other = {"threshold": "pixel_threshold", "pixel_threshold": "threshold"}[kept]
    monkeypatch.setitem(GOLDEN, other, None)
    monkeypatch.setitem(GOLDEN, "calibration_groups", None)
    expected = "its tables: Value error, expected calibration scores with a threshold, found none"
    assert refused(read, "calibration", []) == expected


def test_without_thresholds_there_may_be_no_calibration_scores(read, monkeypatch):
    for key in ("threshold", "pixel_threshold", "calibration_groups"):
        monkeypatch.setitem(GOLDEN, key, None)
    assert read("calibration", []).calibration == ()


@pytest.mark.parametrize(
    "path",
    [
        ("members", 1, "file", "scorer-0.safetensors"),  # named twice, and one that is not named
        ("members", [MEMBERS[0], MEMBERS[0]]),
        ("members", 1, "file", EXTRACTOR),
        ("extractors", 1, "file", "extractor-0.safetensors"),
        ("files", without(FILES, SCORER)),
        ("files", FILES | {"more.safetensors": FILES[SCORER]}),
        ("files", without(FILES, SCORER) | {"more.safetensors": FILES[SCORER]}),
    ],
    ids=["member's", "member", "extractor's as member's", "extractor's", "missing", "foreign", "renamed"],
)
def test_files_are_named_once_and_listed_once(read, path):
    assert refused(read, *path).startswith("its tables: Value error, expected files to list each of [")


def test_a_file_named_twice_is_refused_even_where_it_is_all_that_is_listed(read, monkeypatch):
    monkeypatch.setitem(GOLDEN, "files", without(FILES, SCORER))
    assert "files to list each of" in refused(read, "members", 1, "file", "scorer-0.safetensors")


@pytest.mark.parametrize(
    "levels",
    [
        cells(grid=[0, 2]),
        cells(grid=[2, 9]),
        cells(start=[-8.5, 2.0]),
        cells(start=[2.0, 8.5]),
        cells(step=[0.0, 4.0]),
        cells(step=[4.0, 16.5]),
        cells(step=[0.5, 4.0]),  # 2 cells of 0.5 are 1 pixel of 8
        cells(grid=[8, 2], step=[4.5, 4.0]),  # 8 cells of 4.5 are 36
        cells(centers=[[2.0, 6.0], [2.0, 4.0, 6.0]]),  # of 2 rows and 3 columns
    ],
    ids=["no cell", "cells", "start below", "start above", "no step", "step", "too little", "too much", "centers"],
)
def test_levels_that_do_not_lie_in_the_input_are_refused(read, levels):
    found = refused(read, "extractors", 1, "levels", levels)
    assert found.startswith("its tables: Value error, expected level quarters to lie in the input, found Level(")


@pytest.mark.parametrize(
    "levels",
    [
        cells(grid=[1, 8], step=[8.0, 1.0]),
        cells(start=[-8.0, 8.0]),
        cells(grid=[1, 2], step=[16.0, 1.0]),  # 16 and 2 pixels: twice and a quarter of 8
        cells(grid=[8, 2], step=[4.0, 4.0]),  # four times
    ],
    ids=["cells", "start", "step", "span"],
)
def test_levels_may_reach_these_bounds(read, levels):
    assert read("extractors", 1, "levels", levels).extractors[1].levels.keys() == {"quarters"}


SIDES = GOLDEN["preprocessing"]


@pytest.mark.parametrize(
    ("allowed", "beyond"),
    [
        (("threshold", "asked", 0.999), ("threshold", "asked", 1)),
        (("threshold", "asked", 1e-9), ("threshold", "asked", 0)),
        (("threshold", "supported", 1), ("threshold", "supported", 1.001)),
        (("threshold", "supported", 1e-9), ("threshold", "supported", 0)),
        (("threshold", "value", FLOAT32_MAX), ("threshold", "value", 3.41e38)),
        (("threshold", "value", -FLOAT32_MAX), ("threshold", "value", -3.41e38)),
        (("pixel_threshold", "asked", 0.999), ("pixel_threshold", "asked", 1)),
        (("calibration", 3, FLOAT32_MAX), ("calibration", 3, 3.41e38)),
        (("calibration", 3, -FLOAT32_MAX), ("calibration", 3, -3.41e38)),
        (("calibration_groups", 3, 0), ("calibration_groups", 3, -1)),
        (("members", 0, "scale", FLOAT32_MAX), ("members", 0, "scale", 3.41e38)),
        (("preprocessing", SIDES | {"image_size": 8192}), ("preprocessing", SIDES | {"image_size": 8193})),
        (("preprocessing", SIDES | {"range": [-1, 0.5]}), ("preprocessing", SIDES | {"range": [0.5, 0.5]})),
        (("preprocessing", SIDES | {"range": None}), ("preprocessing", SIDES | {"range": [0, 1, 2]})),
        (("preprocessing", SIDES | {"crop": 8}), ("preprocessing", SIDES | {"crop": 7})),
        (("extractors", 1, "kept_channels", {"a": [0]}), ("extractors", 1, "kept_channels", {"a": [-1]})),
        (("scorer_levels", ["quarters"]), ("scorer_levels", [])),
        (("seed", 0), ("seed", -1)),
        (("files", SCORER, "bytes", 0), ("files", SCORER, "bytes", -1)),
        (("files", SCORER, "sha256", "0" * 64), ("files", SCORER, "sha256", "0" * 63)),
        (("files", SCORER, "sha256", "a" * 64), ("files", SCORER, "sha256", "A" * 64)),
        (("scorer", "name", "x" * 200), ("scorer", "name", "x" * 201)),
        (("scorer", "distribution", "x" * 201), ("scorer", "distribution", "x" * 202)),
        (("scorer", "version", "1" * 201), ("scorer", "version", "1" * 202)),
        (("fuse", "mean"), ("fuse", "max")),
        (("precision", "bfloat16"), ("precision", "float64")),
    ],
    ids=lambda path: ".".join(map(str, path[:-1])),
)
def test_bounds_are_allowed_and_what_lies_beyond_is_refused(read, allowed, beyond):
    read(*allowed)
    assert refused(read, *beyond).startswith(".".join(map(str, beyond[:-1])))


@pytest.mark.parametrize("key", ["members", "extractors"])
def test_there_are_from_1_to_1000_members_and_extractors(read, key):
    assert refused(read, key, []) == f"{key}: Tuple should have at least 1 item after validation, not 0"
    assert refused(read, key, GOLDEN[key][:1] * 1001).startswith(f"{key}: Tuple should have at most 1000 items")


def test_an_extractor_has_a_level(read):
    assert refused(read, "extractors", 0, "levels", {}).startswith(
        "extractors.0.levels: Dictionary should have at least 1"
    )
