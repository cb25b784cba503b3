from math import exp, log, log1p, sqrt

import pytest
import torch
from adkit_plugins.adapters.fcdd import NEAR_ZERO, pseudo_huber, repelled


@pytest.mark.parametrize("square", [0.0, 3.0, 1e8])
def test_pseudo_huber_by_hand(square):
    assert pseudo_huber(torch.tensor(square)).item() == pytest.approx(sqrt(square + 1) - 1)


def test_pseudo_huber_of_a_small_square_does_not_cancel():
    assert pseudo_huber(torch.tensor(2e-10)).item() == pytest.approx(1e-10)


@pytest.mark.parametrize("h", [0.01, 0.5, 0.699, 0.701, 2.0])
def test_what_an_anomaly_costs_by_hand(h):
    assert repelled(torch.tensor(h)).item() == pytest.approx(-log(1 - exp(-h - NEAR_ZERO)), rel=1e-5)


def test_far_away_an_anomaly_costs_next_to_nothing_but_not_zero():
    assert repelled(torch.tensor(30.0)).item() == pytest.approx(-log1p(-exp(-30)), rel=1e-4)


@pytest.mark.parametrize("z", [0.0, 1e-30, 1e-3, 1.0, 100.0, 1e5])
def test_the_gradient_is_finite_and_drives_away(z):
    leaf = torch.tensor(z, requires_grad=True)
    cost = repelled(pseudo_huber(leaf.square()))
    cost.backward()
    assert cost.isfinite() and leaf.grad.isfinite() and leaf.grad <= 0


def test_the_gradient_is_that_of_the_formula():
    leaf = torch.tensor([0.3, 1.7], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(repelled, leaf)
    (gradient,) = torch.autograd.grad(repelled(leaf).sum(), leaf)
    torch.testing.assert_close(gradient, -1 / (leaf.detach() + NEAR_ZERO).expm1())
