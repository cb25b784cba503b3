"""What a recipe means once it is read, and what ``--set`` lays over it."""

import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import tomli_w

from adkit.plugin.registry import Origin, Registry
from adkit.recipe.reader import parse_toml, resolved
from tests.plugin.registries import COMPONENTS, registered
from tests.recipe.texts import FULL, SMALLEST, problems, read


def test_the_smallest_recipe_has_every_default():
    recipe = read(SMALLEST)
    assert (recipe.run.name, recipe.run.seed, recipe.run.device) == ("run", 0, "auto")
    assert (recipe.extractors[0].name, recipe.localizer.name, recipe.scorer_table.fit) == (
        "timm",
        "bilinear",
        "adapted",
    )
    assert (recipe.data.format, recipe.data.root) == ("mvtec", "images")
    assert recipe.threshold.false_positive_rate == 0.05
    assert recipe.adapter is recipe.training is recipe.stopper is recipe.auxiliary is None
    assert recipe.path is None


def test_a_full_recipe(tile):
    recipe = read(tile(FULL))
    assert recipe.path == Path("recipes/tile.toml")
    assert recipe.data.category == ("brick", "grass")
    assert recipe.extractors[0].params.levels == ("layer1", "layer2")
    assert recipe.adapter.params.strength == 1e4
    assert recipe.training.epochs == 250
    assert recipe.auxiliary.root == "outliers"
    assert (recipe.scorer.params.k, recipe.scorer_table.fit) == (5, "initial")
    assert str(recipe.scorer.registered.origin) == "handmade 1.0 (handmade.plugin)"


def test_the_name_of_a_run_is_the_files_stem(tile):
    assert read(tile("[data]\nroot = 'a'\n[scorer]\nuse = 'knn'\n")).run.name == "tile"


@pytest.mark.parametrize("source", [SMALLEST, tomllib.loads(FULL)])
def test_a_resolved_recipe_read_again_is_equal(source, tmp_path):
    recipe = read(source)
    path = tmp_path / "other-name.toml"
    path.write_text(tomli_w.dumps(resolved(recipe)))
    assert read(path) == recipe
    assert resolved(read(path)) == resolved(recipe)


def test_a_resolved_recipe_spells_every_default_out():
    assert resolved(read(SMALLEST))["scorer"] == {
        "use": "handmade:knn",
        "fit": "adapted",
        "k": 2,
        "metric": "l2",
        "index": "auto",
    }
    assert resolved(read(SMALLEST))["extractor"]["levels"] == ["layer2"]


def test_a_resolved_recipe_calls_built_in_components_by_their_bare_names():
    built_in = [replace(entry, origin=Origin("adkit-ignite", "1.0", "built_in")) for entry in COMPONENTS]
    assert resolved(read(SMALLEST, registry=Registry(built_in)))["scorer"]["use"] == "knn"


def test_a_qualified_name_asks_for_the_same_as_the_bare_one():
    assert read({**SMALLEST, "scorer": {"use": "handmade:knn"}}) == read(SMALLEST)


def test_components_of_one_name_make_recipes_differ():
    twin = registered("center", "scorer", origin=Origin("other", "2", "other.plugin"))
    registry = Registry((*COMPONENTS, twin))
    one, other = (
        read({**SMALLEST, "scorer": {"use": use}}, registry=registry) for use in ("handmade:center", "other:center")
    )
    assert one != other


def test_every_kind_of_field_survives_resolving(tmp_path):
    recipe = read({"data": {"root": "a"}, "scorer": {"use": "every", "where": "x/y", "union": [1, 2], "maybe": 3}})
    path = tmp_path / "every.toml"
    path.write_text(tomli_w.dumps(resolved(recipe)))
    assert read(path) == recipe


