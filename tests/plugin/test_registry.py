import re
import sys

import pytest

from adkit import __version__
from adkit.errors import UserError
from adkit.plugin.registry import Origin, Registry, discover
from tests.plugin.registries import BROKEN, COMPONENTS, ORIGIN, REGISTRY, SCORER, install, registered

HEAD = "from pydantic import Field\nfrom adkit.plugin import Component, Params, hookimpl\n"
TYPES = """\
from typing import Annotated
from pydantic import AfterValidator
class N(Params):
    n: int = Field(ge=1, description='n')
V = Annotated[int, AfterValidator(lambda value: {}[value])]
"""
HOOK = f"{HEAD}\n@hookimpl\ndef adkit_scorers():\n"


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder that modules are imported from, beside all others."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def names(registry, kind="scorer"):
    return [entry.component.name for entry in registry.found(kind)]


def test_a_component_comes_with_its_origin(site):
    install(site, "third-party", SCORER.format(name="mine"), version="2.3")
    (entry,) = discover([str(site)]).found("scorer")
    assert entry.component.name == "mine"
    assert str(entry.origin) == "third-party 2.3 (third_party_plugin)"


def test_an_empty_group_says_so_and_how_to_install(site):
    with pytest.raises(UserError, match=r"no plugins are installed .* pip install adkit-ignite"):
        discover([str(site)]).get("scorer", "knn")


def test_two_distributions_with_one_entry_point_name_are_both_loaded(site):
    install(site, "first", SCORER.format(name="a"))
    install(site, "second", SCORER.format(name="b"))
    assert names(discover([str(site)])) == ["a", "b"]


def test_a_distribution_that_stands_on_the_path_twice_is_one(site):
    again = site / "again"
    again.mkdir()
    install(site, "some-thing", SCORER.format(name="a"))
    install(again, "Some_Thing", None)
    registry = discover([str(site), str(again)])
    assert names(registry) == ["a"]
    assert registry.failures == ()


def test_one_module_under_two_entry_points_is_one(site):
    install(site, "twice", SCORER.format(name="a"), entry="x = twice_plugin\ny = twice_plugin")
    assert names(discover([str(site)])) == ["a"]


def test_two_distributions_with_one_module_are_told_apart(site):
    install(site, "original", SCORER.format(name="a"))
    install(site, "fork", None, entry="it = original_plugin")
    assert str(discover([str(site)]).get("scorer", "fork:a").origin) == "fork 1.0 (original_plugin)"


def test_an_older_name_of_adkit_beside_its_own_disables_nothing(site):
    install(site, "adkit-ignite", SCORER.format(name="a"))
    install(site, "adkit", None, entry="it = adkit_ignite_plugin")
    assert discover([str(site)]).get("scorer", "a").origin.distribution == "adkit-ignite"


def test_the_same_name_twice_in_one_distribution_says_so(site):
    install(site, "twin", SCORER.format(name="a") * 2, entry="x = twin_plugin\ny = other_twin")
    (site / "other_twin.py").write_text(SCORER.format(name="a"), encoding="utf-8")
    sys.modules.pop("other_twin", None)
    for name in ("a", "twin:a"):
        with pytest.raises(UserError, match=r"; one distribution has two: uninstall it, or tell its author$"):
            discover([str(site)]).get("scorer", name)


