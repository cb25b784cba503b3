"""``adkit plugins``, and a third party's component that has the name of a built-in one."""

import json

import pytest
import tomli_w

from adkit import UserError
from tests.cli.commands import adkit
from tests.data.categories import write_category
from tests.plugin.registries import SCORER, install
from tests.plugin.test_third_party import PLUGIN
from tests.runner.test_resume import go_on, interrupt


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder that plugins are installed in, beside the built-in ones."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


@pytest.fixture
def knn(site):
    """A third party's scorer named knn, which works."""
    install(site, "Extra_Scorers", PLUGIN.replace('"brightness"', '"knn"'))


@pytest.fixture
def recipe(small_recipe, tmp_path, knn):
    """The smallest recipe with that scorer."""
    path = tmp_path / "small.toml"
    path.write_text(tomli_w.dumps({**small_recipe, "scorer": {"use": "extra-scorers:knn", "power": 2.0}}))
    return path


def listed(*arguments):
    return json.loads(adkit("plugins", "--json", *arguments).stdout)


# The list ----------------------------------------------------------------------------------------------------


def test_plugins_that_all_work_exit_0(knn):
    done = adkit("plugins")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_broken_plugin_exits_1_after_the_list_and_is_named(site):
    install(site, "bad", "1 / 0")
    done = adkit("plugins")
    assert done.returncode == 1
    assert "\n  knn " in done.stdout
    assert done.stdout.splitlines()[-3:-1] == ["broken plugins", "  bad 1.0 (bad_plugin)"]
    assert done.stderr == "adkit: broken: bad 1.0 (bad_plugin)\n"


def test_one_component_is_shown_whatever_else_is_broken(site):
    install(site, "bad", "1 / 0")
    done = adkit("plugins", "scorer", "knn")
    assert (done.returncode, done.stderr) == (0, "")


def test_third_party_leaves_the_built_in_ones_out(site):
    install(site, "mine", SCORER.format(name="mine"))
    shown = adkit("plugins", "--third-party").stdout
    assert "  mine:mine" not in shown
    assert "\n  mine  " in shown
    assert "adkit-ignite" not in shown
    assert shown.count("none of third parties installed") == 4


def test_third_party_goes_with_a_list_only():
    done = adkit("plugins", "scorer", "knn", "--third-party")
    assert done.returncode == 2
    assert done.stderr == "--third-party: expected a list, found the component 'knn'; leave one of them out\n"


def test_json_has_a_record_for_every_component(knn):
    (found,) = listed("--third-party")["components"]
    parameters = found.pop("parameters")
    assert found == {
        "kind": "scorer",
        "name": "knn",
        "use": "extra-scorers:knn",
        "summary": "How far the mean of all features is from that of normal images",
        "distribution": "Extra_Scorers",
        "version": "1.0",
        "module": "Extra_Scorers_plugin",
        "built_in": False,
    }
    assert parameters["properties"]["power"]["default"] == 1.0


def test_json_calls_a_built_in_component_by_its_bare_name(knn):
    names = [found["use"] for found in listed("scorer")["components"] if found["built_in"]]
    assert "knn" in names


def test_json_has_what_is_broken_and_exits_1(site):
    install(site, "bad", "1 / 0")
    done = adkit("plugins", "--json")
    assert done.returncode == 1
    (broken,) = json.loads(done.stdout)["broken"]
    assert broken["distribution"] == "bad"
    assert "ZeroDivisionError" in broken["reason"]


def test_json_of_one_component_is_a_list_of_it(site):
    install(site, "bad", "1 / 0")
    found = listed("scorer", "knn")
    assert [entry["name"] for entry in found["components"]] == ["knn"]
    assert found["broken"] == []


# Another component named knn ---------------------------------------------------------------------------------


def test_a_bare_name_still_means_the_built_in_one(recipe, tmp_path):
    recipe.write_text(recipe.read_text().replace("extra-scorers:knn", "knn").replace("power = 2.0", "k = 1"))
    done = adkit("check", recipe)
    assert done.returncode == 0, done.stderr
    assert "  scorer     knn          adkit-ignite " in done.stdout


def test_check_names_the_distribution(recipe):
    done = adkit("check", recipe)
    assert done.returncode == 0, done.stderr
    assert "  scorer     knn          Extra_Scorers 1.0 (Extra_Scorers_plugin)" in done.stdout


@pytest.fixture
def done(recipe, tmp_path):
    """The folder of its run."""
    ran = adkit("run", recipe, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    return tmp_path / "runs" / "small"


def test_a_run_reports_and_saves_which_one_it_was(done):
    report = json.loads((done / "report.json").read_text())
    (scorer,) = (part for part in report["components"] if part["kind"] == "scorer")
    assert scorer == {"kind": "scorer", "name": "knn", "origin": "Extra_Scorers 1.0 (Extra_Scorers_plugin)"}
    (manifest,) = done.rglob("manifest.json")
    saved = json.loads(manifest.read_text())["scorer"]
    assert (saved["name"], saved["distribution"]) == ("knn", "Extra_Scorers")


def test_predict_scores_with_the_one_that_was_saved(done, tmp_path):
    rows = (done / "scores.csv").read_text().splitlines()
    column = rows[0].split(",").index("score")
    image, score = next((row.split(",")[2], row.split(",")[column]) for row in rows[1:] if ",test," in row)
    predicted = adkit("predict", done, tmp_path / "data" / image)
    assert predicted.returncode == 0, predicted.stderr
    header, row = (line.split(",") for line in predicted.stdout.splitlines())
    assert float(row[header.index("score")]) == pytest.approx(float(score), rel=1e-5)


def test_the_recipe_that_a_run_leaves_names_it_again(done, tmp_path):
    left = done / "recipe.toml"
    assert 'use = "extra-scorers:knn"' in left.read_text()
    scores = (done / "scores.csv").read_bytes()
    again = adkit("run", left, "--output", tmp_path / "again")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "again" / "small" / "scores.csv").read_bytes() == scores


def test_a_detector_whose_plugin_has_gone_is_not_loaded_with_the_built_in_one(done, tmp_path, site):
    (site / "Extra_Scorers-1.0.dist-info" / "entry_points.txt").unlink()
    refused = adkit("predict", done, tmp_path / "data")
    assert refused.returncode == 2
    assert "expected scorer knn of Extra_Scorers 1.0, found that it is not installed" in refused.stderr


@pytest.fixture
def interrupted(small_recipe, stripes, knn):
    """The tables of a run that was interrupted in its second category."""
    write_category(stripes / "tiles")
    tables = {**small_recipe, "scorer": {"use": "Extra_Scorers:knn"}}
    interrupt(tables, "fit", "tiles")
    return tables


def test_an_interrupted_run_goes_on_with_it(interrupted):
    report, watch = go_on(interrupted)
    assert report.resumed == 1
    assert ("fit", "stripes") not in watch.stages


def test_an_interrupted_run_does_not_go_on_with_the_built_in_one(interrupted):
    with pytest.raises(UserError, match=r"scorer\.use was 'extra-scorers:knn' and is 'knn'"):
        go_on({**interrupted, "scorer": {"use": "knn"}})
