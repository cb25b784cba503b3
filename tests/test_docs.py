"""The documentation says what the code does."""

import importlib
import re
import runpy
import textwrap
import tomllib
from pathlib import Path

import pytest

import adkit.plugin
from adkit.plugin import hooks
from adkit.recipe.reader import read_recipe
from adkit.testing import check_component

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
RECIPES = sorted((ROOT / "recipes").rglob("*.toml"))


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def test_every_name_that_authors_import_is_public():
    page = (ROOT / "docs" / "public.md").read_text(encoding="utf-8")
    (section,) = re.findall(r"## For authors: `adkit\.plugin`\n(.*?)\n## ", page, re.DOTALL)
    names = re.findall(r"^- `(\w+)", section, re.MULTILINE)
    assert names == adkit.plugin.__all__
    assert len(names) == 30, "a concept more that every author meets: is there no other way?"


def test_the_members_of_each_kind_are_listed():
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"\| kind \| you write \| you may write \|\n\|---\|---\|---\|\n(.*?)\n\n", page, re.DOTALL)
    rows = [re.fullmatch(r"\| (\w+) \| (.*) \| (.*) \|", line).groups() for line in table.splitlines()]
    assert {kind: (written.count("`") // 2, optional.count("`") // 2) for kind, written, optional in rows} == {
        "extractor": (2, 5),
        "adapter": (4, 8),
        "scorer": (4, 5),
        "localizer": (1, 1),
        "stopper": (1, 3),
    }


def test_generated_files_are_fresh():
    for path, text in runpy.run_path(str(ROOT / "docs" / "generate.py"))["generated"]().items():
        assert path.read_text(encoding="utf-8") == text, (
            f"{path.relative_to(ROOT)} is not what docs/generate.py makes of the code: run make docs"
        )


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_ready_recipe_is_in_order(path):
    read_recipe(path)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_ready_recipe_points_to_the_schema(path):
    first = path.read_text(encoding="utf-8").splitlines()[0]
    target = first.removeprefix("#:schema ")
    assert (path.parent / target).resolve() == ROOT / "recipes" / "recipe.schema.json", (
        f"{path.relative_to(ROOT)}: the first line names the schema for editors: see recipes/quickstart.toml"
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_every_recipe_in_the_docs_is_in_order(page):
    for text in blocks(page, "toml"):
        tables = tomllib.loads(text)
        if {"data", "scorer"} <= set(tables):
            read_recipe({"run": {"name": "docs"}, **tables})


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_every_python_block_compiles(page):
    for text in blocks(page, "python"):
        compile(text, str(page), "exec")


@pytest.mark.parametrize(
    ("page", "kinds"),
    [("README.md", ["scorer"]), ("docs/plugins.md", ["extractor", "adapter", "scorer", "localizer", "stopper"])],
)
def test_the_plugins_shown_keep_the_contract(page, kinds, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    shown = [text for text in blocks(ROOT / page, "python") if "@hookimpl" in text]
    for plugin, kind in zip(shown, kinds, strict=True):
        name = f"shown_{kind}_{page.partition('.')[0].replace('/', '_')}"
        (tmp_path / f"{name}.py").write_text(plugin, encoding="utf-8")
        for component in getattr(importlib.import_module(name), f"adkit_{kind}s")():
            check_component(component)  # an error names what of the contract, in adkit/plugin/, the page does not keep


def test_the_plugin_in_the_hooks_docstring_is_that_of_the_readme():
    (plugin,) = (text for text in blocks(ROOT / "README.md", "python") if "@hookimpl" in text)
    assert textwrap.indent(plugin, "    ") in hooks.__doc__, (
        "the plugin in the docstring of adkit/plugin/hooks.py is not that of README.md: change both"
    )


def anchors(page):
    """What a page's headings are called in links: lower case, without punctuation, with hyphens for spaces."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_every_link_within_the_repository_leads_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", page.read_text(encoding="utf-8")):
        there = page.parent / target if target else page
        assert there.exists(), f"{page.name} links to {target}, which is not there"
        assert not anchor or anchor in anchors(there), (
            f"{page.name} links to {target}#{anchor}, which is no heading there"
        )


def test_every_file_that_contributing_names_is_there():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:adkit|plugins|tests|docs|recipes|benchmarks)/[^`<*…]*)`", text)
    gone = [name for name in named if not (ROOT / name).exists()]
    assert named and not gone, "CONTRIBUTING.md names files that are not there: name those that took their place"


def test_every_image_of_the_docs_is_drawn_by_the_script():
    script, pages = (runpy.run_path(str(ROOT / "docs" / f"{name}.py")) for name in ("figures", "pages"))
    drawn = {*script["FIGURES"], "distances", "trainings", *pages["NAMES"], pages["COMPARISON"]}
    assert {path.stem for path in (ROOT / "docs" / "images").iterdir()} == drawn, (
        "docs/images: each is drawn by a function in FIGURES of docs/figures.py"
    )
