"""Memory that ran out is told as that, whichever library it was that asked for more."""

import numpy as np
import pytest
import torch

import adkit
from adkit import UserError
from adkit.errors import OutOfMemoryError, PluginError, exhausted, out_of_memory
from adkit.plugin.guard import blaming
from tests.plugin.registries import install

SENTENCE = (
    ": expected enough memory, found too little{}: lower data.batch_size, data.image_size or the number of levels, or "
    "end other programs"
)
GREEDY = """
import torch
from adkit.plugin import Component, Params, Scorer, Scores, hookimpl


class Greedy(Scorer):
    def fit(self, stream):
        torch.empty(2**50)

    def score(self, features):
        return Scores(torch.zeros(features.count))

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        assert not state


@hookimpl
def adkit_scorers():
    return [Component.scorer("greedy", Params, Greedy)]
"""


def raised(make):
    with pytest.raises((MemoryError, RuntimeError)) as error:
        make()
    return error.value


@pytest.mark.parametrize(
    ("make", "amount"),
    [
        (lambda: torch.empty(2**50), " for 4,503,599.6 GB"),
        (lambda: np.empty(2**50), " for 8.00 PiB"),
        (lambda: bytearray(2**60), ""),
    ],
    ids=["torch", "numpy", "python"],
)
def test_what_was_asked_for_is_told(make, amount):
    error = raised(make)
    assert exhausted(error)
    assert str(out_of_memory("fit", error)) == "fit" + SENTENCE.format(amount)


def test_other_errors_are_others():
    assert not exhausted(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_an_error_that_memory_caused_is_one_of_memory():
    error = ValueError("no result")
    error.__cause__ = MemoryError()
    assert exhausted(error)


def test_a_plugin_that_finds_too_little_memory_is_not_at_fault():
    with pytest.raises(OutOfMemoryError) as error, blaming("scorer mine of mine 1.0 (mine)", "fit"):
        torch.empty(2**50)
    assert str(error.value).startswith("scorer mine of mine 1.0 (mine): fit: expected enough memory")


def test_a_run_that_finds_too_little_memory_ends_in_a_sentence(small_recipe, tmp_path, monkeypatch):
    install(tmp_path, "greedy", GREEDY)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError) as error:
        adkit.run(small_recipe | {"scorer": {"use": "greedy"}})
    amount = SENTENCE.format(" for 4,503,599.6 GB")
    assert str(error.value) == f"scorer greedy of greedy 1.0 (greedy_plugin): fit{amount}"


def test_a_plugin_that_speaks_of_memory_has_not_run_out_of_it():
    assert not exhausted(RuntimeError("not enough memory bank rows: expected k = 5"))
    with pytest.raises(PluginError) as error, blaming("scorer mine of mine 1.0 (mine)", "fit"):
        raise ValueError("CUDA out of memory bank rows")
    assert not exhausted(error.value)
