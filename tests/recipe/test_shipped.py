"""Recipes that ship with adkit are found by name, after files of the user's."""

import re
import tomllib
from pathlib import Path

import pytest

from adkit.errors import UserError
from adkit.recipe import shipped
from adkit.recipe.document import parse_toml, read_document
from adkit.recipe.reader import read_recipe
from adkit.recipe.shipped import ShippedRecipe, find_recipe, shipped_recipe, shipped_recipes

FOLDER = Path(__file__).parents[2] / "recipes"
FILES = {path.relative_to(FOLDER).with_suffix("").as_posix(): path for path in FOLDER.rglob("*.toml")}
PAPERS = [name for name in FILES if name.startswith("papers/")]
LISTED = "adkit recipes lists those that ship with adkit"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def problem(name):
    with pytest.raises(UserError) as caught:
        parse_toml(name)
    (sentence,) = caught.value.problems
    return sentence


def test_every_recipe_of_the_repository_ships_those_of_papers_last():
    names = [recipe.name for recipe in shipped_recipes()]
    assert names == sorted(FILES, key=lambda name: (name.startswith("papers/"), name)), (
        "adkit/recipe/shipped.py lists what is in recipes/, which pyproject.toml installs as adkit_recipes"
    )


@pytest.mark.parametrize("name", FILES)
def test_a_name_gives_what_the_file_has(name):
    assert read_document(name).values == tomllib.loads(FILES[name].read_text(encoding="utf-8"))


@pytest.mark.parametrize("recipe", shipped_recipes(), ids=str)
def test_the_first_line_of_its_comment_is_a_sentence_on_it(recipe):
    assert FILES[recipe.name].read_text(encoding="utf-8").splitlines()[1] == f"# {recipe.summary}", (
        f"recipes/{recipe.name}.toml: the second line is the sentence that `adkit recipes` shows"
    )
    assert re.fullmatch(r"[A-Z].{20,120}\.", recipe.summary)


def test_its_run_is_called_by_the_name_without_the_folder():
    assert read_recipe("padim").run.name == "padim"
    assert read_recipe("papers/spade-mvtec").run.name == "spade-mvtec"


def test_a_path_is_as_good_as_its_text():
    assert find_recipe(Path("papers/spade-mvtec")) == ShippedRecipe("papers/spade-mvtec")


@pytest.mark.parametrize("file", ["padim", "padim.toml"])
def test_a_file_of_that_name_wins(here, file):
    (here / file).write_text("[own]\nkey = 1\n")
    assert parse_toml("padim") == {"own": {"key": 1}}
    assert read_document("padim").path == Path(file)


def test_a_folder_of_that_name_is_no_file(here):
    (here / "padim").mkdir()
    assert find_recipe(Path("padim")) == ShippedRecipe("padim")


def test_a_recipe_of_the_users_own_needs_no_suffix(here):
    (here / "tile.toml").write_text("[own]\nkey = 1\n")
    assert parse_toml("tile") == {"own": {"key": 1}}


def test_a_problem_says_that_the_line_is_of_a_shipped_recipe():
    text = read_document("padim").problem(("data", "root"), "not there").text
    line = FILES["padim"].read_text(encoding="utf-8").splitlines().index('root = "data/mvtec"') + 1
    assert text == f"padim.toml (shipped with adkit):{line}: data.root: not there"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("padmi", "padim"),
        ("Padim", "padim"),
        ("padim.toml", "padim"),
        ("recipes/padim.toml", "padim"),
        ("../recipes/papers/spade-mvtec.toml", "papers/spade-mvtec"),
        ("papers/panda-early", "papers/panda-early-cifar10"),
        *((name.removeprefix("papers/"), name) for name in PAPERS),
    ],
)
def test_a_name_that_is_not_there_is_told_with_the_one_that_is_near(name, meant):
    assert problem(name) == f"{name}: no such recipe (did you mean {meant}?); {LISTED}"


def test_a_name_like_no_other_is_told_where_the_names_are():
    assert problem("zzz") == f"zzz: no such recipe; {LISTED}"


def test_a_near_file_of_the_users_own_goes_before(here):
    (here / "tile.toml").touch()
    (here / "padim2.toml").touch()
    assert problem("tlie") == "tlie: no such recipe (did you mean tile.toml?)"
    assert problem("padim.tom") == f"padim.tom: no such recipe (did you mean padim?); {LISTED}"


def test_what_is_to_be_printed_is_a_name_and_no_file(here):
    (here / "tile.toml").touch()
    with pytest.raises(UserError) as caught:
        shipped_recipe("tile")
    assert str(caught.value) == f"tile: no such recipe; {LISTED}"


def test_without_its_package_the_sentence_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(shipped, "PACKAGE", "adkit_recipes_that_are_not_there")
    assert problem("padim").endswith("install adkit with pip, which brings them: pip install adkit-ignite")
