"""Every component that comes with adkit passes the checks that every plugin's does."""

import pytest

from adkit.plugin import Context, Geometry, Level
from adkit.plugin.registry import discover
from adkit.testing import check_component, feature_stream

PARAMS = {
    "extractor timm": {"backbone": "test_resnet", "weights": "none", "levels": ["layer1", "layer2", "pool"]},
    "extractor glance": {"patches": 2},
}
"""For components whose defaults take long."""
SIZES = {"extractor timm": (64, 64), "extractor glance": (256, 256)}
CELLS = (6, 5), Geometry.covering((6, 5), (24, 20))
STREAMS = {
    "scorer logit": feature_stream({"logit": Level(1, *CELLS)}),
    "scorer glance": feature_stream(
        {"local": Level(8, *CELLS), "global": Level(8, *CELLS), "mismatch": Level(1, *CELLS)}
    ),
}
"""For scorers that read other levels than any."""

BUILT_IN = [
    registered.component
    for kind in ("extractor", "scorer", "localizer")
    for registered in discover().found(kind)
    if registered.origin.module.startswith("adkit_plugins.")
]


def called(component):
    return f"{component.kind} {component.name}"


@pytest.mark.parametrize("component", BUILT_IN, ids=called)
def test_contract_of(component):
    name = called(component)
    context = Context(image_size=SIZES.get(name, (24, 20)))
    check_component(component, PARAMS.get(name), context=context, stream=STREAMS.get(name))


def test_every_kind_that_a_detector_is_made_of_is_there():
    assert {component.kind for component in BUILT_IN} == {"extractor", "scorer", "localizer"}, (
        "pyproject.toml, [project.entry-points.adkit], names them; install again after a change of it"
    )
