import signal
import threading
from contextlib import suppress

import pytest

from adkit.utils.signals import ENDING, deferred, handling, stopping, undisturbed


@pytest.fixture(autouse=True)
def handlers():
    """Those of before come back, whatever a test leaves."""
    before = {number: signal.getsignal(number) for number in ENDING}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_handler_takes_the_signals_that_are_named():
    taken = []
    with handling(lambda number, frame: taken.append(number), signal.SIGTERM):
        signal.raise_signal(signal.SIGTERM)
    assert taken == [signal.SIGTERM]


def test_other_signals_are_left_as_they_are(handlers):
    with handling(signal.SIG_IGN, signal.SIGTERM):
        assert signal.getsignal(signal.SIGINT) == handlers[signal.SIGINT]


@pytest.mark.parametrize("block", [lambda: handling(signal.SIG_IGN, *ENDING), undisturbed, deferred, stopping])
def test_the_handlers_of_before_come_back(handlers, block):
    with pytest.raises(ZeroDivisionError), block():
        raise ZeroDivisionError
    assert {number: signal.getsignal(number) for number in ENDING} == handlers


@pytest.mark.parametrize("block", [undisturbed, deferred, stopping])
def test_another_thread_runs_the_block_and_changes_no_handler(handlers, block):
    found = []

    def work():
        with block():
            found.append({number: signal.getsignal(number) for number in ENDING})

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [handlers]


@pytest.mark.parametrize("number", ENDING)
def test_what_must_not_be_disturbed_is_not(number):
    with undisturbed():
        signal.raise_signal(number)


@pytest.mark.parametrize("error", [None, ZeroDivisionError])
@pytest.mark.parametrize("number", ENDING)
def test_a_signal_waits_for_the_end_of_the_block_however_it_ends(number, error):
    taken, reached = [], []
    with handling(lambda number, frame: taken.append(number), *ENDING), suppress(ZeroDivisionError), deferred():
        signal.raise_signal(number)
        reached.append(list(taken))
        if error is not None:
            raise error
    assert (reached, taken) == ([[]], [number])


@pytest.mark.parametrize("number", ENDING)
def test_the_first_signal_asks_to_stop(number):
    with stopping() as asked:
        before = asked()
        signal.raise_signal(number)
        assert (before, asked()) == (False, True)


def test_the_second_signal_interrupts():
    with stopping():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
