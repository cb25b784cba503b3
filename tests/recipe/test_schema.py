import json
from tomllib import loads

import jsonschema
import pytest

from adkit.errors import UserError
from adkit.plugin.params import model_schema
from adkit.plugin.registry import Origin, Registry, discover
from adkit.recipe.problems import check
from adkit.recipe.reader import read_recipe, resolved
from adkit.recipe.schema import recipe_schema
from tests.plugin.registries import COMPONENTS, POOL, REGISTRY, EveryKind, EwcParams, registered
from tests.recipe.texts import FULL, SMALLEST

SCHEMA = recipe_schema(REGISTRY)
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)


def accepted(source):
    try:
        read_recipe(source, (), REGISTRY)
    except UserError:
        return False
    return True


def test_it_is_a_draft_07_schema_that_json_can_hold():
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA


def test_it_holds_nothing_that_draft_07_does_not_know():
    text = json.dumps(recipe_schema(discover()))
    for newer in ("$ref", "$defs", "prefixItems", '"null"', "dependentRequired", "unevaluated"):
        assert newer not in text


GOOD = [
    SMALLEST,
    loads(FULL),
    resolved(read_recipe(loads(FULL), (), REGISTRY)),
    resolved(read_recipe(SMALLEST, (), REGISTRY)),
    {**SMALLEST, "extractor": {}, "localizer": {}},
    {**SMALLEST, "scorer": {"use": "handmade:knn", "k": 3}},
    {**SMALLEST, "extractor": {"use": "handmade:timm", "backbone": "resnet18"}},
    {**SMALLEST, "extractor": {"backbone": "resnet18"}},
    {**SMALLEST, "data": {"format": "textures"}},
    {**SMALLEST, "data": {"format": "classes", "root": "a", "normal": ["cat", "dog"]}},
    {**SMALLEST, "adapter": {"use": "plain"}, "scorer": {"use": "center", "fit": "initial"}},
]
BAD = [
    {},
    {"data": {"root": "a"}},
    {"scorer": {"use": "knn"}},
    {**SMALLEST, "seed": 1},
    {**SMALLEST, "scorers": {}},
    {**SMALLEST, "data": {}},
    {**SMALLEST, "data": {"format": "csv", "root": "a", "category": "*"}},
    {**SMALLEST, "data": {"format": "cvs", "root": "a"}},
    {**SMALLEST, "data": {"format": "classes", "root": "a"}},
    {**SMALLEST, "data": [{"root": "a"}]},
    {**SMALLEST, "scorer": {}},
    {**SMALLEST, "scorer": {"use": "nkn"}},
    {**SMALLEST, "scorer": {"use": "other:knn"}},
    {**SMALLEST, "scorer": {"use": "handmade:knn", "k": 0}},
    {**SMALLEST, "scorer": {"use": "knn", "k": 0}},
    {**SMALLEST, "scorer": {"use": "knn", "k": "2"}},
    {**SMALLEST, "scorer": {"use": "knn", "neighbors": 2}},
    {**SMALLEST, "scorer": {"use": "center", "k": 2}},
    {**SMALLEST, "scorer": {"use": "knn", "fit": "later"}},
    {**SMALLEST, "scorer": {"use": "knn", "fit": "initial"}},
    {**SMALLEST, "localizer": {"use": "knn"}},
    {**SMALLEST, "adapter": {}},
    {**SMALLEST, "adapter": {"use": "ewc"}},
    {**SMALLEST, "training": {}},
    {**SMALLEST, "stopper": {"use": "fixed"}},
    {**SMALLEST, "auxiliary": {"root": "b"}},
    {**SMALLEST, "adapter": {"use": "plain"}, "training": {"epochs": 1, "minibatches": 1}},
    {**SMALLEST, "run": {"name": "a/b"}},
    {**SMALLEST, "run": {"device": "gpu"}},
    {**SMALLEST, "threshold": {"false_positive_rate": 1}},
    {**SMALLEST, "features": {"combine": "sum"}},
]


@pytest.mark.parametrize("source", GOOD)
def test_a_recipe_that_is_read_is_valid(source):
    assert accepted(source)
    assert VALIDATOR.is_valid(source), list(VALIDATOR.iter_errors(source))


@pytest.mark.parametrize("source", BAD)
def test_a_recipe_that_is_not_read_is_not_valid(source):
    assert not accepted(source)
    assert not VALIDATOR.is_valid(source)


@pytest.mark.parametrize("field", EveryKind.model_fields)
def test_a_value_that_a_field_takes_is_valid(field):
    validator = jsonschema.Draft7Validator(model_schema(EveryKind))
    taken = [value for value in POOL if check(EveryKind, {field: value}, "every")[0] is not None]
    assert taken
    assert all(validator.is_valid({field: value}) for value in taken)


def test_components_and_keys_are_described_with_range_and_default():
    knn = next(
        branch for branch in SCHEMA["properties"]["scorer"]["oneOf"] if "knn" in branch["properties"]["use"]["enum"]
    )
    assert knn["properties"]["k"] == {
        "type": "integer",
        "minimum": 1,
        "default": 2,
        "description": "neighbors whose distances are averaged",
    }
    assert SCHEMA["properties"]["scorer"]["properties"]["use"]["enum"][:3] == ["center", "every", "knn"]
    assert SCHEMA["properties"]["extractor"]["properties"]["use"]["default"] == "timm"


def test_a_kind_without_components_allows_no_table():
    nothing = recipe_schema(Registry(entry for entry in COMPONENTS if entry.component.kind != "stopper"))
    source = {**SMALLEST, "adapter": {"use": "plain"}, "stopper": {"use": "fixed"}}
    assert VALIDATOR.is_valid(source)
    assert not jsonschema.Draft7Validator(nothing).is_valid(source)


def test_without_its_default_component_a_table_must_be_written():
    others = Registry(entry for entry in COMPONENTS if entry.component.kind != "localizer")
    assert recipe_schema(others)["required"] == ["data", "scorer", "localizer"]


def test_a_default_component_with_a_required_parameter_must_be_written():
    others = [entry for entry in COMPONENTS if entry.component.kind != "extractor"]
    registry = Registry([*others, registered("timm", "extractor", EwcParams)])
    assert recipe_schema(registry)["required"] == ["data", "scorer", "extractor"]


def test_a_name_that_two_components_have_is_offered_with_each_distribution():
    twin = registered("knn", "scorer", origin=Origin("other_Thing", "2", "other.plugin"))
    schema = recipe_schema(Registry((*COMPONENTS, twin)))
    assert schema["properties"]["scorer"]["properties"]["use"]["enum"] == [
        *("center", "every"),
        *("handmade:center", "handmade:every", "handmade:knn", "other-thing:knn"),
    ]


def test_a_name_is_that_of_one_component():
    twin = registered("knn", "scorer", origin=Origin("other", "2", "other.plugin"))
    validator = jsonschema.Draft7Validator(recipe_schema(Registry((*COMPONENTS, twin))))
    valid = [
        name
        for name in ("knn", "handmade:knn", "other:knn", "other:center")
        if validator.is_valid({**SMALLEST, "scorer": {"use": name}})
    ]
    assert valid == ["handmade:knn", "other:knn"]
