"""The command as a user meets it: exit status, what is shown, what is left."""

import json
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tomli_w

from tests.cli.commands import BOTH, SLOW_START, Done, adkit, adkit_process
from tests.data.categories import write_category
from tests.plugin.registries import install


@pytest.fixture
def recipe(small_recipe, tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(tomli_w.dumps(small_recipe))
    return path


@BOTH
def test_run_prints_a_row_and_where_the_report_lies(command, recipe, tmp_path):
    done = command("run", recipe, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "stripes" in done.stdout
    assert done.stdout.splitlines()[-1] == f"report: {tmp_path / 'runs' / 'small' / 'report.html'}"


def test_quiet_tells_where_the_report_lies_and_nothing_else(recipe, tmp_path):
    done = adkit("run", recipe, "--quiet", cwd=tmp_path)
    assert done == Done(0, f"report: {tmp_path / 'runs' / 'small' / 'report.html'}\n", "")


def test_json_is_a_report_on_a_line_for_each_run(small_recipe, tmp_path):
    paths = []
    for name in ("one", "two"):
        paths.append(tmp_path / f"{name}.toml")
        paths[-1].write_text(tomli_w.dumps(small_recipe | {"run": small_recipe["run"] | {"name": name}}))
    done = adkit("run", *paths, "--json", cwd=tmp_path)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["name"] for one in found] == ["one", "two"]
    assert found == [json.loads((Path(one["folder"]) / "report.json").read_text()) for one in found]


def test_set_and_output_are_heard(recipe, tmp_path):
    done = adkit("run", recipe, "--set", "run.name=other", "--output", tmp_path / "elsewhere", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "elsewhere" / "other" / "report.json").exists()


@BOTH
def test_bad_input_exits_2_without_a_traceback(command, tmp_path):
    done = command("run", "missing.toml", cwd=tmp_path)
    assert done.returncode == 2
    assert "missing.toml" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_problem_of_every_recipe_is_told_before_any_work(recipe, tmp_path):
    other = tmp_path / "other.toml"
    other.write_text('[data]\nimage_size = 0\n[scorer]\nuse = "knn"\nk = 0\n')
    done = adkit("run", recipe, other, cwd=tmp_path)
    assert done.returncode == 2
    assert f"{other}:2: data.image_size" in done.stderr
    assert f"{other}:5: scorer.k: expected an integer of at least 1, found 0" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_two_recipes_of_one_name_are_refused(recipe, tmp_path):
    done = adkit("run", recipe, recipe, cwd=tmp_path)
    assert done.returncode == 2
    assert "run.name: expected a name of its own, found 'small'" in done.stderr


def test_an_adapter_that_is_not_there_is_refused_in_words(recipe, tmp_path):
    done = adkit("run", recipe, "--set", "adapter.use=padna", cwd=tmp_path)
    assert done.returncode == 2
    assert 'adapter.use: no adapter is named "padna" (did you mean panda?); adapters here: ' in done.stderr


@pytest.mark.slow
def test_a_full_disk_is_told_and_leaves_nothing(recipe, tmp_path):
    def small_files_only():
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))

    done = adkit_process("run", recipe, cwd=tmp_path, preexec_fn=small_files_only)
    assert done.returncode == 2, done.stderr
    assert "expected a folder that the run can be written to" in done.stderr
    assert list((tmp_path / "runs").iterdir()) == []


