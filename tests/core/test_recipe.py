import datetime
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from handmade import BROKEN, COMPONENTS, REGISTRY, EveryKind
from pydantic import Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from adkit.document import read_document
from adkit.errors import UserError
from adkit.params import Params
from adkit.plugins import Registry
from adkit.problems import check
from adkit.recipe import parse_toml, read_recipe, resolved

SMALLEST = {"data": {"root": "pictures"}, "scorer": {"use": "knn"}}
FULL = """\
[run]
name = "tile"
seed = 7
device = "cuda:1"
precision = "bfloat16"

[data]
format = "textures"
root = "data/textures"
category = ["brick", "grass"]

[extractor]
use = "timm"
levels = ["layer1", "layer2"]

[features]
neighbourhood = 3

[adapter]
use = "ewc"
strength = 1e4

[training]
learning_rate = 1e-6
epochs = 250

[stopper]
use = "fixed"

[auxiliary]
root = "outliers"
max_bad_share = 0

[scorer]
use = "knn"
fit = "initial"
k = 5

[localizer]
use = "bilinear"

[threshold]
false_positive_rate = 0.01
"""


def read(source, *overrides, registry=REGISTRY):
    return read_recipe(source, overrides, registry)


def problems(source, *overrides, registry=REGISTRY):
    with pytest.raises(UserError) as caught:
        read(source, *overrides, registry=registry)
    return list(caught.value.problems)


@pytest.fixture
def tile(tmp_path, monkeypatch):
    """Writes ``recipes/tile.toml`` below the working directory; its path."""
    monkeypatch.chdir(tmp_path)
    Path("recipes").mkdir()

    def write(text):
        path = Path("recipes/tile.toml")
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_the_smallest_recipe_has_every_default():
    recipe = read(SMALLEST)
    assert (recipe.run.name, recipe.run.seed, recipe.run.device) == ("run", 0, "auto")
    assert (recipe.extractors[0].name, recipe.localizer.name, recipe.scorer_fit) == (
        "timm",
        "bilinear",
        "adapted",
    )
    assert (recipe.data.format, recipe.data.root) == ("mvtec", "pictures")
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
    assert (recipe.scorer.params.k, recipe.scorer_fit) == (5, "initial")
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
        "use": "knn",
        "fit": "adapted",
        "k": 2,
        "metric": "l2",
        "index": "auto",
    }
    assert resolved(read(SMALLEST))["extractor"]["levels"] == ["layer2"]


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


# Problems


def test_every_problem_is_reported_at_once_in_the_order_of_the_lines(tile):
    path = tile(
        """\
seed = 3
[run]
seed = -1

[datas]
[data]
format = "mvtec"
calibration = 1.5
image_size = 1979-05-27

[scorer]
use = "knn"
k = 0
neighbors = 3
metric = "cos"

[localizer]
use = "bilinaer"

[training]
epochs = inf
"""
    )
    assert problems(path, "threshold.false_positive_rate=1") == [
        "recipes/tile.toml:1: seed: this key stands in no table; write it under [run]",
        "recipes/tile.toml:3: run.seed: expected an integer from 0 to 4294967295, found -1",
        "recipes/tile.toml:5: datas: unknown table; a recipe has [run], [data], [extractor], [features], "
        "[adapter], [training], [stopper], [auxiliary], [scorer], [localizer], [threshold] "
        "(did you mean data?)",
        "recipes/tile.toml:6: data.root: missing; expected a string, not empty: "
        "where the pictures lie, relative to the working directory",
        "recipes/tile.toml:8: data.calibration: expected a number from 0 to 0.9, found 1.5",
        "recipes/tile.toml:9: data.image_size: expected an integer from 8 to 8192, found a date",
        "recipes/tile.toml:13: scorer.k: expected an integer of at least 1, found 0",
        "recipes/tile.toml:14: scorer.neighbors: unknown key; knn takes k, metric, index (did you mean k?)",
        'recipes/tile.toml:15: scorer.metric: expected one of "l2", "cosine", found "cos"',
        'recipes/tile.toml:18: localizer.use: no localizer is named "bilinaer" (did you mean bilinear?); '
        "localizers here: bilinear",
        "recipes/tile.toml:20: training: needs an [adapter] table, without which nothing is trained: "
        "add one or remove [training]",
        "recipes/tile.toml:21: training.epochs: expected a number above 0, found inf",
        "--set threshold.false_positive_rate=1: threshold.false_positive_rate: "
        "expected a number above 0 and below 1, found 1",
    ]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[a]\nb = knn\n", "recipes/tile.toml:2:5: not valid TOML: invalid value; text needs quotes"),
        ("[a]\nb\n", "recipes/tile.toml:2:2: not valid TOML: expected '=' after a key in a key/value pair"),
        ("[a.b]\n[a.b]\n", "recipes/tile.toml:2:5: not valid TOML: cannot declare [a.b] twice"),
        ("a = 1\r\nb = [1,", "recipes/tile.toml:2:8: not valid TOML: unexpected end of"),
        ("a = " + "[" * 5000, "recipes/tile.toml: not valid TOML: its lists or tables are nested too deeply"),
        ("a = " + "9" * 5000, "recipes/tile.toml: not valid TOML: Exceeds the limit (4300 digits)"),
        (b"[run]\nname = 'K\xe4se'\n", "recipes/tile.toml:2: not UTF-8 text (found byte 0xe4): save"),
    ],
)
def test_a_file_that_is_not_toml(tile, text, sentence):
    (problem,) = problems(tile(text))
    if "unexpected end" in sentence:
        sentence = sentence.partition("unexpected")[0]
    assert problem.startswith(sentence)


