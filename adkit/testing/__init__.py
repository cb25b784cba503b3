"""Checks of the contract that the author of a plugin runs on a component, with or without pytest.

    from adkit.testing import check_component
    from my_package.plugin import adkit_scorers

    def test_contract():
        for component in adkit_scorers():
            check_component(component)

All checks run. One AssertionError has a line for each that failed: "name of the check: expected …, found …". A call
that fails is reported once; the checks that need it do not run.
"""

from adkit.testing.adapters import check_adapter
from adkit.testing.components import check_component, check_params
from adkit.testing.detectors import check_detector
from adkit.testing.extractors import check_extractor
from adkit.testing.localizers import check_localizer
from adkit.testing.samples import FeatureStream, feature_stream, sample_images
from adkit.testing.scorers import check_scorer
from adkit.testing.stoppers import check_stopper
from adkit.testing.tiny import TinyAdapter, TinyExtractor, TinyLevels, TinyLocalizer, TinyScorer

__all__ = [
    "FeatureStream",
    "TinyAdapter",
    "TinyExtractor",
    "TinyLevels",
    "TinyLocalizer",
    "TinyScorer",
    "check_adapter",
    "check_component",
    "check_detector",
    "check_extractor",
    "check_localizer",
    "check_params",
    "check_scorer",
    "check_stopper",
    "feature_stream",
    "sample_images",
]
