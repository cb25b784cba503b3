"""Each check of a localizer passes an honest one and is tripped by one that breaks just that promise."""

import pytest
import torch

from adkit.testing import check_localizer
from tests.testing.components import Nearby, trips


class WrongSize(Nearby):
    def localize(self, scores, size):
        return super().localize(scores, (size[0], size[0]))


class SquareOnly(Nearby):
    def localize(self, scores, size):
        return super().localize(scores, (24, 20))


class InfiniteMap(Nearby):
    def localize(self, scores, size):
        return super().localize(scores, size) / 0


class ChangesMaps(Nearby):
    def localize(self, scores, size):
        scores.maps["layer1"].zero_()
        return super().localize(scores, size)


class Normalizes(Nearby):
    def localize(self, scores, size):
        found = super().localize(scores, size)
        return found / found.max()


class AddsNoise(Nearby):
    noise = torch.Generator().manual_seed(0)

    def localize(self, scores, size):
        found = super().localize(scores, size)
        return found + torch.rand(found.shape, generator=self.noise)


class AddsGlobalNoise(Nearby):
    def localize(self, scores, size):
        found = super().localize(scores, size)
        return found + torch.rand_like(found)


class NoMap(Nearby):
    def localize(self, scores, size):
        return None


class SqueezedMap(Nearby):
    def localize(self, scores, size):
        return super().localize(scores, size).squeeze()


class NeedsTwoLevels(Nearby):
    def localize(self, scores, size):
        return super().localize(scores, size) + 0 * scores.maps["layer2"].mean()


class NoLocalize:
    pass


@pytest.mark.parametrize(
    ("check", "broken"),
    [
        ("shapes", NoMap),
        ("batches", SqueezedMap),
        ("localize", NeedsTwoLevels),
        ("methods", NoLocalize),
        ("shapes", WrongSize),
        ("shapes", SquareOnly),
        ("finite", InfiniteMap),
        ("inputs", ChangesMaps),
        ("batches", Normalizes),
        ("seed", AddsNoise),
        ("generators", AddsGlobalNoise),
    ],
)
def test_broken_localizer_trips(check, broken):
    trips(check, lambda: check_localizer(broken))


def test_honest_localizer_passes():
    check_localizer(Nearby)
