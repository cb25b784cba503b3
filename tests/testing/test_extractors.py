"""Each check of an extractor passes an honest one and is tripped by one that breaks just that promise."""

from dataclasses import replace

import pytest
import torch

from adkit.plugin import POOL, Geometry
from adkit.testing import TinyExtractor, check_extractor
from tests.testing.components import trips


class PlainFunction:
    levels = TinyExtractor().levels

    def __call__(self, images):
        return TinyExtractor()(images)


class Reworked(TinyExtractor):
    """Changes the features of an honest extractor."""

    def changed(self, features, images):
        raise AssertionError("each test says how")

    def forward(self, images):
        return self.changed(super().forward(images), images)


class InTraining(TinyExtractor):
    def __init__(self):
        super().__init__()
        self.layer2.train()


class UndeclaredLevel(Reworked):
    def changed(self, features, images):
        return replace(features, levels={"layer1": features["layer1"], POOL: features[POOL]})


class ChannelsFirst(Reworked):
    def changed(self, features, images):
        return replace(features, levels={n: t.permute(0, 3, 1, 2) for n, t in features.items()})


class HalfPrecision(Reworked):
    def changed(self, features, images):
        return replace(features, levels={n: t.half() for n, t in features.items()})


class MovedGeometry(Reworked):
    def changed(self, features, images):
        return replace(features, geometry={n: Geometry((0.0, 0.0), (1.0, 1.0)) for n in features})


class NanFeatures(Reworked):
    def changed(self, features, images):
        return replace(features, levels={n: t / 0 for n, t in features.items()})


class ChangesImages(TinyExtractor):
    def forward(self, images):
        return super().forward(images.sub_(0.5))


class NormalizesBatch(Reworked):
    def changed(self, features, images):
        return replace(features, levels={n: t - t.mean() for n, t in features.items()})


class Unseeded(TinyExtractor):
    count = 0

    def __init__(self):
        type(self).count += 1
        super().__init__(seed=self.count)


class SeedsGlobally(TinyExtractor):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)


class HiddenState(TinyExtractor):
    """Keeps a copy of weights that its state does not restore."""

    def load_state_dict(self, state, strict=True, assign=False):
        return super().load_state_dict({n: t * 2 for n, t in state.items()}, strict, assign)


class ForgottenBlock(TinyExtractor):
    def blocks(self):
        return {"layer1": list(self.layer1.parameters())}


class SharedBlock(TinyExtractor):
    def blocks(self):
        return {"all": list(self.parameters()), "head": list(self.head.parameters())}


class PlainDict(Reworked):
    def changed(self, features, images):
        return dict(features)


class NoFeatures(Reworked):
    def changed(self, features, images):
        return None


class NamesForLevels(TinyExtractor):
    levels = ["layer1", "layer2", POOL]

    def forward(self, images):
        return TinyExtractor()(images)


class GridsForLevels(NamesForLevels):
    levels = {"layer1": (12, 10), "layer2": (6, 5), POOL: (1, 1)}


class NoForward(torch.nn.Module):
    levels = TinyExtractor().levels


@pytest.mark.parametrize(
    ("check", "broken"),
    [
        ("types", PlainDict),
        ("types", NoFeatures),
        ("types", NamesForLevels),
        ("types", GridsForLevels),
        ("extractor", NoForward),
        ("module", PlainFunction),
        ("evaluation", InTraining),
        ("levels", UndeclaredLevel),
        ("shapes", ChannelsFirst),
        ("shapes", HalfPrecision),
        ("geometry", MovedGeometry),
        ("finite", NanFeatures),
        ("inputs", ChangesImages),
        ("batches", NormalizesBatch),
        ("seed", Unseeded),
        ("generators", SeedsGlobally),
        ("state", HiddenState),
        ("blocks", ForgottenBlock),
        ("blocks", SharedBlock),
    ],
)
def test_broken_extractor_trips(check, broken):
    trips(check, lambda: check_extractor(broken))


def test_tiny_extractor_passes():
    check_extractor(TinyExtractor)
