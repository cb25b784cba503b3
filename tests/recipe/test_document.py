"""Problems that only the data or a component can find still say where in the recipe they are."""

import pytest

from adkit import UserError
from adkit.recipe.document import read_document


@pytest.fixture
def document(tmp_path):
    path = tmp_path / "tile.toml"
    path.write_text('[data]\nroot = "nowhere"\n\n[scorer]\nuse = "knn"\nk = 9\n')
    return read_document(path)


def located(document, sentence, table=None):
    with pytest.raises(UserError) as error, document.locating(table, ("root", "normal")):
        raise UserError(sentence)
    return str(error.value).replace(str(document.path), "tile.toml")


def test_a_dotted_key_gets_its_line(document):
    assert located(document, "scorer.k: expected fewer") == "tile.toml:6: scorer.k: expected fewer"


def test_a_bare_key_of_a_table_gets_its_line(document):
    assert located(document, "root: not there", "data") == "tile.toml:2: data.root: not there"


def test_a_key_left_to_its_default_gets_the_line_of_its_table(document):
    assert located(document, "scorer.metric: no") == "tile.toml:4: scorer.metric: no"


def test_a_sentence_about_no_key_stays_as_it_is(document):
    assert located(document, "3 of 4 images cannot be read") == "3 of 4 images cannot be read"


def test_a_path_is_not_taken_for_a_key(document):
    assert located(document, "crack/1.png: broken") == "crack/1.png: broken"


def test_a_category_that_is_called_like_no_key_is_not_taken_for_one(document):
    assert located(document, "parts: expected images", "data") == "parts: expected images"