def test_a_byte_order_mark_is_no_problem(tile):
    assert read(tile(b"\xef\xbb\xbf[data]\r\nroot = 'a'\r\n[scorer]\r\nuse = 'knn'\r\n")).data.root == "a"


def test_a_missing_file_names_its_near_match(tile):
    tile("")
    assert problems("recipes/tlie.toml") == ["recipes/tlie.toml: no such recipe (did you mean tile.toml?)"]


def test_a_folder_is_no_recipe(tile):
    tile("")
    assert problems("recipes") == ["recipes: a folder, not a recipe; recipes in it: tile.toml"]


def test_a_file_that_cannot_be_read(tmp_path):
    name = tmp_path / ("x" * 300)
    assert problems(name) == [f"{name}: the recipe cannot be read: File name too long"]


def test_an_empty_recipe_lacks_its_two_tables(tile):
    assert problems(tile("")) == [
        'recipes/tile.toml: data: missing; say where the pictures are: [data] with root = "folder"',
        "recipes/tile.toml: scorer.use: missing; name a scorer: center, every, knn",
    ]


def test_use_that_is_missing_stands_at_its_table(tile):
    assert problems(tile("[data]\nroot = 'a'\n[scorer]\nus = 1\n")) == [
        "recipes/tile.toml:3: scorer.use: missing; name a scorer: center, every, knn "
        "(did you mean use where it says us?)"
    ]


def test_an_adapter_without_use():
    assert problems({**SMALLEST, "adapter": {}}) == ["adapter.use: missing; name an adapter: ewc, plain"]


def test_use_of_another_type():
    assert problems({**SMALLEST, "scorer": {"use": 3}}) == [
        "scorer.use: expected the name of a scorer, found 3; scorers here: center, every, knn"
    ]


def test_a_component_that_failed_to_load_is_named_with_its_reason():
    registry = Registry(COMPONENTS, [BROKEN])
    assert problems({**SMALLEST, "scorer": {"use": "strange"}}, registry=registry) == [
        'scorer.use: no scorer is named "strange"; scorers here: center, every, knn; '
        "it may be in one of the plugins that are broken:\n  strange 0.1 "
        "(strange.plugin): could not be loaded: ImportError: no luck"
    ]


@pytest.mark.parametrize("table", ["training", "stopper", "auxiliary"])
def test_a_table_that_needs_an_adapter(table):
    content = {"stopper": {"use": "fixed"}, "auxiliary": {"root": "b"}}.get(table, {})
    assert problems({**SMALLEST, table: content}) == [
        f"{table}: needs an [adapter] table, without which nothing is trained: add one or remove [{table}]"
    ]
    assert read({**SMALLEST, table: content, "adapter": {"use": "plain"}}).adapter.name == "plain"


def test_fit_initial_needs_an_adapter():
    assert problems({**SMALLEST, "scorer": {"use": "knn", "fit": "initial"}}) == [
        "scorer.fit: needs an [adapter] table, without which nothing is trained: add one or remove this key"
    ]


