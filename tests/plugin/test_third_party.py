"""A stranger's scorer, installed as a distribution, is found by its entry point and passes the checks."""

import os
import subprocess
import sys

import pytest

PLUGIN = '''
import torch
from pydantic import Field

from adkit.plugin import Component, NotFittedError, Params, Scores, hookimpl
from adkit.toolkit.scoring import checked_state


class BrightnessParams(Params):
    power: float = Field(1.0, gt=0, description="power to which the distance is raised")


class Brightness:
    """How far the mean of all features is from that of normal images."""

    def __init__(self, params, context):
        self.power = params.power
        self.normal = None

    def fit(self, stream):
        self.normal = torch.cat([self._means(features) for features in stream]).mean()

    def score(self, features):
        if self.normal is None:
            raise NotFittedError("brightness")
        return Scores((self._means(features) - self.normal).abs() ** self.power)

    def state_dict(self):
        return {"normal": self.normal}

    def load_state_dict(self, state):
        self.normal = checked_state("brightness", state, {"normal": 0})["normal"]

    def _means(self, features):
        return torch.stack([level.mean((1, 2, 3)) for level in features.values()]).mean(0)


@hookimpl
def adkit_scorers():
    return [Component("brightness", "scorer", BrightnessParams, Brightness)]
'''

PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "stranger-brightness"
version = "1.2.3"

[project.entry-points.adkit]
brightness = "stranger_brightness"

[tool.setuptools]
py-modules = ["stranger_brightness"]
"""

USE = """
from importlib.metadata import entry_points
from adkit.testing import check_component

(found,) = entry_points(group="adkit", name="brightness")
(component,) = found.load().adkit_scorers()
check_component(component)
check_component(component, {"power": 2.0})
print(found.dist.name, found.dist.version, component.kind, component.name)
"""


@pytest.mark.slow
def test_installed_third_party_scorer_is_found_and_passes(tmp_path):
    source, target = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    (source / "stranger_brightness.py").write_text(PLUGIN, encoding="utf-8")
    (source / "pyproject.toml").write_text(PROJECT, encoding="utf-8")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    install = [sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(source)]
    subprocess.run(install, check=True, timeout=300)
    environment = {**os.environ, "PYTHONPATH": str(target)}
    done = subprocess.run(
        [sys.executable, "-c", USE], check=True, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.split() == ["stranger-brightness", "1.2.3", "scorer", "brightness"]
