"""Honest components for the tests of ``adkit.testing`` to break, and what a check that fails looks like.

The components inherit from no base class, as those of an author who wants no adkit in his own code.
"""

import pytest
import torch
from torch import nn

from adkit.plugin import POOL, Geometry, Group, Level, NotFittedError, Scores, Stage, Verdict
from adkit.toolkit.scoring import checked_state


def failures(run):
    """The lines of the checks that fail, each of which says what was expected and what was found."""
    with pytest.raises(AssertionError) as failure:
        run()
    lines = str(failure.value).splitlines()
    assert all(": expected " in line and ", found " in line for line in lines), lines
    return lines


def trips(checks, run):
    """These checks fail, named in one string, each in one line; all others pass."""
    lines = failures(run)
    assert sorted(line.partition(": expected ")[0] for line in lines) == sorted(checks.split(", ")), lines


class Nearest:
    """Distance to the nearest normal value of ``layer1``'s first channel."""

    normal = None

    def fit(self, stream):
        self.normal = torch.cat([features["layer1"][..., 0].flatten() for features in stream])

    def score(self, features):
        if self.normal is None:
            raise NotFittedError("nearest")
        values = features["layer1"][..., 0]
        maps = {"layer1": (values[..., None] - self.normal).abs().amin(3)}
        return Scores(maps["layer1"].amax((1, 2)), maps, {"layer1": features.geometry["layer1"]})

    def state_dict(self):
        return {"normal": self.normal}

    def load_state_dict(self, state):
        self.normal = checked_state("nearest", state, {"normal": 1})["normal"]


class Nearby:
    """Adds up maps that are resized without interpolation."""

    def localize(self, scores, size):
        grown = [torch.nn.functional.interpolate(m[:, None], size)[:, 0] for m in scores.maps.values()]
        return torch.stack(grown).sum(0)


class Fixed:
    """Stops after 20 minibatches."""

    def check(self, look):
        done = look.progress.minibatches
        return Verdict(keep=True, stop=done >= 20, reason=f"{done} of 20 minibatches")


class Grays(nn.Module):
    """One trained weight times the mean of each quarter of an image."""

    levels = {"gray": Level(1, (2, 2), Geometry.covering((2, 2), (24, 20)))}

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.eval()

    def forward(self, images):
        return {"gray": self.weight * nn.functional.adaptive_avg_pool2d(images, 2).mean(1)[..., None]}

    def blocks(self):
        return {"weight": [self.weight]}


class Draws:
    """Draws the pooled features to 0."""

    def prepare(self, see):
        pass

    def stages(self, extractor):
        return [Stage([Group(extractor.blocks()["layer2"])])]

    def loss(self, step, features):
        return self.score(features).mean()

    def score(self, features):
        return features[POOL].square().sum((1, 2, 3))
