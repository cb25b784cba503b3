import re
import tomllib

import pytest
from pydantic import Field

from adkit.data.formats import FORMATS
from adkit.errors import UserError
from adkit.plugin.component import KINDS
from adkit.plugin.params import Params, model_schema
from adkit.plugin.registry import Failure, Origin, Registry, discover
from adkit.recipe.problems import check
from adkit.recipe.reader import TABLES, read_recipe
from adkit.recipe.reference import failures_of, plugins_text, reference_markdown
from adkit.recipe.tables import RunTable, ThresholdTable, TrainingTable
from tests.plugin.registries import BROKEN, COMPONENTS, ORIGIN, REGISTRY, registered
from tests.recipe.texts import SMALLEST

ADAPTED = {**SMALLEST, "adapter": {"use": "plain"}}


def test_the_overview_lists_every_component_with_origin_and_version():
    text = plugins_text(REGISTRY)
    for entry in COMPONENTS:
        assert f"  {entry.component.name} " in text
    assert text.count("handmade 1.0 (handmade.plugin)") == len(COMPONENTS)


def test_broken_plugins_come_last_with_their_reason():
    lines = plugins_text(Registry(COMPONENTS, [BROKEN])).splitlines()
    assert lines[-3:] == [
        "broken plugins",
        "  strange 0.1 (strange.plugin)",
        "    could not be loaded: ImportError: no luck",
    ]


def test_a_broken_built_in_plugin_is_no_third_partys():
    own = Failure(Origin("adkit-ignite", "1.0", "built_in"), "no luck")
    registry = Registry(COMPONENTS, [own, BROKEN])
    assert failures_of(registry) == [own, BROKEN]
    assert failures_of(registry, third_party=True) == [BROKEN]


def test_an_empty_registry_says_none_installed_for_each_kind():
    assert plugins_text(Registry()).count("none installed") == len(KINDS)


@pytest.mark.parametrize("kind", ["localizer", "localizers"])
def test_a_kind_is_listed_alone(kind):
    def build(params, context):
        """Draws it. Slowly."""

    registry = Registry([*COMPONENTS[:5], registered("smooth", "localizer", build=build)])
    assert plugins_text(registry, kind).splitlines() == [
        "localizers: Where is the image anomalous?",
        "  smooth  Draws it",
        "          handmade 1.0 (handmade.plugin)",
    ]


def test_an_unknown_kind_names_the_near_one():
    with pytest.raises(UserError, match=r"found 'scorrer' \(did you mean scorer\?\); kinds: extractor, adapter"):
        plugins_text(REGISTRY, "scorrer")


def test_an_unknown_component_names_the_near_one():
    with pytest.raises(UserError, match=r'no scorer is named "kn" \(did you mean knn\?\)'):
        plugins_text(REGISTRY, "scorer", "kn")


OTHER = Origin("other", "2", "other.plugin")


def test_two_of_one_name_are_listed_by_the_names_that_a_recipe_can_use():
    text = plugins_text(Registry((*COMPONENTS, registered("knn", "scorer", origin=OTHER))), "scorer")
    assert re.findall(r"^  (\S+)", text, re.MULTILINE) == ["center", "every", "handmade:knn", "other:knn"]


def test_two_of_one_name_in_one_distribution_are_marked():
    twin = registered("knn", "scorer", origin=Origin(ORIGIN.distribution, "1.0", "another.module"))
    assert plugins_text(Registry((*COMPONENTS, twin)), "scorer").count("no recipe can use it") == 2


def test_a_block_to_paste_has_the_name_that_means_it():
    registry = Registry((*COMPONENTS, registered("knn", "scorer", origin=OTHER)))
    assert 'use = "other:knn"' in plugins_text(registry, "scorer", "other:knn")


def test_a_component_is_shown_as_a_block_to_paste():
    assert plugins_text(REGISTRY, "scorer", "knn").splitlines()[1:] == [
        "# handmade 1.0 (handmade.plugin)",
        "",
        "[scorer]",
        'use = "knn"',
        "",
        "# neighbors whose distances are averaged (an integer of at least 1)",
        "k = 2",
        "",
        '# distance between features (one of "l2", "cosine")',
        'metric = "l2"',
        "",
        '# what searches (one of "auto", "exact")',
        'index = "auto"',
    ]