def test_an_entry_point_may_name_an_object_in_a_module(site):
    source = "class Plugin:\n    pass\nplugin = Plugin()\n" + SCORER.format(name="a")
    source += "plugin.adkit_scorers = adkit_scorers\n"
    install(site, "objects", source, entry="it = objects_plugin:plugin")
    assert names(discover([str(site)])) == ["a"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (None, r"could not be loaded: ModuleNotFoundError: No module named 'bad_plugin'$"),
        ("import not_there_at_all", r"ModuleNotFoundError: .*not_there_at_all' \(.*bad_plugin\.py:1\)$"),
        ("\n1 / 0", r"ZeroDivisionError: division by zero \(.*bad_plugin\.py:2\)$"),
        ("raise SystemExit(3)", r"could not be loaded: SystemExit: 3"),
        ("def broken(:", r"SyntaxError: invalid syntax \(.*bad_plugin\.py:1\)$"),
        ("x = 1", r"it has no hook: decorate a function named adkit_extractors or "),
        ("def adkit_scorers(): return []", r"adkit_scorers lacks @hookimpl"),
        (
            f"{HEAD}@hookimpl\ndef adkit_scorer(): return []",
            r"adkit_scorer is no hook .*mean adkit_scorers\?",
        ),
        (f"{HEAD}@hookimpl\ndef adkit_scorers(config): return []", r"could not be loaded: .*config"),
        (
            f"{HOOK}    raise KeyError('lost')",
            r"adkit_scorers raised KeyError: 'lost' \(.*bad_plugin\.py:6\)$",
        ),
        (f"{HOOK}    raise SystemExit", r"adkit_scorers raised SystemExit"),
        (f"{HOOK}    return Component", r"adkit_scorers: expected a list of Component, found a type$"),
        (f"{HOOK}    return ['knn']", r"expected a list of Component, found a str in it"),
        (
            f"{HOOK}    return [Component('a', 'localizer', Params, print)]",
            r"\"a\" is of kind 'localizer', expected 'scorer'; return it from adkit_localizers",
        ),
        (
            f"{HOOK}    return [Component('a', 'score', Params, print)]",
            r"of kind 'score', expected 'scorer'$",
        ),
        (f"{HOOK}    return [Component('My-Knn', 'scorer', Params, print)]", r"lower-case .* found 'My-Knn'"),
        (f"{HOOK}    return [Component('a', 'scorer', dict, print)]", r"params must be a subclass of adkit"),
        (f"{HOOK}    return [Component('a', 'scorer', Params, 1)]", r'"a": build must be callable'),
    ],
)
def test_a_broken_plugin_is_a_failure_that_says_why(site, source, reason):
    install(site, "bad", source)
    registry = discover([str(site)])
    assert names(registry) == []
    (failure,) = registry.failures
    assert str(failure.origin) == "bad 1.0 (bad_plugin)"
    assert re.search(reason, failure.reason), failure.reason
    assert "\n" not in failure.reason


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ("k: int = 2", r"P\.k has no description"),
        ("k: int = Field(0, ge=1, description='x')", r"P\.k: its default is not a value that it takes"),
        ("k: int = Field('2', description='x')", r"P\.k: its default"),
        ("k: float = Field(float('inf'), description='x')", r"P\.k: its default"),
        ("k: object = Field(object(), description='x')", r"P has a default that TOML cannot write"),
        ("k: type = Field(int, description='x')", r"P cannot be written in TOML"),
        ("k: 'P | None' = Field(None, description='x')", r"P cannot be written in TOML: P contains itself"),
        ("k: int = Field(description='x')", r"P\.k is required and has no example: Field\(examples=\[a value to"),
        ("k: int = Field(description='x', examples=[])", r"P\.k is required and has no example"),
        ("k: int = Field(description='x', examples=5)", r"P\.k is required and has no example"),
        ("k: int = Field(ge=1, description='x', examples=[0, 1])", r"P\.k: its example is not a value that it takes"),
        ("k: int = Field(description='x', examples=[object()])", r"could not be loaded: .*Unable to serialize"),
        ("k: N = Field(description='x', examples=[{'n': 0}])", r"P\.k\.n: its example is not a value that it takes"),
        ("k: N = Field(description='x', examples=[{}])", r"P\.k\.n: its example is not .*: Field required"),
        ("k: V = Field(description='x', examples=[1])", r"P: its .* are not values that it takes: KeyError: 1"),
        ("use: str = Field('x', description='x')", r"the key use belongs to adkit"),
        ("fit: str = Field('x', description='x')", r"the key fit belongs to adkit"),
    ],
)
def test_broken_parameters_are_a_failure(site, fields, reason):
    component = "    return [Component('a', 'scorer', P, print)]"
    install(site, "bad", f"{HEAD}{TYPES}class P(Params):\n    {fields}\n@hookimpl\ndef adkit_scorers():\n{component}\n")
    registry = discover([str(site)])
    assert names(registry) == []
    assert re.search(reason, registry.failures[0].reason), registry.failures[0].reason