def test_check_counts_images_and_memory(recipe, tmp_path):
    done = adkit("check", recipe, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "stripes: 6 normal images to fit, 2 to calibrate, 6 to test (3 anomalous, 3 with a mask)" in done.stdout
    # layer1 and layer2 of a 64-pixel image: 16 × 16 × 32 and 8 × 8 × 48 float32 of 6 images, and numbers of cells
    expected = 6 * (4 * (16 * 16 * 32 + 8 * 8 * 48) + 32 * (16 * 16 + 8 * 8)) / 1000
    assert f"fitting the scorer takes at most {expected:.3g} kB\n" in done.stdout


def test_check_counts_the_memory_of_a_fold(recipe, tmp_path):
    done = adkit("check", recipe, "--set", 'threshold.method="cross"', cwd=tmp_path)
    one = 6 * (4 * (16 * 16 * 32 + 8 * 8 * 48) + 32 * (16 * 16 + 8 * 8)) / 1000  # 8 images in 5 folds
    assert f"takes at most {one:.3g} kB for each of 5 folds, one after the other\n" in done.stdout


def test_check_counts_what_is_passed_over(recipe, stripes, tmp_path):
    for name in ("notes.txt", "more.txt", ".DS_Store"):
        (stripes / "stripes/train/good" / name).touch()
    assert "  passed over 2 × .txt, 1 × hidden\n" in adkit("check", recipe, cwd=tmp_path).stdout


def test_check_finds_a_truncated_mask(recipe, stripes, tmp_path):
    mask = stripes / "stripes/ground_truth/square/001_mask.png"
    mask.write_bytes(mask.read_bytes()[:-40])
    done = adkit("check", recipe, cwd=tmp_path)
    assert "warning: stripes: 1 anomalous image has a mask that cannot be read" in done.stdout
    assert "6 to test (3 anomalous, 2 with a mask)" in done.stdout


FAULTY = """
from adkit.plugin import Component, Params, Scorer, hookimpl

class Faulty(Scorer):
    def fit(self, stream):
        raise ZeroDivisionError("in the plugin")

    def score(self, features):
        pass

    def state_dict(self):
        pass

    def load_state_dict(self, state):
        pass

@hookimpl
def adkit_scorers():
    return [Component.scorer("faulty", Params, Faulty)]
"""


def test_a_fault_of_a_plugin_exits_1_and_names_the_plugin_and_its_log(recipe, tmp_path, monkeypatch):
    install(tmp_path, "broken", FAULTY)
    monkeypatch.syspath_prepend(tmp_path)
    text = recipe.read_text().replace('use = "knn"\nk = 1', 'use = "faulty"')
    recipe.write_text(text)
    done = adkit("run", recipe, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    log = tmp_path / "runs" / "small.failed.log"
    sentence = "plugin fault: scorer faulty of broken 1.0 (broken_plugin): fit: ZeroDivisionError: in the plugin"
    assert f"{sentence}; the traceback is in {log}" in done.stderr
    assert "internal fault" not in done.stderr
    assert "Traceback" in log.read_text()
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_no_folder_and_tells_by_its_status(recipe, tmp_path, number, status):
    text = recipe.read_text().replace("image_size = 64", "image_size = 1024")
    recipe.write_text(text)
    process = subprocess.Popen(
        [sys.executable, "-m", "adkit", "run", str(recipe)],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # a shell's background jobs ignore SIGINT
    )
    runs = tmp_path / "runs"
    deadline = time.monotonic() + 120
    while not (runs.exists() and any(runs.iterdir())) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    _, shown = process.communicate(timeout=120)
    assert process.returncode == status, shown
    assert shown.splitlines()[-1] == ("adkit: interrupted" if number == signal.SIGINT else "adkit: terminated")
    assert list(runs.iterdir()) == []


@pytest.fixture
def two(recipe, stripes):
    """The recipe with a second category, which takes its time."""
    write_category(stripes / "z-later", train=120)
    recipe.write_text(recipe.read_text().replace("batch_size = 4", "batch_size = 1"))
    return recipe


def stop_at(number, recipe, tmp_path, *arguments):
    """Send a run the signal when its first category is finished, and give what it showed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "adkit", "run", str(recipe), *arguments], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("runs/.small.partial/finished/*.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    return process.communicate(timeout=120)[1]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_leaves_what_is_finished(two, tmp_path, number):
    shown = stop_at(number, two, tmp_path)
    told = f"{tmp_path / 'runs' / 'small'}: kept 1 of 2 categories; adkit run --resume goes on from there" in shown
    assert told == (number != signal.SIGKILL)
    refused = adkit("run", two, cwd=tmp_path)
    assert refused.returncode == 2
    assert "interrupted after 1 of 2 categories: go on with --resume, or start over with --fresh" in refused.stderr
    again = adkit("run", two, "--resume", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "going on after 1 of 2 categories" in again.stderr
    assert "stripes: fit" not in again.stderr
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["small"]


def test_resume_and_fresh_together_are_refused(recipe, tmp_path):
    done = adkit("run", recipe, "--resume", "--fresh", cwd=tmp_path)
    assert done.returncode == 2
    assert "argument --fresh: not allowed with argument --resume" in done.stderr


def test_help_takes_less_than_0_35_s_of_cpu_time(tmp_path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert adkit_process("--help", cwd=tmp_path).returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.35, SLOW_START


def test_the_command_alone_prints_its_help(tmp_path):
    alone = adkit(cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    assert alone.stdout == adkit("--help", cwd=tmp_path).stdout
    assert "adkit run" in alone.stdout


def test_an_option_without_a_command_is_refused(tmp_path):
    done = adkit("--resume", cwd=tmp_path)
    assert done.returncode == 2
    assert "unrecognized arguments: --resume" in done.stderr


def test_help_imports_no_torch(tmp_path):
    code = "import sys; from adkit.cli.main import main\ntry: main(['--help'])\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "False", SLOW_START


def test_syntax_error_imports_no_torch(tmp_path):
    (tmp_path / "broken.toml").write_text("[data\n")
    code = (
        "import sys; from adkit.cli.main import main\n"
        "print(main(['check', 'broken.toml']), main(['run', 'broken.toml']), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "2 2 False\n", SLOW_START
    assert "broken.toml:1" in done.stderr


def test_schema_is_json(tmp_path):
    import json

    assert "properties" in json.loads(adkit("schema", cwd=tmp_path).stdout)


def test_plugins_lists_each_built_in(tmp_path):
    shown = adkit("plugins", cwd=tmp_path).stdout
    for name in ("timm", "knn", "center", "spade", "bilinear"):
        assert name in shown


def test_console_script_is_the_same_command(tmp_path):
    script = Path(sys.executable).with_name("adkit")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.startswith("adkit ")


def test_recipes_may_stand_behind_an_option(recipe, tmp_path):
    done = adkit("run", recipe, "--set", "scorer.k=2", tmp_path / "missing.toml", cwd=tmp_path)
    assert done.returncode == 2
    assert "missing.toml: no such recipe" in done.stderr


def test_an_unknown_option_is_refused(recipe, tmp_path):
    done = adkit("run", recipe, "--outptu", "x", cwd=tmp_path)
    assert done.returncode == 2
    assert "unrecognized arguments: --outptu" in done.stderr


def test_thresholds_are_shown(recipe, tmp_path):
    done = adkit("run", recipe, cwd=tmp_path)
    assert "≤ 0.333" in done.stdout


def test_normal_images_alone_are_told_to_measure_nothing(recipe, stripes, tmp_path):
    import shutil

    shutil.rmtree(stripes / "stripes" / "test")
    shutil.rmtree(stripes / "stripes" / "ground_truth")
    done = adkit("run", recipe, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "stripes: no test images, so it has no metrics" in done.stderr
    assert "no AUROC and the like: they take test images of both kinds" in done.stdout
