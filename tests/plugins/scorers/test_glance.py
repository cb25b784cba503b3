"""Scorer ``glance``: the paper's two terms by hand."""

from __future__ import annotations

import pytest
import torch
from adkit_plugins.scorers.glance import Glance, GlanceParams, adkit_scorers
from torch import Tensor

from adkit import UserError
from adkit.plugin import Context, Features, Geometry, Level
from adkit.testing import FeatureStream, check_component, feature_stream

GEOMETRY = Geometry.covering((1, 2), (24, 20))


def stream() -> FeatureStream:
    geometry = Geometry.covering((6, 5), (24, 20))
    levels = {
        name: Level(channels, (6, 5), geometry) for name, channels in (("local", 8), ("global", 8), ("mismatch", 1))
    }
    return feature_stream(levels)


def made(local: list[list[float]], expected: list[list[float]], mismatch: list[float]) -> Features:
    """The features of one image of 1 × 2 cells."""
    levels = {"local": [[local]], "global": [[expected]], "mismatch": [[[[one] for one in mismatch]]]}
    return Features({name: torch.tensor(cells) for name, cells in levels.items()}, dict.fromkeys(levels, GEOMETRY))


TWO_CELLS = made([[1.0, 2.0], [0.0, 0.0]], [[1.0, 0.0], [1.0, 1.0]], [0.25, 0.5])


def scored(normal: Features, features: Features, **params: object) -> tuple[Tensor, Tensor]:
    scorer = Glance(GlanceParams.model_validate(params), Context(image_size=(24, 20)))
    scorer.fit(FeatureStream(normal))
    scores = scorer.score(features)
    (cells,) = scores.maps.values()
    return scores.image, cells


@pytest.mark.parametrize("params", [{"unit": "normal"}, {"lambda_s": 1.0}, {"lambda_s": 0.0}])
def test_contract(params: dict[str, object]) -> None:
    check_component(adkit_scorers()[0], params, stream=stream())


def test_both_terms_by_hand() -> None:
    """‖local − global‖² is 4 in the first cell and 2 in the second."""
    image, cells = scored(TWO_CELLS, TWO_CELLS)
    assert cells[0].tolist() == [pytest.approx([0.8 * 4 + 0.2 * 0.25, 0.8 * 2 + 0.2 * 0.5])]
    assert image.tolist() == pytest.approx([3.25])


def test_one_term_alone_needs_no_other_level() -> None:
    features = Features({"mismatch": TWO_CELLS["mismatch"]}, {"mismatch": GEOMETRY})
    assert scored(features, features, lambda_s=0.0)[1][0].tolist() == [[0.25, 0.5]]
    pair = Features(
        {name: TWO_CELLS[name] for name in ("local", "global")}, dict.fromkeys(("local", "global"), GEOMETRY)
    )
    assert scored(pair, pair, lambda_s=1.0)[1][0].tolist() == [[4.0, 2.0]]


def test_the_unit_may_be_the_mean_over_normal_images() -> None:
    """Of 4 and 2, which is 3."""
    _, cells = scored(TWO_CELLS, TWO_CELLS, unit="normal", lambda_s=0.5)
    assert cells[0].tolist() == [pytest.approx([0.5 * 4 / 3 + 0.125, 0.5 * 2 / 3 + 0.25])]


def test_other_levels_are_refused() -> None:
    scorer = Glance(GlanceParams(), Context())
    with pytest.raises(UserError, match=r"glance reads the levels local, global, mismatch, and local, glo"):
        scorer.fit(feature_stream())
