"""Recipes as they are written, and short ways to read them with components made by hand."""

import pytest

from adkit.errors import UserError
from adkit.recipe.reader import read_recipe
from tests.plugin.registries import REGISTRY

SMALLEST = {"data": {"root": "images"}, "scorer": {"use": "knn"}}
FULL = """\
[run]
name = "tile"
seed = 7
device = "cuda:1"
precision = "bfloat16"

[data]
format = "textures"
root = "data/textures"
category = ["brick", "grass"]

[extractor]
use = "timm"
levels = ["layer1", "layer2"]

[features]
neighborhood = 3

[adapter]
use = "ewc"
strength = 1e4

[training]
learning_rate = 1e-6
epochs = 250

[stopper]
use = "fixed"

[auxiliary]
root = "outliers"
max_bad_share = 0

[scorer]
use = "knn"
fit = "initial"
k = 5

[localizer]
use = "bilinear"

[threshold]
false_positive_rate = 0.01
"""


def read(source, *overrides, registry=REGISTRY):
    return read_recipe(source, overrides, registry)


def problems(source, *overrides, registry=REGISTRY):
    with pytest.raises(UserError) as caught:
        read(source, *overrides, registry=registry)
    return list(caught.value.problems)