def test_an_optional_parameter_is_commented_out():
    assert "# r (optional; an integer of at least 1)\n# maybe = 1" in plugins_text(REGISTRY, "scorer", "every")


def test_an_optional_parameter_without_an_example_is_shown_without_a_value():
    class Bare(Params):
        maybe: int | None = Field(None, ge=1, description="r")

    text = plugins_text(Registry([registered("bare", "scorer", Bare)]), "scorer", "bare")
    assert text.endswith("# r (optional; an integer of at least 1)\n# maybe =")


def test_a_required_parameter_shows_its_example():
    assert plugins_text(REGISTRY, "adapter", "ewc").endswith(
        "# weight of the penalty (required; a number above 0)\nstrength = 1.0"
    )


@pytest.mark.parametrize("entry", COMPONENTS, ids=lambda entry: entry.component.name)
def test_a_pasted_block_is_read(entry):
    kind, name = entry.component.kind, entry.component.name
    block = tomllib.loads(plugins_text(REGISTRY, kind, name))
    recipe = read_recipe({**ADAPTED, **block}, (), REGISTRY)
    chosen = recipe.extractors[0] if kind == "extractor" else getattr(recipe, kind)
    assert chosen.name == name


def test_a_pasted_block_is_read_with_every_comment_removed():
    lines = plugins_text(REGISTRY, "scorer", "every").splitlines()
    block = tomllib.loads("\n".join(line.removeprefix("# ") if " = " in line else line for line in lines))
    assert read_recipe({**ADAPTED, **block}, (), REGISTRY).scorer.params.maybe == 1


def test_every_installed_component_can_be_pasted():
    registry = discover()
    for kind in KINDS:
        for entry in registry.found(kind):
            block = tomllib.loads(plugins_text(registry, kind, entry.component.name))
            assert block[kind].pop("use") == entry.component.name
            assert check(entry.component.params, block[kind], "it")[1] == ()


@pytest.mark.parametrize("name", FORMATS)
def test_the_examples_of_a_format_are_read(name):
    schema = model_schema(FORMATS[name])
    examples = {key: schema["properties"][key]["examples"][0] for key in schema.get("required", ())}
    recipe = read_recipe({**SMALLEST, "data": {"format": name, **examples}}, (), REGISTRY)
    assert recipe.data.format == name


def test_the_reference_has_a_section_for_every_table_format_and_component():
    lines = reference_markdown(REGISTRY).splitlines()
    sections = [line for line in lines if line.startswith("## ")]
    assert sections == [f"## `[{table}]`" for table in TABLES]
    for name in FORMATS:
        assert any(line.startswith(f'### `format = "{name}"`') for line in lines)
    for entry in COMPONENTS:
        assert any(line.startswith(f'### `use = "{entry.component.name}"`') for line in lines)


def test_the_reference_has_a_row_for_every_key():
    text = reference_markdown(REGISTRY)
    assert "| `k` | an integer of at least 1 | `2` | neighbors whose distances are averaged |" in text
    assert "| `strength` | a number above 0 | required | weight of the penalty |" in text
    assert "| `maybe` | an integer of at least 1 | none | r |" in text
    for model in (RunTable, TrainingTable, ThresholdTable, *FORMATS.values()):
        for key in set(model.model_fields) - {"format"}:
            assert f"| `{key}` | " in text


def test_a_bar_in_a_value_does_not_end_its_cell():
    class Bars(Params):
        code: str = Field("a", pattern="^(a|b)$", description="x|y")

    text = reference_markdown(Registry([registered("bars", "scorer", Bars)]))
    assert r'| `code` | a string that matches ^(a\|b)$ | `"a"` | x\|y |' in text


def test_the_reference_names_no_version_that_would_make_it_stale():
    assert "0.1.0" not in reference_markdown(discover())
