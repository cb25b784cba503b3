"""Each check of a stopper passes an honest one and is tripped by one that breaks just that promise."""

from dataclasses import replace

import pytest
import torch

from adkit.testing import TinyAdapter, check_stopper
from tests.testing.components import Fixed, trips


class Reworded(Fixed):
    """Changes the verdict of an honest stopper."""

    def changed(self, verdict, generator):
        raise AssertionError("each test says how")

    def check(self, look):
        return self.changed(super().check(look), look.generator)


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


class OldArguments(Fixed):
    def check(self, progress, extractor, adapter, held_out, generator):
        raise AssertionError("cannot be called with a look")


class NoCheck:
    pass


class OwnRandomness(Reworded):
    source = torch.Generator().manual_seed(0)

    def changed(self, verdict, generator):
        return replace(verdict, value=torch.rand((), generator=self.source).item())


class GlobalRandomness(Reworded):
    def changed(self, verdict, generator):
        return replace(verdict, value=torch.rand(()).item())


class KeepsExtractor(TinyAdapter):
    def prepare(self, see):
        super().prepare(see)
        self.extractor = see.extractor


class Trains(Fixed):
    def check(self, look):
        look.adapter.inner.extractor.head.bias.add_(1)
        return super().check(look)


class CallsForModule(Fixed):
    def check(self, look):
        look.extractor.eval()
        return super().check(look)


class Validations(Fixed):
    validations = 0.2


@pytest.mark.parametrize(
    ("checks", "broken"),
    [
        ("check", SaysTrue),
        ("check: Verdict.keep", NumberForFlag),
        ("reason", NoReason),
        ("check: Verdict.value", NanFigure),
        ("check: Verdict.value", FigureOfText),
        ("check: Verdict.reason", ReasonIsNone),
        ("check", OldArguments),
        ("build", NoCheck),
        ("members", Validations),
        ("seed, state", OwnRandomness),
        ("generators, seed, state", GlobalRandomness),
        ("check", CallsForModule),
    ],
)
def test_broken_stopper_trips(checks, broken):
    trips(checks, lambda: check_stopper(broken))


def test_a_stopper_that_trains_trips():
    trips("weights", lambda: check_stopper(Trains, make_adapter=KeepsExtractor))


def test_honest_stopper_passes():
    check_stopper(Fixed)


def test_stopper_may_draw_from_its_generator():
    class Draws(Reworded):
        def changed(self, verdict, generator):
            return replace(verdict, value=torch.rand((), generator=generator).item())

    check_stopper(Draws)