def test_fit_of_another_value_is_reported_beside_the_parameters():
    assert problems({**SMALLEST, "scorer": {"use": "knn", "fit": "later", "k": 0}}) == [
        'scorer.fit: expected one of "adapted", "initial", found "later"',
        "scorer.k: expected an integer of at least 1, found 0",
    ]


def test_a_required_parameter_that_is_missing(tile):
    path = tile("[data]\nroot = 'a'\n[scorer]\nuse = 'knn'\n[adapter]\nuse = 'ewc'\n")
    assert problems(path) == [
        "recipes/tile.toml:5: adapter.strength: missing; expected a number above 0: weight of the penalty"
    ]


def test_two_lengths_of_training():
    source = {**SMALLEST, "adapter": {"use": "plain"}, "training": {"epochs": 2, "minibatches": 5}}
    assert problems(source) == ["training: expected minibatches or epochs, found both; remove one"]


@pytest.mark.parametrize("value", ["knn", 3, [{"use": "knn"}]])
def test_a_value_where_a_table_should_be(value):
    (problem,) = problems({**SMALLEST, "scorer": value})
    assert problem.startswith("scorer: expected a table, found ")
    assert problem.endswith(": write [scorer] on a line of its own")


def test_an_unknown_format_names_the_near_one():
    assert problems({**SMALLEST, "data": {"format": "mvtce", "root": "a"}}) == [
        'data.format: expected one of "mvtec", "folder", "classes", "arrays", "csv", "textures", '
        'found "mvtce" (did you mean mvtec?)'
    ]


def test_a_key_of_another_format_is_unknown():
    (problem,) = problems({**SMALLEST, "data": {"format": "folder", "root": "a", "category": "*"}})
    assert problem.startswith('data.category: unknown key; [data] of format "folder" takes format, root, resize')


def test_a_component_without_parameters_takes_no_keys():
    assert problems({**SMALLEST, "scorer": {"use": "center", "k": 1}}) == [
        "scorer.k: unknown key; center takes no keys"
    ]


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a\\b", ".hidden", " x", "a\nb", "a\0b"])
def test_a_run_name_that_is_no_safe_folder_name(name):
    (problem,) = problems({**SMALLEST, "run": {"name": name}})
    assert problem.startswith('run.name: expected a folder name, such as "tile": no slash, no dot or space')


@pytest.mark.parametrize("name", ["tile", "tile.v2", "größe 2", "瓷砖", "a"])
def test_a_run_name_that_is_safe(name):
    assert read({**SMALLEST, "run": {"name": name}}).run.name == name


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


# Sentences for every pydantic error

POOL = [
    *(0, 1, 3, 10, -1, 2**70, 0.5, 1.5, 2.0, float("inf"), float("nan"), True, False),
    *("", "x", "a1", "A1", "word too long", "one", "only", "*"),
    *([], [1], [1, 2], [1, 2.0], [1, "x"], ["x"], ["x", "x"], ["x"] * 4, [[1]], [-1], [True]),
    *({}, {"k": 0}, {"k": 1, "z": 1}, {"x": "y"}),
    *(datetime.date(2020, 1, 1), datetime.datetime(2020, 1, 1), datetime.time(1), [datetime.time(1)]),
    *(np.float32(1), object(), {"x": datetime.time(1)}),
]
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
    assert problems(source) == ["data.root: expected a string, not empty, found text that is not UTF-8"]


# What is imported


def test_a_syntax_error_is_found_before_torch_or_any_plugin_is_imported(tile):
    path = tile("[data\n")
    code = (
        "import sys\nfrom adkit.errors import UserError\nfrom adkit.recipe import read_recipe\n"
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


def test_keys_that_auxiliary_pictures_cannot_use_are_refused():
    tables = {
        **SMALLEST,
        "adapter": {"use": "ewc", "strength": 1.0},
        "auxiliary": {"root": "b", "image_size": 8, "calibration": 0.5},
    }
    assert [text.partition(":")[0] for text in problems(tables)] == ["auxiliary.image_size", "auxiliary.calibration"]


def test_folds_of_the_run_and_of_the_threshold_are_refused_together():
    tables = {**SMALLEST, "run": {"folds": 5}, "threshold": {"method": "cross"}}
    (problem,) = problems(tables)
    assert 'run.folds: expected 1 beside threshold.method = "cross"' in problem
