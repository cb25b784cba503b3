import pytest

from adkit.utils.text import counted, did_you_mean, missing, near, without_credentials


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("scorer", ["scorers", "adapter"], ["scorers"]),
        ("SCORER", ["Scorers"], ["Scorers"]),
        ("scorer", ["adapter", "data"], []),
        ("scorer", [], []),
    ],
)
def test_the_nearest_option_is_found_whatever_its_case(name, options, expected):
    assert near(name, options) == expected


def test_as_many_options_as_are_asked_for_come_the_nearest_first():
    assert near("layer1", ["layer", "layer12", "layer1"], most=2) == ["layer1", "layer12"]


def test_options_that_are_less_alike_than_asked_are_left_out():
    assert near("bad", ["bend"]) == []
    assert near("bad", ["bend"], likeness=0.5) == ["bend"]


def test_a_near_match_is_asked_for():
    assert did_you_mean("us", ["use"]) == " (did you mean use?)"


def test_nothing_is_asked_where_no_option_is_near():
    assert did_you_mean("k", ["metric"]) == ""


def test_what_is_missing_is_told_with_what_is_there():
    assert missing("brikc", ["brick", "grass"]) == "found brick, grass (did you mean brick?)"


def test_two_names_may_be_near_to_what_is_missing():
    assert missing("tile", ["tilers", "tiles", "zip"]) == "found tilers, tiles, zip (did you mean tiles or tilers?)"


def test_what_is_missing_where_nothing_is():
    assert missing("tile", []) == "found none"


@pytest.mark.parametrize(("number", "text"), [(0, "0 images"), (1, "1 image"), (2, "2 images"), (1000, "1,000 images")])
def test_a_noun_agrees_with_its_number(number, text):
    assert counted(number, "image") == text


def test_an_irregular_plural_is_given():
    assert [counted(number, "category", "categories") for number in (1, 2)] == ["1 category", "2 categories"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:secret@host:5000/mlflow", "http://host:5000/mlflow"),
        ("found 'http://me:se'cret@host'", "found 'http://host'"),
        ("postgresql://host/db?user=me&password=secret", "postgresql://host/db"),
        ("mssql+pyodbc:///?odbc_connect=PWD=secret and more", "mssql+pyodbc:/// and more"),
        ('log.mlflow="http://host?key=secret"', 'log.mlflow="http://host"'),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
    ],
)
def test_uris_are_shown_without_what_is_secret(text, shown):
    assert without_credentials(text) == shown
