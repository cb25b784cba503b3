"""Facts about the machine and the code."""

import tomllib
from pathlib import Path

import adkit
from adkit.utils.environment import DISTRIBUTION, versions

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_distribution_that_messages_name_is_the_one_that_is_built():
    assert PROJECT["name"] == DISTRIBUTION


def test_extras_name_the_distribution_and_not_the_import():
    assert f"{DISTRIBUTION}[onnx,openvino,tensorboard,wandb]" in PROJECT["optional-dependencies"]["test"]


def test_versions_have_adkit_under_the_name_of_its_distribution():
    assert versions()[DISTRIBUTION] == adkit.__version__
