"""The table of a comparison in each format, and the command."""

import csv
import io

import pytest

from adkit.report.compare.comparison import compare
from adkit.report.compare.tables import written
from tests.cli.commands import adkit
from tests.report.compare.runs import write_run
from tests.report.compare.test_comparison import ONE, OTHER, noisy


@pytest.fixture
def two(tmp_path):
    return [write_run(tmp_path / "one_%", ONE), write_run(tmp_path / "o|er", OTHER)]


def test_markdown(two):
    heads, line, first, second = written(compare(two), "markdown").splitlines()
    assert heads == "| run | image AUROC | AUROC less one_% | other verdicts | seconds | memory |"
    assert line == "| --- | ---: | ---: | ---: | ---: | ---: |"
    assert first == "| one_% | 0.500 |  |  | 4 | 2.0 GB |"
    assert second == "| o\\|er | 0.500 | -0.500 |  | 4 | 2.0 GB |"


def test_latex(two):
    lines = written(compare(two), "latex").splitlines()
    assert lines[0] == r"\begin{tabular}{lrrrrr}"
    assert lines[2] == r"run & image AUROC & AUROC less one\_\% & other verdicts & seconds & memory \\"
    assert lines[5] == r"o|er & 0.500 & -0.500 &  & 4 & 2.0 GB \\"
    assert lines[-1] == r"\end{tabular}"


def test_csv(two):
    first, second = csv.DictReader(io.StringIO(written(compare(two), "csv")))
    assert (first["run"], first["difference"], first["image_auroc_shared"]) == ("one_%", "", "1")
    assert (second["difference"], second["difference_low"], second["images"]) == ("-0.5", "", "4")
    assert (second["seconds"], second["peak_memory_bytes"]) == ("4", "2000000000")


def test_an_interval_stands_beside_its_difference(tmp_path):
    found = compare(noisy(tmp_path))
    (apart,) = found.differences
    assert apart.interval is not None
    low, high = apart.interval
    assert f"| {apart.value:+.3f} [{low:+.3f}, {high:+.3f}] |" in written(found, "markdown")
    second = list(csv.DictReader(io.StringIO(written(found, "csv"))))[1]
    assert (float(second["difference_low"]), float(second["difference_high"])) == pytest.approx((low, high))
    assert second["interval_by"] == "DeLong"


def test_the_command_shows_both_tables(two):
    done = adkit("compare", *two)
    assert done.returncode == 0
    assert "-0.500" in done.stdout
    assert "disagreements" in done.stdout
    assert "bad1" in done.stdout


def test_the_command_prints_a_format_and_no_more(two):
    assert adkit("compare", *two, "--format", "csv").stdout == written(compare(two), "csv")


def test_a_real_run_beside_itself_with_its_page(small_run, tmp_path):
    copy = tmp_path / "copy"
    copy.symlink_to(small_run.folder)
    page = tmp_path / "page.html"
    done = adkit("compare", small_run.folder, copy, "--page", page)
    assert done.returncode == 0
    assert done.stdout.endswith(f"page: {page}\n")
    assert "They rank every image alike" in page.read_text(encoding="utf-8")


def test_bad_runs_end_with_2(tmp_path):
    done = adkit("compare", tmp_path, tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("adkit: ") or "expected" in done.stderr


def test_a_format_has_no_page_to_open(two):
    done = adkit("compare", *two, "--format", "csv", "--open")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--open: expected without --format" in done.stderr
