import pytest
from adkit_plugins.stoppers.fixed import Fixed, FixedParams, adkit_stoppers

from adkit.plugin import Context, Look, Progress
from adkit.testing import TinyAdapter, check_component


def untouchable():
    pytest.fail("images were asked for")
    yield


def test_contract():
    check_component(adkit_stoppers()[0])


@pytest.mark.parametrize("progress", [Progress(0, 0.0, None), Progress(10**6, 1e4, 0.1)])
def test_it_keeps_no_state_and_never_stops(progress):
    stopper = Fixed(FixedParams(), Context())
    verdict = stopper.check(Look(progress, untouchable, TinyAdapter(), untouchable(), Context().generator("check")))
    assert (verdict.keep, verdict.stop, verdict.value) == (False, False, None)


def test_it_holds_out_nothing():
    assert Fixed(FixedParams(), Context()).validation == 0
