"""Honest components for the tests of ``adkit.testing`` to break, and what a check that fails looks like."""

import pytest
import torch

from adkit.plugin import NotFittedError, Scores, Verdict
from adkit.toolkit.scoring import checked_state


def trips(check, run):
    with pytest.raises(AssertionError) as failure:
        run()
    assert str(failure.value).startswith(f"{check}: expected "), failure.value
    assert ", found " in str(failure.value)


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

    def check(self, progress, extractor, adapter, held_out, generator):
        stop = progress.minibatches >= 20
        return Verdict(keep=True, stop=stop, reason=f"{progress.minibatches} of 20 minibatches")

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
