"""Where cells lie: the followed geometry against the centroid of what a cell sees."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from adkit_plugins.extractors.timm.follow import Follow
from torch import nn

from adkit.plugin.types import Geometry


def followed(network: nn.Module, size: tuple[int, int]) -> Geometry:
    image = torch.zeros(1, 3, *size)
    follow = Follow(image)
    with torch.no_grad(), follow:
        output = network(image)
    return follow.geometry(output, (output.shape[2], output.shape[3]))


def seen(network: nn.Module, size: tuple[int, int]) -> list[tuple[int, float, float]]:
    """(axis, index, centroid) of the gradient of two inner cells, with every weight the same."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.ones_(module.weight)
    image = torch.ones(1, 3, *size, requires_grad=True)
    output = network(image)
    found = []
    for beside in (0, 1):
        row, column = output.shape[2] // 2 + beside, output.shape[3] // 2 + beside
        (gradient,) = torch.autograd.grad(output[0, 0, row, column], image, retain_graph=True)
        for axis, index in ((0, row), (1, column)):
            weight = gradient[0].sum(0).sum(1 - axis)
            centroid = (weight * (torch.arange(size[axis]) + 0.5)).sum() / weight.sum()
            found.append((axis, index, float(centroid)))
    return found


class Padded(nn.Module):
    """TensorFlow's padding of a 3×3 kernel at stride 2 over an even side: nothing before, one behind."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


@pytest.mark.parametrize(
    "network",
    [
        nn.Conv2d(3, 3, 3, stride=2, padding=1),
        nn.Conv2d(3, 3, 4, stride=4),
        nn.Conv2d(3, 3, 3, padding=0),
        nn.Conv2d(3, 3, 3, padding="same"),
        nn.Conv2d(3, 3, (5, 3), stride=(1, 2), padding=(2, 0), dilation=(1, 2)),
        nn.AvgPool2d(2),
        nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),
        nn.Conv2d(3, 3, 3, stride=2, padding=1, padding_mode="reflect"),
        nn.Sequential(nn.ZeroPad2d((2, 0, 1, 0)), nn.Conv2d(3, 3, 4, stride=2)),
        nn.Sequential(Padded(), nn.ReLU(), Padded(), nn.Conv2d(3, 3, 3, stride=2, padding=1)),
    ],
    ids=str,
)
def test_cells_are_centered_on_what_they_see(network: nn.Module) -> None:
    size = (64, 48)
    geometry = followed(network, size)
    for axis, index, centroid in seen(network, size):
        assert geometry.start[axis] + index * geometry.step[axis] == pytest.approx(centroid, abs=1e-3)


def test_maximum_slides_the_same_window_as_mean() -> None:
    size = (64, 48)
    assert followed(nn.MaxPool2d(3, 2, 1), size) == followed(nn.AvgPool2d(3, 2, 1), size)
    assert followed(nn.MaxPool2d(2), size) == Geometry((1, 1), (2, 2))


def test_cells_stay_where_the_first_operand_has_them() -> None:
    class Residual(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.avg_pool2d(x, 2) + F.max_pool2d(x, 3, 2, 1)

    assert followed(Residual(), (8, 8)) == Geometry((1, 1), (2, 2))


def test_merged_cells_tile_the_image() -> None:
    class Merge(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.reshape(1, 3, 4, 2, 6, 2).permute(0, 1, 3, 5, 2, 4).reshape(1, 12, 4, 6)

    assert followed(Merge(), (8, 12)) == Geometry((1, 1), (2, 2))
