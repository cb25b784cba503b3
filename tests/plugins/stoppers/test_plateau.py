import pytest
import torch
from adkit_plugins.stoppers.plateau import Plateau, PlateauParams, adkit_stoppers

from adkit import UserError
from adkit.plugin import POOL, Batch, Context, Features, Geometry, Look, Progress
from adkit.testing import check_component


class Brightness:
    """Scores an image by how bright it is, times ``scale``."""

    scale = 1.0

    def score(self, features):
        return features[POOL][:, 0, 0, 0] * self.scale


def features(images):
    return Features({POOL: images.mean((1, 2, 3))[:, None, None, None]}, {POOL: Geometry.covering((1, 1), (4, 4))})


def gray(*levels):
    """One batch of even images."""
    images = torch.tensor(levels, dtype=torch.float32)[:, None, None, None].expand(-1, 3, 4, 4)
    return Batch(images, tuple(f"gray{level}" for level in levels))


HELD_OUT = [gray(0.25, 0.5), gray(0.75)]


def course(stopper, scales):
    adapter, verdicts = Brightness(), []
    for epoch, scale in enumerate(scales):
        adapter.scale = scale
        progress = Progress(10 * epoch, float(epoch), None)
        verdicts.append(stopper.check(Look(progress, features, adapter, HELD_OUT, torch.Generator())))
    return verdicts


def plateau(**params):
    return Plateau(PlateauParams(**params), Context())


def test_contract():
    check_component(adkit_stoppers()[0], {"patience": 2})


def test_its_figure_is_the_mean_over_images_not_over_batches():
    (verdict,) = course(plateau(), [1.0])
    assert verdict.value == pytest.approx((0.25 + 0.5 + 0.75) / 3)
    assert verdict.reason == "validation score 0.5 before the first step, the best so far"


def test_it_keeps_lower_scores_and_stops_when_none_comes():
    verdicts = course(plateau(patience=2), [4.0, 2.0, 3.0, 2.0])
    assert [verdict.keep for verdict in verdicts] == [True, True, False, False]
    assert [verdict.stop for verdict in verdicts] == [False, False, False, True]


def test_min_delta_is_what_a_fall_has_to_exceed():
    verdicts = course(plateau(min_delta=1.0), [8.0, 6.0, 3.75])  # means 4, 3 and 1.875
    assert [verdict.keep for verdict in verdicts] == [True, False, True]


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_worse_than_any(scale):
    verdicts = course(plateau(), [8.0, scale, 9.0, 7.0])
    assert [verdict.keep for verdict in verdicts] == [True, False, False, True]
    assert verdicts[1].value is None
    assert verdicts[1].reason == (
        "scores of held-out images became NaN or infinite after epoch 1, best 4 before the first step"
    )


def test_it_holds_out_what_its_parameter_says():
    assert plateau(validation=0.3).validation == 0.3


def test_without_images_it_says_so():
    with pytest.raises(UserError, match=r"^stopper\.validation: expected .* found none held out"):
        plateau().check(Look(Progress(0, 0.0, None), features, Brightness(), [], torch.Generator()))
