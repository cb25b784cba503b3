"""Each check of a stopper passes an honest one and is tripped by one that breaks just that promise."""

from dataclasses import replace

import pytest
import torch

from adkit.testing import check_stopper
from tests.testing.components import Fixed, trips


class Reworded(Fixed):
    """Changes the verdict of an honest stopper."""

    def changed(self, verdict, generator):
        raise AssertionError("each test says how")

    def check(self, progress, extractor, adapter, held_out, generator):
        return self.changed(super().check(progress, extractor, adapter, held_out, generator), generator)


class SaysTrue(Reworded):
    def changed(self, verdict, generator):
        return verdict.stop


class NumberForFlag(Reworded):
    def changed(self, verdict, generator):
        return replace(verdict, keep=1)


class NoReason(Reworded):
    def changed(self, verdict, generator):
        return replace(verdict, reason=" ")


class NanFigure(Reworded):
    def changed(self, verdict, generator):
        return replace(verdict, value=float("nan"))


class FigureOfText(Reworded):
    def changed(self, verdict, generator):
        return replace(verdict, value="0.5")


class ReasonIsNone(Reworded):
    def changed(self, verdict, generator):
        return replace(verdict, reason=None)


class ThreeArguments(Fixed):
    def check(self, progress, extractor, adapter):
        raise AssertionError("cannot be called with all five")


class NoCheck:
    pass


class OwnRandomness(Reworded):
    source = torch.Generator().manual_seed(0)

    def changed(self, verdict, generator):
        return replace(verdict, value=torch.rand((), generator=self.source).item())


class GlobalRandomness(Reworded):
    def changed(self, verdict, generator):
        return replace(verdict, value=torch.rand(()).item())


class Trains(Fixed):
    def check(self, progress, extractor, adapter, held_out, generator):
        with torch.no_grad():
            adapter.stages()[0].parameters[0].add_(1)
        return super().check(progress, extractor, adapter, held_out, generator)


class CallsForModule(Fixed):
    def check(self, progress, extractor, adapter, held_out, generator):
        extractor.eval()
        return super().check(progress, extractor, adapter, held_out, generator)


@pytest.mark.parametrize(
    ("check", "broken"),
    [
        ("verdict", SaysTrue),
        ("verdict", NumberForFlag),
        ("reason", NoReason),
        ("finite", NanFigure),
        ("types", FigureOfText),
        ("types", ReasonIsNone),
        ("check", ThreeArguments),
        ("methods", NoCheck),
        ("seed", OwnRandomness),
        ("generators", GlobalRandomness),
        ("weights", Trains),
        ("check", CallsForModule),
    ],
)
def test_broken_stopper_trips(check, broken):
    trips(check, lambda: check_stopper(broken))


def test_honest_stopper_passes():
    check_stopper(Fixed)


def test_stopper_may_draw_from_its_generator():
    class Draws(Reworded):
        def changed(self, verdict, generator):
            return replace(verdict, value=torch.rand((), generator=generator).item())

    check_stopper(Draws)