def test_the_key_fit_is_free_for_other_kinds(site):
    source = f"{HEAD}class P(Params):\n    fit: int = Field(1, description='x')\n"
    source += "@hookimpl\ndef adkit_adapters():\n    return [Component('a', 'adapter', P, print)]\n"
    install(site, "free", source)
    assert names(discover([str(site)]), "adapter") == ["a"]


def test_a_required_parameter_is_no_broken_default(site):
    source = f"{HEAD}class P(Params):\n    k: int = Field(description='x', examples=[3])\n"
    source += "    n: int = Field(1, description='y')\n"
    install(
        site,
        "fine",
        f"{source}@hookimpl\ndef adkit_scorers():\n    return [Component('a', 'scorer', P, print)]\n",
    )
    assert names(discover([str(site)])) == ["a"]


def test_a_bad_component_leaves_the_others_of_its_list(site):
    install(site, "mixed", f"{HOOK}    good = Component('a', 'scorer', Params, print)\n    return [1, good]\n")
    registry = discover([str(site)])
    assert names(registry) == ["a"]
    assert len(registry.failures) == 1


def test_a_misspelt_hook_leaves_the_other_hooks_of_its_module(site):
    install(site, "mixed", SCORER.format(name="a") + "\n@hookimpl\ndef adkit_localizer():\n    return []\n")
    registry = discover([str(site)])
    assert names(registry) == ["a"]
    assert "did you mean adkit_localizers?" in registry.failures[0].reason


def test_a_plugin_that_raises_does_not_end_the_others(site):
    install(site, "bad", f"{HOOK}    raise RuntimeError('no')\n")
    install(site, "good", SCORER.format(name="a"))
    assert names(discover([str(site)])) == ["a"]


def test_a_stranger_with_broken_metadata_hides_nobody(site):
    install(site, "bad", None, entry="no equals sign here")
    (site / "worse-1.dist-info").mkdir()
    (site / "worse-1.dist-info" / "entry_points.txt").write_text("[adkit]\nit = worse\n")  # no METADATA
    install(site, "good", SCORER.format(name="a"))
    registry = discover([str(site)])
    assert names(registry) == ["a"]
    assert all("its metadata cannot be read" in failure.reason for failure in registry.failures)
    assert len(registry.failures) == 2


