import pytest
import torch

from adkit.testing import feature_stream
from adkit.toolkit.centers import distances, fit_centers


@pytest.mark.parametrize(("centers", "over"), [("level", (0, 1, 2)), ("location", (0,))])
def test_centers_are_means_over_images_and_perhaps_locations(centers, over):
    stream = feature_stream()
    found = fit_centers(stream.levels, stream, centers)
    for name, values in stream.features.items():
        torch.testing.assert_close(found[name], values.double().mean(over).float(), rtol=0, atol=1e-7)


def test_without_images_there_are_none():
    assert fit_centers(feature_stream().levels, [], "level") == {}


@pytest.mark.parametrize(("distance", "expected"), [("l1", 7.0), ("l2", 5.0), ("squared_l2", 25.0)])
def test_distance_by_hand(distance, expected):
    values = torch.tensor([[[[4.0, 6.0]]]])
    assert distances(values, torch.tensor([1.0, 2.0]), distance).tolist() == [[[expected]]]


@pytest.mark.parametrize("distance", ["l1", "l2", "squared_l2"])
def test_the_gradient_at_the_center_is_zero(distance):
    values = torch.ones(1, 1, 1, 3, requires_grad=True)
    distances(values, torch.ones(3), distance).sum().backward()
    assert values.grad.tolist() == [[[[0.0, 0.0, 0.0]]]]
