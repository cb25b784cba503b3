"""What a stranger's files may make a detector take is bounded before it is taken."""

import threading

import pytest
import torch
from torch import nn

from adkit import UserError
from adkit.detector.limits import SPARE, no_larger_than


def build():
    return nn.Linear(1024, SPARE // 4096 + 1, bias=False)  # the first that is too much beside nothing saved


def test_a_network_larger_than_what_was_saved_is_not_built():
    with no_larger_than(0), pytest.raises(UserError, match=r"of more than 67,108,864 bytes, of which 0 were saved"):
        build()


def test_a_network_of_the_saved_size_is_built():
    with no_larger_than(SPARE):
        build()


def test_other_threads_may_build_what_they_like():
    built = []
    with no_larger_than(0):
        thread = threading.Thread(target=lambda: built.append(build()))
        thread.start()
        thread.join()
    assert len(built) == 1


def test_nothing_is_bounded_afterwards():
    with pytest.raises(UserError), no_larger_than(0):
        build()
    build()


MAKERS = {
    "zeros": lambda size: torch.zeros(size),
    "ones": lambda size: torch.ones(1, size, dtype=torch.float32),
    "randn": lambda size: torch.randn((1, size)),
    "rand": lambda size: torch.rand(size=(size,)),
    "full": lambda size: torch.full((size,), 1.0),
    "empty": lambda size: torch.empty([size]),
}


@pytest.mark.parametrize("maker", MAKERS)
def test_a_tensor_larger_than_any_parameter_is_not_made(maker):
    """A terabyte: memory for it is never asked for."""
    with no_larger_than(0), pytest.raises(UserError, match=r"of more than 67,108,864 bytes, of which 0 were saved"):
        MAKERS[maker](2**38)


@pytest.mark.parametrize("maker", MAKERS)
def test_a_tensor_that_a_parameter_may_have_is_made(maker):
    with no_larger_than(0):
        assert MAKERS[maker](1000).numel() == 1000
