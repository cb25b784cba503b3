"""A component that breaks a whole detector in just one way is caught by the check of that way."""

from dataclasses import replace

import pytest
import torch

from adkit import UserError
from adkit.plugin import Component, Context, Params, Scores
from adkit.testing import (
    TinyExtractor,
    TinyLevels,
    TinyLocalizer,
    TinyScorer,
    check_component,
    check_detector,
    feature_stream,
)
from tests.testing.components import trips


class Extractor(TinyExtractor):
    def __init__(self, params, context):
        super().__init__(context.image_size)
        self.pretrained = context.pretrained


class Scorer(TinyScorer):
    def __init__(self, params, context):
        super().__init__(context.device)


class Localizer(TinyLocalizer):
    def __init__(self, params, context):
        pass


KINDS = {"extractor": Extractor, "scorer": Scorer, "localizer": Localizer}


def component(build):
    (kind,) = (kind for kind, base in KINDS.items() if issubclass(build, base))
    return Component("mine", kind, Params, build)


@pytest.mark.parametrize("honest", KINDS.values())
def test_honest_component_passes(honest):
    check_component(component(honest), context=Context(image_size=(24, 24)))


def test_a_scorer_is_given_the_levels_of_its_stream():
    levels = {"a": feature_stream().levels["layer1"]}

    class NeedsA(Scorer):
        def fit(self, stream):
            assert list(stream.levels) == ["a"]
            assert stream.levels["a"].grid == (6, 5)
            super().fit(stream)

    check_detector(component(NeedsA), levels=levels)


# Run and saving ------------------------------------------------------------------------------------------


class RefusesImages(Extractor):
    def forward(self, images):
        raise ValueError("too square")


class ExtraState(Extractor):
    def get_extra_state(self):
        return {"epoch": 3}

    def set_extra_state(self, state):
        pass


class KeepsMeanOutOfState(Extractor):
    """Normalizes by what came with the pretrained weights."""

    def forward(self, images):
        return super().forward(images - 0.4 * self.pretrained)


class TensorsOfWeights(Extractor):
    """Has tensors that only come with the pretrained weights."""

    def __init__(self, params, context):
        super().__init__(params, context)
        if context.pretrained:
            self.register_buffer("mean", torch.tensor(0.4))


class RoundsState(Scorer):
    def state_dict(self):
        return {name: mean.half().float() for name, mean in super().state_dict().items()}


class LevelsOfWeights(Extractor):
    """Gives a level that it does not have when it is rebuilt."""

    @property
    def levels(self):
        levels = dict(super().levels)
        return levels if self.pretrained else {"layer1": levels["layer1"]}


class SmoothsMore(Localizer):
    """Draws another map with each instance that is built."""

    built = 0

    def __init__(self, params, context):
        type(self).built += 1
        self.number = self.built

    def localize(self, scores, size):
        return super().localize(scores, size) * self.number


class CentersLargeBatches(Scorer):
    def score(self, features):
        scores = super().score(features)
        return scores if features.count < 6 else replace(scores, image=scores.image - scores.image.mean())


class PeaksInBatches(Localizer):
    """Right scores, and maps that depend on how many images there are."""

    def localize(self, scores, size):
        drawn = super().localize(scores, size)
        return drawn if len(drawn) > 1 else drawn / drawn.max()


@pytest.mark.parametrize(
    ("check", "broken"),
    [
        ("run", RefusesImages),
        ("save_detector", ExtraState),
        ("load_detector", TensorsOfWeights),
        ("load_detector", LevelsOfWeights),
        ("saving", KeepsMeanOutOfState),
        ("state_dict", RoundsState),
        ("saving", SmoothsMore),
        ("parity", CentersLargeBatches),
        ("parity", PeaksInBatches),
    ],
)
def test_broken_component_trips(check, broken):
    trips(check, lambda: check_detector(component(broken)))


# Export --------------------------------------------------------------------------------------------------


class UsesNumpy(Scorer):
    def score(self, features):
        scores = super().score(features)
        return replace(scores, image=torch.from_numpy(scores.image.cpu().numpy().copy()))


class OffersExport(UsesNumpy):
    def for_export(self):
        return copied(self, Scorer)


def copied(scorer, kind):
    copy = kind(Params(), Context())
    copy.load_state_dict(scorer.state_dict())
    return copy


class SquareRoots(Scorer):
    def score(self, features):
        scores = super().score(features)
        return Scores(scores.image.sqrt(), {n: m.sqrt() for n, m in scores.maps.items()}, scores.geometry)


class ExportsOtherScores(Scorer):
    def for_export(self):
        return copied(self, SquareRoots)


class ExportsNumpy(Scorer):
    def for_export(self):
        return copied(self, UsesNumpy)


class TwoImagesOnly(Scorer):
    def score(self, features):
        scores = super().score(features)
        return replace(scores, image=torch.stack([scores.image[number] for number in range(features.count)]))


class ExportsTwoImages(Scorer):
    def for_export(self):
        return copied(self, TwoImagesOnly)


class DiesOfExport(Scorer):
    def for_export(self):
        raise KeyError("bank")


class ExportsNothing(Scorer):
    def for_export(self):
        return None


class SpoiledByExport(Scorer):
    def for_export(self):
        copy = copied(self, Scorer)
        self.load_state_dict({name: 2 * mean for name, mean in self.state_dict().items()})
        return copy


@pytest.mark.parametrize(
    ("check", "broken"),
    [
        ("for_export", DiesOfExport),
        ("for_export", ExportsNothing),
        ("for_export", ExportsOtherScores),
        ("for_export", SpoiledByExport),
        ("export", ExportsNumpy),
        pytest.param("export", ExportsTwoImages, marks=pytest.mark.slow),
    ],
)
def test_broken_export_trips(check, broken):
    trips(check, lambda: check_detector(component(broken)))


def test_a_component_that_offers_an_exportable_copy_passes():
    check_detector(component(OffersExport))


def test_a_component_that_claims_nothing_need_not_be_exportable():
    check_detector(component(UsesNumpy))


def test_a_component_may_say_that_there_is_no_export_for_its_parameters():
    class Refuses(UsesNumpy):
        def for_export(self):
            raise UserError("scorer.index: expected torch for an export, found faiss: set it")

    check_detector(component(Refuses))


def test_tiny_levels_are_those_asked_for():
    levels = feature_stream().levels
    features = TinyLevels(levels)(torch.rand(3, 3, 24, 20))
    assert {name: tuple(values.shape) for name, values in features.items()} == {
        name: (3, *level.grid, level.channels) for name, level in levels.items()
    }
