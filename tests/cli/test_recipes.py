"""``adkit recipes``, and the recipes of its list as arguments of other commands."""

import resource
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from adkit.recipe.shipped import shipped_recipes
from tests.cli.commands import SLOW_START, adkit

ROOT = Path(__file__).parents[2]
PACKAGES = {"adkit": "adkit", "plugins": "adkit_plugins", "recipes": "adkit_recipes"}
"""Folder of the repository → what it is installed as."""
PACKAGED = "pyproject.toml, [tool.setuptools]: packages names every folder of modules, package-data the recipes"


def test_the_list_has_a_line_for_each(tmp_path):
    done = adkit("recipes", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines() if line.startswith("  ")]
    assert lines == [[recipe.name, recipe.summary] for recipe in shipped_recipes()]


@pytest.mark.parametrize("name", ["padim", "papers/spade-mvtec"])
def test_one_is_printed_as_it_stands(name, tmp_path):
    assert adkit("recipes", name, cwd=tmp_path).stdout == (ROOT / "recipes" / f"{name}.toml").read_text("utf-8")


@pytest.mark.parametrize("command", ["recipes", "run", "check"])
def test_a_name_that_is_not_there_is_one_sentence(command, tmp_path):
    done = adkit(command, "padmi", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "padmi: no such recipe (did you mean padim?); adkit recipes lists those that ship with adkit\n"
    )


def test_the_list_is_quick_and_imports_nothing_heavy(tmp_path):
    code = (
        "import sys; from adkit.cli.main import main; main(['recipes'])\n"
        "print({'torch', 'pydantic', 'numpy', 'rich'} & set(sys.modules))"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.splitlines()[-1] == "set()", SLOW_START
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.35, SLOW_START


def test_check_takes_data_from_the_working_directory_and_says_whose_recipe_it_is(tmp_path):
    done = adkit("check", "padim", cwd=tmp_path)
    assert done.returncode == 2
    notice, problem = done.stderr.splitlines()
    assert notice == "padim: the recipe that ships with adkit; adkit recipes padim prints it, --set changes it"
    assert problem.startswith("padim.toml (shipped with adkit):")
    assert f"data/mvtec (below {tmp_path})" in problem


def test_run_leaves_a_folder_of_the_name(stripes, tmp_path):
    settings = [
        f"data.root={stripes}",
        "data.image_size=64",
        "extractor.backbone=test_resnet",
        "extractor.weights=none",
    ]
    arguments = [word for setting in settings for word in ("--set", setting)]
    done = adkit(
        "run", "dn2", *arguments, "--set", 'extractor.levels=["layer4"]', "--set", "run.device=cpu", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("dn2: the recipe that ships with adkit; adkit recipes dn2 prints it")
    assert (tmp_path / "runs" / "dn2" / "report.json").exists()


def test_a_file_of_the_users_own_is_no_shipped_recipe(tmp_path):
    (tmp_path / "padim.toml").write_text('[data]\nroot = "mine"\n[scorer]\nuse = "gaussian"\n')
    done = adkit("check", "padim", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("padim.toml:2: data.root: expected")


@pytest.mark.slow
def test_a_wheel_has_every_module_and_recipe(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "from setuptools.build_meta import build_wheel; build_wheel('..')"  # as pip calls it; it needs no network
    done = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "absent from the `packages` configuration" not in done.stderr, PACKAGED
    (wheel,) = tmp_path.glob("adkit_ignite-*.whl")
    with zipfile.ZipFile(wheel) as files:
        inside = {name for name in files.namelist() if name.endswith((".py", ".toml"))}
    assert inside == {
        f"{package}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, package in PACKAGES.items()
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".toml"}
    }, PACKAGED
