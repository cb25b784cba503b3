"""Streams, images and tiny components that checks are made with."""

import os
import subprocess
import sys

import pytest
import torch

from adkit.plugin import POOL, Features, Geometry
from adkit.testing import FeatureStream, TinyExtractor, check_extractor, feature_stream, sample_images


def test_stream_hands_out_every_image_once_whatever_the_batches():
    stream = feature_stream(images=10)
    for size in (1, 3, 10, 64):
        together = torch.cat([features["layer1"] for features in stream.cut(size)])
        assert torch.equal(together, stream.features["layer1"])


def test_stream_of_a_seed_is_the_same_and_of_another_is_not():
    first, second, other = (feature_stream(seed=seed).features[POOL] for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_streams_give_normal_tensors_without_gradients_even_in_inference_mode():
    with torch.inference_mode():
        found = [values for features in feature_stream() for values in features.values()]
    assert not any(values.is_inference() or values.requires_grad for values in found)


def test_stream_over_features_with_gradients_gives_none():
    pooled = torch.zeros(3, 1, 1, 2, requires_grad=True)
    (features,) = FeatureStream(Features({POOL: pooled * 2}, {POOL: Geometry((0.5, 0.5), (1.0, 1.0))}))
    assert not features[POOL].requires_grad


def test_images_are_named_apart_over_batches():
    batches = sample_images(5, batch_size=2)
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert len({name for batch in batches for name in batch.ids}) == 5


def test_tiny_extractor_states_the_levels_of_odd_sizes():
    extractor = TinyExtractor(size=(23, 17))
    check_extractor(lambda: TinyExtractor(size=(23, 17)), size=(23, 17))
    assert extractor.levels["layer1"].grid == (12, 9)


def test_tiny_extractor_classifies():
    assert TinyExtractor().classify(torch.rand(2, 3, 24, 20)).shape == (2, 5)


def test_features_of_one_batch_are_views_so_that_changes_show():
    stream = feature_stream(images=4, batch_size=2)
    first = next(iter(stream))
    assert isinstance(first, Features)
    first[POOL].fill_(7)
    assert bool((stream.features[POOL][:2] == 7).all())


@pytest.mark.slow
def test_testing_needs_no_pytest():
    code = "import sys; sys.modules['pytest'] = None; import adkit.testing"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ}, timeout=120)
