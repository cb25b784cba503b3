"""Every component that comes with adkit passes the checks that every plugin's does."""

import pytest

from adkit.plugin import Context, Geometry, Level
from adkit.plugin.registry import discover
from adkit.testing import check_component, feature_stream

PARAMS = {"timm": {"backbone": "test_resnet", "weights": "none", "levels": ["layer1", "layer2", "pool"]}}
"""For components whose defaults take long."""
SINGLE = feature_stream({"logit": Level(1, (6, 5), Geometry.covering((6, 5), (24, 20)))})
STREAMS = {"logit": SINGLE}
"""For scorers that read other levels than any."""

BUILT_IN = [
    registered.component
    for kind in ("extractor", "scorer", "localizer")
    for registered in discover().found(kind)
    if registered.origin.module.startswith("adkit_plugins.")
]


@pytest.mark.parametrize("component", BUILT_IN, ids=lambda component: component.name)
def test_contract_of(component):
    size = (64, 64) if component.kind == "extractor" else (24, 20)
    context, stream = Context(image_size=size), STREAMS.get(component.name)
    check_component(component, PARAMS.get(component.name), context=context, stream=stream)


def test_every_kind_that_a_detector_is_made_of_is_there():
    assert {component.kind for component in BUILT_IN} == {"extractor", "scorer", "localizer"}, (
        "pyproject.toml, [project.entry-points.adkit], names them; install again after a change of it"
    )
