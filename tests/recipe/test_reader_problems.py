"""What is wrong with a recipe, each with its place."""

import pytest

from adkit.plugin.registry import Registry
from tests.plugin.registries import BROKEN, COMPONENTS
from tests.recipe.texts import SMALLEST, problems, read


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
        "recipes/tile.toml:1: seed: this key is in no table; write it under [run]",
        "recipes/tile.toml:3: run.seed: expected an integer from 0 to 4294967295, found -1",
        "recipes/tile.toml:5: datas: unknown table; a recipe has [run], [data], [extractor], [features], "
        "[adapter], [training], [stopper], [auxiliary], [scorer], [localizer], [threshold], [log], [sweep] "
        "(did you mean data?)",
        'recipes/tile.toml:6: data.root: missing; expected a string such as "path/to/images": '
        "where the images are, relative to the working directory",
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
        'recipes/tile.toml: data: missing; say where the images are: [data] with root = "folder"',
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


@pytest.mark.parametrize(
    ("name", "key", "homes"),
    [
        ("mvtec", "masks", "format folder"),
        ("mvtec", "normal", "formats folder, classes and arrays"),
        ("folder", "category", "formats mvtec and textures"),
        ("csv", "normal", "formats folder, classes and arrays"),
        ("classes", "test_normal", "format folder"),
    ],
)
def test_a_key_of_another_format_says_whose_it_is(name, key, homes):
    given = {"root": "a"} | ({"normal": "cat"} if name == "classes" else {})
    (problem,) = problems({**SMALLEST, "data": {"format": name, **given, key: "x"}})
    assert problem.startswith(f'data.{key}: unknown key; [data] of format "{name}" takes format, root, resize')
    assert problem.endswith(f" ({key} belongs to {homes})")


def test_a_key_of_another_format_hides_no_other_problem(tile):
    path = tile("[data]\nroot = ''\nmasks = 1\ncrops = 8\n[scorer]\nuse = 'knn'\n")
    assert [text.split(";")[0].split(",")[0] for text in problems(path)] == [
        'recipes/tile.toml:2: data.root: expected a string such as "path/to/images"',
        "recipes/tile.toml:3: data.masks: unknown key",
        "recipes/tile.toml:4: data.crops: unknown key",
    ]
    assert problems(path)[2].endswith("(did you mean crop?)")


def test_auxiliary_images_say_whose_a_key_is_too():
    (problem,) = problems(
        {**SMALLEST, "adapter": {"use": "plain"}, "auxiliary": {"format": "csv", "root": "b", "category": "*"}}
    )
    assert problem.endswith("(category belongs to formats mvtec and textures)")


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


def test_keys_that_auxiliary_images_cannot_use_are_refused():
    tables = {
        **SMALLEST,
        "adapter": {"use": "ewc", "strength": 1.0},
        "auxiliary": {"root": "b", "image_size": 8, "calibration": 0.5},
    }
    assert [text.partition(":")[0] for text in problems(tables)] == ["auxiliary.image_size", "auxiliary.calibration"]


def test_folds_of_the_run_and_of_the_threshold_are_refused_together():
    tables = {**SMALLEST, "run": {"folds": 5}, "threshold": {"method": "cross"}}
    (problem,) = problems(tables)
    assert 'run.folds: expected 1 with threshold.method = "cross"' in problem
