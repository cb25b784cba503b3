"""A detector that was saved once, loads for ever and gives the scores that it gave then, by numbers worked out by hand.

``golden/`` was written by adkit 0.1.0 and is never written again: where it no longer loads, neither does any detector
that somebody saved. Either say so by a new schema, or read the old one.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from adkit import Detector, UserError
from adkit.detector.load import load_detector
from adkit.detector.manifest import read_manifest, write_manifest
from adkit.detector.regions import Region
from adkit.plugin import Component, Extractor, Geometry, Level, Params
from adkit.plugin.registry import Origin, Registered, Registry, discover

GOLDEN = Path(__file__).parent / "golden"


class Quarters(Extractor):
    """The mean color of each quarter of an image of 8 × 8 pixels, times a gain that was saved."""

    def __init__(self, params, context):
        super().__init__(params, context)
        self.gain = nn.Parameter(torch.zeros(3))
        self.eval()

    @property
    def levels(self):
        return {"quarters": Level(3, (2, 2), Geometry.covering((2, 2), (8, 8)))}

    def forward(self, images):
        return {"quarters": nn.functional.avg_pool2d(images, 4).permute(0, 2, 3, 1) * self.gain}


@pytest.fixture(scope="module")
def registry():
    """What is installed, and the extractor of this file."""
    installed = [entry for kind in ("scorer", "localizer") for entry in discover().found(kind)]
    quarters = Component.extractor("quarters", Params, Quarters)
    return Registry([*installed, Registered(quarters, Origin("golden", "1.0", __name__))])


@pytest.fixture(scope="module")
def golden(registry):
    return Detector(load_detector(GOLDEN, "cpu", registry))


def corner(*color):
    """A black image whose upper left quarter has this color."""
    image = np.zeros((8, 8, 3), np.uint8)
    image[:4, :4] = color
    return image


def test_scores_are_those_of_the_formula(golden):
    # Both members measure from black. The first takes all colors and divides by 0.5; 153, 204, 0 is 0.6, 0.8, 0: 1 away
    # from black. The second takes blue alone, twice, and divides by 0.25; 51 is 0.2. The larger ratio counts.
    found = golden.predict([corner(153, 204, 0), corner(0, 0, 51), corner(0, 0, 0)])
    assert found.scores.tolist() == pytest.approx([1 / 0.5, 2 * 0.2 / 0.25, 0], rel=1e-6)
    assert found.threshold == 1.75
    assert found.anomalous.tolist() == [True, False, False]


def test_p_values_weigh_groups(golden):
    # Three groups: 0.5 and 1 share one, 1.5 and 1.75 have each their own; a weight of 1/4 lies at infinity.
    found = golden.predict([corner(153, 204, 0), corner(0, 0, 51), corner(0, 0, 26)])
    assert found.p_values.tolist() == [1 / 4, 2 / 4, 7 / 8]  # above 2, above 1.6, above 0.8


def test_maps_and_regions_lie_over_the_corner(golden):
    # Between the cells' centers, at 2 and 6, the map falls in a line from 2 to 0: pixel 2 is an eighth along it.
    found = golden.predict(corner(153, 204, 0))
    along = np.array([1, 1, 7 / 8, 5 / 8, 3 / 8, 1 / 8, 0, 0])
    np.testing.assert_allclose(found.maps[0], 2 * np.outer(along, along), atol=1e-6)
    ((region,),) = found.regions  # above 1.8
    assert (region.x, region.y, region.width, region.height) == (0, 0, 2, 2)
    assert isinstance(region, Region) and region.peak == pytest.approx(2)


def test_what_is_read_is_written_again(tmp_path):
    """Keys that came later are written, too, with what they mean where they are not there."""
    read = read_manifest(GOLDEN / "manifest.json")
    write_manifest(read, tmp_path)
    assert read_manifest(tmp_path / "manifest.json") == read


def test_keys_may_come_in_any_order(registry, tmp_path):
    folder = shutil.copytree(GOLDEN, tmp_path / "golden")
    values = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(dict(reversed(values.items()))))
    assert load_detector(folder, "cpu", registry).category == "golden"


@pytest.mark.parametrize("key", ["category", "adkit", "seed", "calibration", "threshold"])
def test_any_other_value_is_found(registry, tmp_path, key):
    folder = shutil.copytree(GOLDEN, tmp_path / "golden")
    values = json.loads((folder / "manifest.json").read_text())
    values[key] = {"category": "other", "adkit": "0.1.1", "seed": 1, "calibration": [0.5, 1, 1.5, 1.76]}.get(key)
    (folder / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="expected the digest of its contents, found another"):
        load_detector(folder, "cpu", registry)


@pytest.mark.parametrize("path", [".", "golden", "golden/../golden", "../here/golden"])
def test_a_relative_path_is_as_good(registry, tmp_path, monkeypatch, path):
    folder = shutil.copytree(GOLDEN, tmp_path / "here" / "golden")
    monkeypatch.chdir(folder if path == "." else folder.parent)
    assert load_detector(Path(path), "cpu", registry).category == "golden"


def test_a_link_to_the_folder_is_as_good(registry, tmp_path):
    (tmp_path / "link").symlink_to(GOLDEN)
    assert load_detector(tmp_path / "link", "cpu", registry).category == "golden"
