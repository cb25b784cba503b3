"""Each check of a localizer passes an honest one and is tripped by one that breaks just that promise."""

import pytest
import torch

from adkit.testing import check_localizer
from adkit.toolkit.resample import gaussian_smooth
from tests.testing.components import Nearby, failures, trips


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
        for cells in scores.maps.values():
            cells.zero_()
        return super().localize(scores, size)


class Normalizes(Nearby):
    def localize(self, scores, size):
        found = super().localize(scores, size)
        return found / found.max()


class NormalizesEachImage(Nearby):
    def localize(self, scores, size):
        found = super().localize(scores, size)
        return found / found.amax((1, 2), keepdim=True)


class SquareRoots(Nearby):
    def localize(self, scores, size):
        return super().localize(scores, size).sqrt()


class Clamps(Nearby):
    def localize(self, scores, size):
        return super().localize(scores, size).clamp(0, 1.9)


class Flips(Nearby):
    def localize(self, scores, size):
        return super().localize(scores, size).flip(1)


class Mirrors(Nearby):
    def localize(self, scores, size):
        return super().localize(scores, size).flip(2)


class Shifts(Nearby):
    """Moves the map by a cell of ``layer1``."""

    def localize(self, scores, size):
        return super().localize(scores, size).roll(size[0] // 6, 1)


class ShiftsFar(Nearby):
    """Moves the map by a cell of ``layer2``."""

    def localize(self, scores, size):
        return super().localize(scores, size).roll(size[0] // 3, 1)


class Transposes(Nearby):
    def localize(self, scores, size):
        return super().localize(scores, (size[1], size[0])).transpose(1, 2)


class Zeros(Nearby):
    def localize(self, scores, size):
        return torch.zeros(len(scores.image), *size)


class Inverts(Nearby):
    def localize(self, scores, size):
        return -super().localize(scores, size)


class NanMap(Nearby):
    def localize(self, scores, size):
        return super().localize(scores, size) * torch.nan


class DoublePrecision(Nearby):
    def localize(self, scores, size):
        return super().localize(scores, size).double()


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


class Misspelt(Nearby):
    def for_exports(self):
        return self


@pytest.mark.parametrize(
    ("checks", "broken"),
    [
        ("map", NoMap),
        ("map", SqueezedMap),
        ("localize", NeedsTwoLevels),
        ("build", NoLocalize),
        ("members", Misspelt),
        ("map", WrongSize),
        ("map", SquareOnly),
        ("map", DoublePrecision),
        ("finite", InfiniteMap),
        ("finite", NanMap),
        ("inputs, place, place", ChangesMaps),
        ("batches, unit", Normalizes),
        ("unit", NormalizesEachImage),
        ("unit", SquareRoots),
        ("unit", Clamps),
        ("place", Flips),
        ("place", Mirrors),
        ("place", Shifts),
        ("place, place", ShiftsFar),
        ("place", Transposes),
        ("place, place", Zeros),
        ("place, place", Inverts),
        ("seed, batches, unit", AddsNoise),
        ("generators, seed, batches, unit", AddsGlobalNoise),
    ],
)
def test_broken_localizer_trips(checks, broken):
    trips(checks, lambda: check_localizer(broken))


def test_a_cell_out_of_place_is_said_to_be_where_it_is():
    (line,) = failures(lambda: check_localizer(Flips))
    assert line == (
        "place: expected the only hot cell of layer1, (1, 3), to be hotter in the map than its mirror images, "
        "found 0 there and 1 in (4, 3)"
    )


@pytest.mark.parametrize("smoothing", [0.0, 1.0, 4.0, 16.0, 64.0])
def test_a_localizer_may_smooth_as_much_as_it_will(smoothing):
    class Smooths(Nearby):
        def localize(self, scores, size):
            return (
                gaussian_smooth(super().localize(scores, size), smoothing)
                if smoothing
                else super().localize(scores, size)
            )

    check_localizer(Smooths)
    check_localizer(Smooths, size=(64, 64))


def test_honest_localizer_passes():
    check_localizer(Nearby)
