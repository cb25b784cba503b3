"""The runner of checks reports all that failed in one error, and what failed once only once."""

import random

import numpy as np
import pytest
import torch

from adkit.testing.asserts import generators_untouched, require, run_checks, running
from tests.testing.components import failures


def fails(line):
    check, _, rest = line.partition(": expected ")
    expected, _, found = rest.partition(", found ")
    return lambda: require(False, check, expected, found)


def call_fails(call, error):
    def check():
        with running(call):
            raise error

    return check


def test_every_failure_has_a_line_and_equal_ones_have_one():
    first, second = "a: expected 1, found 2", "b: expected 3, found 4"
    assert failures(lambda: run_checks(fails(first), fails(second), fails(first))) == [first, second]


def test_failures_of_checks_inside_a_check_are_its_own():
    lines = ["a: expected 1, found 2", "b: expected 3, found 4", "c: expected 5, found 6"]
    first, *others = map(fails, lines)
    assert failures(lambda: run_checks(first, lambda: run_checks(*others))) == lines


def test_a_call_is_reported_once_and_another_of_the_same_error_too():
    checks = [call_fails("fit(stream)", KeyError("a")), call_fails("fit(stream)", KeyError("b"))]
    assert failures(lambda: run_checks(*checks, call_fails("score(features)", KeyError("a")))) == [
        "fit: expected fit(stream) to run through, found KeyError('a')",
        "score: expected score(features) to run through, found KeyError('a')",
    ]


def test_checks_that_pass_raise_nothing():
    run_checks(lambda: None, lambda: run_checks())


def test_an_error_that_no_check_expects_hides_no_other_failure():
    def breaks():
        raise KeyError("levels")

    assert failures(lambda: run_checks(breaks, fails("a: expected 1, found 2"))) == [
        "checks: expected every check to run through, found KeyError('levels')",
        "a: expected 1, found 2",
    ]


def test_an_interrupt_is_no_failure():
    def stops():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_checks(stops)


def test_the_generators_of_the_process_are_left_as_they_were():
    torch.manual_seed(0)
    expected = torch.rand(3).tolist(), random.Random(0).random(), np.random.RandomState(0).rand()
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    with pytest.raises(AssertionError, match=r"draws from torch, numpy\.random, random"), generators_untouched():
        torch.rand(1), random.random(), np.random.rand()  # noqa: NPY002
    assert (torch.rand(3).tolist(), random.random(), np.random.rand()) == expected  # noqa: NPY002
