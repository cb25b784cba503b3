"""Scripted values: which states are kept, when it stops, and what it says."""

from math import nan

import pytest

from adkit.plugin import Progress
from adkit.toolkit.patience import Patience


def course(patience, values, first=0):
    """The verdicts on one value per epoch; None where there was none."""
    return [
        patience.judge(Progress(10 * epoch, float(epoch), None), value, "no value")
        for epoch, value in enumerate(values, start=first)
    ]


def kept(verdicts):
    return [verdict.keep for verdict in verdicts]


def test_states_better_than_all_before_are_kept():
    verdicts = course(Patience("AUROC", 9), [0.5, 0.6, 0.55, 0.6, 0.61])
    assert kept(verdicts) == [True, True, False, False, True]


def test_lower_may_be_better():
    verdicts = course(Patience("loss", 9, lower_is_better=True), [5.0, 6.0, 4.0, 4.0, -1.0])
    assert kept(verdicts) == [True, False, True, False, True]


def test_better_means_by_more_than_min_delta():
    verdicts = course(Patience("AUROC", 9, min_delta=0.25), [0.0, 0.25, 0.5, 0.75])
    assert kept(verdicts) == [True, False, True, False]


def test_it_stops_at_the_check_that_exhausts_patience():
    verdicts = course(Patience("AUROC", 2), [0.5, 0.6, 0.6, 0.4])
    assert [verdict.stop for verdict in verdicts] == [False, False, False, True]


def test_an_improvement_restores_patience():
    verdicts = course(Patience("AUROC", 2), [0.5, 0.4, 0.6, 0.5, 0.7, 0.6])
    assert not any(verdict.stop for verdict in verdicts)


def test_a_collapse_leaves_the_starting_state_the_best():
    assert kept(course(Patience("AUROC", 3), [0.9, 0.5, 0.4, 0.3])) == [True, False, False, False]


def test_no_value_is_worse_than_any():
    verdicts = course(Patience("loss", 9, lower_is_better=True), [1e30, None, 1e29])
    assert kept(verdicts) == [True, False, True]
    assert verdicts[1].value is None


def test_the_first_state_is_kept_even_without_a_value_and_any_value_beats_it():
    assert kept(course(Patience("AUROC", 9), [None, None, 0.0])) == [True, False, True]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([0.95], "AUROC 0.95 before the first step, the best so far"),
        ([0.5, 0.9441], "AUROC 0.9441 after epoch 1, the best so far"),
        ([0.95, 0.931], "AUROC 0.931 after epoch 1, best 0.95 before the first step"),
        ([0.5, 0.944, 0.6], "AUROC 0.6 after epoch 2, best 0.944 after epoch 1"),
        (
            [0.5, 0.944, 0.6, 0.7],
            "AUROC 0.7 after epoch 3, best 0.944 after epoch 1, none better in 2 checks",
        ),
        ([0.95, None], "no value after epoch 1, best 0.95 before the first step"),
        ([None, None], "no value after epoch 1, best before the first step"),
    ],
)
def test_reasons_are_sentences(values, reason):
    assert course(Patience("AUROC", 2), values)[-1].reason == reason


def test_one_check_is_no_plural():
    assert course(Patience("AUROC", 1), [0.9, 0.5])[-1].reason.endswith("none better in 1 check")


def test_a_part_of_an_epoch_is_said_so():
    verdict = Patience("AUROC", 2).judge(Progress(7, 7 / 3, 0.1), 0.5)
    assert verdict.reason == "AUROC 0.5 after epoch 2.33, the best so far"


def test_lower_values_are_shown_as_they_are():
    last = course(Patience("loss", 2, lower_is_better=True), [3.0, 4.0])[-1]
    assert (last.value, last.reason) == (4.0, "loss 4 after epoch 1, best 3 before the first step")


@pytest.mark.parametrize("lower_is_better", [False, True])
@pytest.mark.parametrize("interrupted_after", range(6))
def test_one_restored_from_its_state_goes_on_alike(lower_is_better, interrupted_after):
    values = [0.5, 0.7, None, 0.6, 0.8, 0.4, 0.3, 0.3]

    def fresh():
        return Patience("value", 3, lower_is_better)

    before, after = fresh(), fresh()
    course(before, values[:interrupted_after])
    after.load_state_dict(before.state_dict())
    rest = course(after, values[interrupted_after:], first=interrupted_after)
    assert rest == course(fresh(), values)[interrupted_after:]


def test_its_state_is_numbers():
    patience = Patience("AUROC", 2)
    assert patience.state_dict() == {}
    course(patience, [0.5, 0.75, 0.7])
    assert patience.state_dict() == {"best": 0.75, "best_epochs": 1.0, "waited": 1.0}


def test_an_empty_state_forgets():
    patience = Patience("AUROC", 2)
    course(patience, [0.9])
    patience.load_state_dict({})
    assert kept(course(patience, [0.1])) == [True]


def test_a_value_that_is_no_number_is_never_kept_over_one():
    assert kept(course(Patience("AUROC", 9), [0.5, nan])) == [True, False]
