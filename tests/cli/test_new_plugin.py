"""``adkit plugins new``: what it writes works as it stands."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from adkit import UserError
from adkit.cli.main import main
from adkit.cli.new_plugin import new_plugin
from adkit.plugin import Context, Geometry, Scores
from adkit.plugin.component import KINDS

ROOT = Path(__file__).parents[2]


def done(*command, cwd, **variables):
    """Runs a command that must end well."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    run = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, f"{command}: {run.stdout}\n{run.stderr}"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder that a package of each kind was installed into, by the name ``new_KIND``; they lie beside it."""
    folder = tmp_path_factory.mktemp("packages")
    for kind in KINDS:
        new_plugin(kind, f"new_{kind}", folder)
    packages = sorted(str(path) for path in folder.iterdir())
    install = ("install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--target", "site")
    done(sys.executable, "-m", "pip", *install, *packages, cwd=folder)
    return folder / "site"


@pytest.mark.slow
def test_what_it_writes_passes_ruff_and_mypy_strict(tmp_path):
    for kind in KINDS:
        new_plugin(kind, f"new_{kind}", tmp_path)
    done(sys.executable, "-m", "ruff", "check", ".", cwd=tmp_path)
    done(sys.executable, "-m", "ruff", "format", "--check", ".", cwd=tmp_path)
    files = [str(path) for path in tmp_path.rglob("*.py")]
    # Of what is installed as an editable package, mypy would judge the source, too, without its settings.
    strict = (sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent")
    done(*strict, *files, cwd=tmp_path, MYPYPATH=str(ROOT))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_it_writes_installs_checks_runs_predicts_and_exports(kind, site, textures, monkeypatch, capsys):
    package, module = site.parent / f"adkit-new-{kind}", f"adkit_new_{kind}"
    (package / "data").symlink_to(textures.parent)
    monkeypatch.syspath_prepend(site)
    monkeypatch.syspath_prepend(package)
    monkeypatch.chdir(package)
    importlib.import_module(f"test_{module}").test_contract()
    assert main(["check", "recipe.toml"]) == 0
    assert main(["run", "recipe.toml"]) == 0
    (manifest,) = (package / "runs").rglob("manifest.json")
    image = next((package / "data/textures/brick/test").rglob("*.png"))
    assert main(["predict", str(manifest.parent), str(image)]) == 0
    assert image.name in capsys.readouterr().out
    assert main(["export", str(manifest.parent), "--format", "torchscript"]) == 0
    for name in (module, f"test_{module}"):
        del sys.modules[name]


def test_it_says_what_to_do_next(tmp_path, capsys):
    assert main(["plugins", "new", "scorer", "brand_new", "--dir", str(tmp_path)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == f"{tmp_path / 'adkit-brand-new'}: a working scorer, its contract test and a recipe. Next:"
    assert [line.split("  #")[0].strip() for line in shown[1:]] == [
        f"cd {tmp_path / 'adkit-brand-new'}",
        'pip install --editable ".[test]"',
        "adkit plugins scorer brand_new",
        "pytest && ruff check . && mypy",
        "adkit run recipe.toml",
    ]


@pytest.mark.parametrize(
    ("kind", "name", "sentence"),
    [
        ("scorer", "Brand", "expected a name of lower-case letters, digits and underscores, found 'Brand'"),
        ("scorer", "knn", "expected a name that no scorer has, found 'knn' of adkit-ignite"),
        ("scorrer", "brand", r"expected a kind of component, found 'scorrer' \(did you mean scorer\?\)"),
    ],
)
def test_kinds_and_names_that_are_none_are_refused(kind, name, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence):
        new_plugin(kind, name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there_is_left_as_it_is(tmp_path):
    (tmp_path / "adkit-brand").mkdir()
    with pytest.raises(UserError, match="expected no such folder, found one"):
        new_plugin("scorer", "brand", tmp_path)
    assert not list((tmp_path / "adkit-brand").iterdir())


@pytest.mark.parametrize("arguments", [["new"], ["new", "scorer"], ["scorer", "knn", "more"]])
def test_other_words_are_bad_input(arguments):
    assert main(["plugins", *arguments]) == 2


def test_a_name_that_is_a_word_of_the_contract_clashes_with_nothing(tmp_path):
    new_plugin("scorer", "params", tmp_path)
    source = (tmp_path / "adkit-params" / "adkit_params.py").read_text()
    assert "class ParamsParams(Params):" in source and "class ParamsScorer(Scorer[ParamsParams]):" in source


def test_the_localizer_it_writes_puts_cells_at_points_where_they_lie(tmp_path, monkeypatch):
    new_plugin("localizer", "apart", tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "adkit-apart")
    written = importlib.import_module("adkit_apart")
    cells = torch.tensor([[[1.0, 2.0, 3.0]] * 2])
    scores = Scores(torch.tensor([3.0]), {"a": cells}, {"a": Geometry.at((0.5, 1.5), (0.5, 1.5, 6.5))})
    localizer = written.ApartLocalizer(written.ApartParams(smoothing=0), Context(image_size=(2, 8)))
    found = localizer.localize(scores, (2, 8))
    assert found[0, 0].tolist() == [1, 2, 2, 2, 3, 3, 3, 3]
