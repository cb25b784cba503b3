"""Sentences for every pydantic error."""

import datetime
import json
import re
from pathlib import Path

import pytest
from pydantic import Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from adkit.errors import UserError
from adkit.plugin.params import Params
from adkit.recipe.document import read_document
from adkit.recipe.problems import check
from tests.plugin.registries import POOL, EveryKind
from tests.recipe.texts import SMALLEST, problems

SENTENCE = re.compile(r"expected (an?|true|one|\"|\d).+, found .+|unknown key; .+|missing; expected .+")
JARGON = re.compile(r"pydantic|Input|https?:|validation|JSON|NoneType|tuple|Error|<|>|\bint\b|\bstr\b")


@pytest.mark.parametrize("field", EveryKind.model_fields)
def test_no_value_of_any_field_leaks_jargon(field):
    for value in POOL:
        checked, faults = check(EveryKind, read_document({field: value}).values, "every")
        assert (checked is None) == bool(faults)
        for fault in faults:
            assert fault.path[0] == field
            assert SENTENCE.fullmatch(fault.sentence), fault.sentence
            assert not JARGON.search(fault.sentence), fault.sentence


def test_the_pool_provokes_every_error_that_toml_values_can():
    types = set()
    for field in EveryKind.model_fields:
        for value in POOL[:-7]:
            try:
                EveryKind.model_validate_json(json.dumps({field: value, "unknown": 1}))
            except ValidationError as error:
                types |= {detail["type"] for detail in error.errors()}
    assert types >= {
        *("int_type", "float_type", "string_type", "bool_type", "tuple_type", "list_type"),
        *("frozen_set_type", "dict_type", "model_type", "literal_error", "extra_forbidden", "missing"),
        *("greater_than", "greater_than_equal", "less_than", "less_than_equal", "multiple_of"),
        *("finite_number", "string_too_short", "string_too_long", "string_pattern_mismatch"),
        *("too_short", "too_long"),
    }


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("whole", True, "expected an integer from 1 to 9, found true"),
        ("whole", 2.0, "expected an integer from 1 to 9, found 2.0"),
        ("even", 3, "expected an integer, a multiple of 2, found 3"),
        ("share", 1, "expected a number above 0 and below 1, found 1"),
        ("free", float("nan"), "expected a number, found nan"),
        ("flag", 1, "expected true or false, found 1"),
        ("word", "too long a word", 'expected a string of 1 to 8 characters, found "too long a word"'),
        ("word", "x" * 99, f'expected a string of 1 to 8 characters, found "{"x" * 56}…'),
        ("code", "A1", 'expected a string that matches ^[a-z][0-9]$, found "A1"'),
        ("choice", "four", 'expected one of "one", "two", 3, found "four"'),
        ("single", "no", 'expected "only", found "no"'),
        ("where", 3, "expected a path, found 3"),
        ("words", ["a", 1], "expected a list of 1 to 3 strings, found 1 as item 2"),
        ("words", [], "expected a list of 1 to 3 strings, found []"),
        ("pair", [1], "expected a list of 2: an integer, a number, found [1]"),
        ("size", [1, "x"], 'expected a list of 2 integers, found "x" as item 2'),
        ("several", [0, -1], "expected a list of integers of at least 0, found -1 as item 2"),
        ("unique", "x", 'expected a list of strings, found "x"'),
        ("union", "x", 'expected an integer, a list of integers or "*", found "x"'),
        ("long", "", 'expected a string or a list of strings, not empty, found ""'),
        ("maybe", 0, "expected an integer of at least 1, found 0"),
        ("table", 3, "expected a table, found 3"),
        ("words", [datetime.date(2020, 1, 1)], "expected a list of 1 to 3 strings, found a date as item 1"),
    ],
)
def test_sentence(field, value, sentence):
    _, (fault,) = check(EveryKind, {field: value}, "every")
    assert (fault.path, fault.sentence) == ((field,), sentence)


def test_a_problem_inside_a_nested_table_has_its_whole_key():
    source = {**SMALLEST, "scorer": {"use": "every", "nested": {"k": 0, "kk": 1}}}
    assert problems(source) == [
        "scorer.nested.k: expected an integer of at least 1, found 0",
        "scorer.nested.kk: unknown key; nested takes k, metric, index (did you mean k?)",
    ]


class Opinionated(Params):
    odd: int = Field(1, description="a")
    pair: int | tuple[int, ...] = Field(1, description="b")
    custom: int = Field(1, description="c")

    @field_validator("odd", "pair")
    @classmethod
    def _check(cls, value):
        if value in (2, (2,)):
            raise ValueError("expected an odd number, found 2")
        if value == 4:
            raise AssertionError("four is taken")
        return value

    @field_validator("custom")
    @classmethod
    def _custom(cls, value):
        if value == 2:
            raise PydanticCustomError("mine", "two of {what}", {"what": "them"})
        if value == 3:
            raise UserError("three is not for you")
        return value


@pytest.mark.parametrize(
    ("field", "value", "path", "sentence"),
    [
        ("odd", 2, ("odd",), "expected an odd number, found 2"),
        ("odd", 4, ("odd",), "four is taken"),
        ("pair", [2], ("pair",), "expected an odd number, found 2"),
        ("custom", 2, ("custom",), "two of them"),
        ("custom", 3, (), "three is not for you"),
    ],
)
def test_a_validators_own_sentence_is_kept(field, value, path, sentence):
    _, faults = check(Opinionated, {field: value}, "it")
    assert [(fault.path, fault.sentence) for fault in faults] == [(path, sentence)]


def test_a_path_that_is_no_text():
    source = {"data": {"root": Path("a\udcff")}, "scorer": {"use": "knn"}}
    assert problems(source) == ['data.root: expected a string such as "path/to/images", found text that is not UTF-8']