def test_python_values_are_taken_as_toml_would_write_them():
    recipe = read(
        {
            "run": {"name": None},
            "data": {"root": Path("a"), "category": ("x", "y")},
            "scorer": {"use": "knn"},
        }
    )
    assert (recipe.run.name, recipe.data.root, recipe.data.category) == ("run", "a", ("x", "y"))


def test_reading_leaves_the_mapping_as_it_was():
    source = {"data": {"root": "a"}, "scorer": {"use": "knn"}}
    read(source, "scorer.k=5", "run.seed=1")
    assert source == {"data": {"root": "a"}, "scorer": {"use": "knn"}}


# --set


@pytest.mark.parametrize(
    ("argument", "table", "key", "value"),
    [
        ("run.seed=5", "run", "seed", 5),
        ("data.root=foo", "data", "root", "foo"),
        ("data.root=a b=c", "data", "root", "a b=c"),
        ('data.root="5"', "data", "root", "5"),
        ("data.root=007", "data", "root", "007"),
        ('data.category=["x", "y"]', "data", "category", ("x", "y")),
        ("data.calibration=0", "data", "calibration", 0.0),
        ("data . 'root' = 'x'", "data", "root", "x"),
        ("threshold.false_positive_rate=1e-3", "threshold", "false_positive_rate", 0.001),
        ("data.root=1\nscorer.k = 2", "data", "root", "1\nscorer.k = 2"),
    ],
)
def test_set_takes_a_toml_value_or_a_bare_string(argument, table, key, value):
    assert getattr(getattr(read(SMALLEST, argument), table), key) == value


def test_set_overrides_the_file_and_the_last_one_wins(tile):
    recipe = read(tile(FULL), "scorer.k=1", "scorer.k=3")
    assert recipe.scorer.params.k == 3


def test_set_of_a_whole_table_replaces_it():
    assert read({**SMALLEST, "scorer": {"use": "knn", "k": 9}}, 'scorer={use="knn"}').scorer.params.k == 2


def test_a_problem_of_set_names_the_argument(tile):
    assert problems(tile(FULL), "scorer.k=0", 'threshold={false_positive_rate="x"}') == [
        "--set scorer.k=0: scorer.k: expected an integer of at least 1, found 0",
        '--set threshold={false_positive_rate="x"}: threshold.false_positive_rate: '
        'expected a number above 0 and below 1, found "x"',
    ]


def test_a_line_that_set_replaced_is_not_blamed(tile):
    assert problems(tile(FULL.replace("k = 5", "k = 0")), "scorer.k=-1") == [
        "--set scorer.k=-1: scorer.k: expected an integer of at least 1, found -1"
    ]


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        ("scorer.k", "expected key=value, such as scorer.k=5"),
        ("=5", "expected key=value, such as scorer.k=5"),
        ("scorer..k=5", "expected a dotted key before the equals sign, such as scorer.k, found 'scorer..k'"),
        ("data.root.x=5", "data.root is not a table in the recipe"),
        ("run.name=\udcff", "not UTF-8 text"),
    ],
)
def test_a_set_argument_that_cannot_be_laid_over(argument, reason):
    assert problems(SMALLEST, argument) == [f"--set {argument.encode(errors='backslashreplace').decode()}: {reason}"]


# What is imported


def test_a_syntax_error_is_found_before_torch_or_any_plugin_is_imported(tile):
    path = tile("[data\n")
    code = (
        "import sys\nfrom adkit.errors import UserError\nfrom adkit.recipe.reader import read_recipe\n"
        f"try:\n    read_recipe({str(path)!r})\nexcept UserError as error:\n    print(error)\n"
        "heavy = {'torch', 'timm', 'ignite', 'faiss', 'adkit_plugins', 'numpy'} & set(sys.modules)\n"
        "print(sorted(heavy))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "recipes/tile.toml:1:6: not valid TOML: expected ']' at the end of a table declaration",
        "[]",
    ]


def test_parse_toml_gives_the_values(tile):
    assert parse_toml(tile("[a]\nb = 1\n")) == {"a": {"b": 1}}
