"""Rows that are lines, and cells that are no formulas and give their texts back."""

import csv
import io

import pytest

from adkit.utils.table import cell, content, row_writer


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("=1+1.png", "'=1+1.png"),
        ("+1.png", "'+1.png"),
        ("-1.png", "'-1.png"),
        ("@SUM(A1).png", "'@SUM(A1).png"),
        ("\uff1dcmd", "'\uff1dcmd"),
        ("'quoted'", "''quoted'"),
        ("'=1", "''=1"),
        ("a=1", "a=1"),
        ("-", "'-"),
        ("-1e", "'-1e"),
        ("", ""),
    ],
)
def test_what_would_be_a_formula_is_text_and_comes_back(text, written):
    assert cell(text) == written
    assert content(written) == text


@pytest.mark.parametrize("number", ["-1", "+0.5", "-1.25e-07", "-.5", "-inf", "nan", "-3."])
def test_a_number_stays_a_number(number):
    assert cell(number) == number


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, ""),
        (True, "1"),
        (False, "0"),
        (-1.5, "-1.5"),
        (1 / 3, "0.333333333"),
        (-7, "-7"),
        ([{"x": 1}], '[{"x": 1}]'),
    ],
)
def test_values_that_are_no_text(value, written):
    assert cell(value) == written


def test_a_row_is_a_line_whatever_is_in_it():
    file = io.StringIO(newline="")
    write = row_writer(file)
    write(["a\rb\nc\u2028d\x85e\x0bf", 'x"y', "a,b"])
    assert file.getvalue() == 'a\\x0db\\x0ac\\xe2\\x80\\xa8d\\xc2\\x85e\\x0bf,"x""y","a,b"\n'
    assert len(file.getvalue().splitlines()) == 1
    assert next(csv.reader([file.getvalue()]))[1:] == ['x"y', "a,b"]
