import pytest

from adkit.utils.text import counted


@pytest.mark.parametrize(("number", "text"), [(0, "0 images"), (1, "1 image"), (2, "2 images"), (1000, "1,000 images")])
def test_a_noun_agrees_with_its_number(number, text):
    assert counted(number, "image") == text


def test_an_irregular_plural_is_given():
    assert [counted(number, "category", "categories") for number in (1, 2)] == ["1 category", "2 categories"]