def test_keyboard_interrupt_while_loading_is_not_kept(site):
    install(site, "slow", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        discover([str(site)])


def test_the_built_in_components_are_found_like_any_other():
    origins = {str(entry.origin.module) for entry in discover().found("scorer")}
    assert "adkit_plugins.scorers.knn" in origins, "pyproject.toml, [project.entry-points.adkit], names it"


def test_get_names_near_matches_and_what_is_there():
    with pytest.raises(UserError) as caught:
        REGISTRY.get("scorer", "Kn")
    assert str(caught.value) == 'no scorer is named "Kn" (did you mean knn?); scorers here: center, every, knn'


def test_get_names_the_broken_plugins_which_may_have_had_it():
    with pytest.raises(
        UserError, match=r"plugins that are broken:\n  strange 0\.1 \(strange\.plugin\): could not be loaded"
    ):
        Registry(COMPONENTS, [BROKEN]).get("scorer", "strange")


def test_get_says_when_the_name_is_of_another_kind():
    with pytest.raises(UserError, match='"knn" is of kind scorer'):
        REGISTRY.get("localizer", "knn")


def test_two_of_one_name_matter_to_no_other_name():
    twin = registered("knn", "scorer", origin=Origin("other", "2", "other.plugin"))
    registry = Registry((*COMPONENTS, twin))
    assert registry.get("scorer", "center").origin == ORIGIN
    with pytest.raises(UserError) as caught:
        registry.get("scorer", "knn")
    assert str(caught.value) == (
        '2 scorers are named "knn": handmade 1.0 (handmade.plugin) and other 2 (other.plugin); write use = '
        '"handmade:knn" or use = "other:knn"'
    )


BUILT_IN = registered("knn", "scorer", origin=Origin("adkit-ignite", "1.0", "built_in"))


def test_a_bare_name_means_the_built_in_component():
    assert Registry((*COMPONENTS, BUILT_IN)).get("scorer", "knn") is BUILT_IN


@pytest.mark.parametrize(
    ("name", "distribution"),
    [("other.thing:knn", "Other_Thing"), ("Other_Thing:knn", "Other_Thing"), ("adkit-ignite:knn", "adkit-ignite")],
)
def test_a_name_after_its_distribution_means_that_ones(name, distribution):
    other = registered("knn", "scorer", origin=Origin("Other_Thing", "2", "other.plugin"))
    registry = Registry((*COMPONENTS, BUILT_IN, other))
    assert registry.get("scorer", name).origin.distribution == distribution


@pytest.mark.parametrize("name", [":knn", "other:knn", "handmade:", "handmade:knn:knn"])
def test_a_name_after_another_distribution_is_none(name):
    with pytest.raises(UserError, match=f'no scorer is named "{name}"'):
        REGISTRY.get("scorer", name)


def test_a_near_match_is_qualified_where_the_name_was():
    with pytest.raises(UserError, match=r"\(did you mean handmade:knn\?\); scorers here: center, every, knn$"):
        REGISTRY.get("scorer", "handmade:kn")


@pytest.mark.parametrize(
    ("requirement", "loaded"),
    [
        ("adkit-ignite>=99", False),
        ("Adkit.Ignite >=99", False),
        ("adkit-ignite[onnx]<0.0.1; python_version >= '3'", False),
        ("adkit-ignite>=99; python_version < '3'", True),
        ("adkit-ignite>=99; extra == 'future'", True),
        ("adkit-ignite>=0.0.1", True),
        ("adkit-ignite", True),
        ("adkit-ignite-extra>=99", True),
    ],
)
def test_a_plugin_that_needs_another_adkit_is_not_imported(site, requirement, loaded):
    module = install(site, "later", SCORER.format(name="a"), requires=["numpy", requirement])
    assert names(discover([str(site)])) == ["a"] * loaded
    assert (module in sys.modules) == loaded


def test_a_version_of_adkit_before_its_release_is_newer_than_the_last_one(site, monkeypatch):
    monkeypatch.setattr("adkit.plugin.registry.__version__", "0.9.dev1")
    install(site, "later", SCORER.format(name="a"), requires=["adkit-ignite>=0.8"])
    assert names(discover([str(site)])) == ["a"]


def test_a_plugin_that_needs_another_adkit_says_which(site):
    install(site, "later", SCORER.format(name="a"), requires=["adkit-ignite<99,>=98"])
    (failure,) = discover([str(site)]).failures
    assert str(failure) == (
        f"later 1.0 (later_plugin): it was not imported, because it needs adkit-ignite<99,>=98, found {__version__}: "
        'pip install --upgrade later, or else pip install "adkit-ignite<99,>=98"'
    )


def test_a_summary_is_the_first_sentence_of_what_builds_the_component():
    class Builder:
        """Weighs ``pixels``
        by hue. And more."""

    assert registered("a", "scorer", build=Builder).summary == "Weighs `pixels` by hue"


def test_a_summary_of_the_module_wins_where_it_names_the_component():
    assert registered("components", "scorer", build=install).summary.startswith("Write a distribution")
    assert REGISTRY.get("scorer", "knn").summary.startswith("Components and distributions made by hand")
