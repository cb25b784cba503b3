"""Sweeps: a run per point, ranked; one that fails or is killed ends nothing."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w

import adkit
import adkit.runner.sweep as sweeping
from adkit.errors import UserError
from adkit.report.report import Report
from adkit.runner.folder import only_run
from tests.cli.commands import adkit as command
from tests.data.categories import write_category
from tests.recipe.small import write_small

Recipe = dict[str, Any]


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    monkeypatch.setenv("ADKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ADKIT_CACHE_GB", "1")
    made = write_small(tmp_path)
    made["run"] |= {"synthetic": 8}
    made["sweep"] = {"scorer": {"k": [1, 3, 9]}}
    return made


def written(recipe: Recipe, folder: Path) -> Path:
    path = folder / "small.toml"
    path.write_text(tomli_w.dumps(recipe))
    return path


def ranked(folder: Path) -> list[dict[str, Any]]:
    points: list[dict[str, Any]] = json.loads((folder / "sweep.json").read_text())["points"]
    return points


def interrupted_after_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Carry out a sweep, but for Ctrl-C when the second point begins; the name of the first."""
    calls: list[str] = []
    run = sweeping.run

    def killed(one: Any, **options: Any) -> Any:
        calls.append(one.run.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return run(one, **options)

    with monkeypatch.context() as patched:
        patched.setattr(sweeping, "run", killed)
        assert command("run", path).returncode == 130
    return calls[0]


def test_points_are_runs_ranked_by_drawn_defects(recipe: Recipe, tmp_path: Path) -> None:
    done = command("run", written(recipe, tmp_path))
    folder = tmp_path / "runs" / "small"
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(
        "3 points, ranked by the AUROC of drawn defects, in which no test image took part\n"
        f"sweep: {folder / 'comparison.html'}\n"
    )
    points = ranked(folder)
    assert sorted(point["values"]["scorer.k"] for point in points) == [1, 3, 9]
    figures = [point["synthetic"] for point in points]
    assert figures == sorted(figures, reverse=True)
    for point in points:
        report = Report.load(folder / point["name"] / "report.json")
        assert report.categories["stripes"].synthetic_auroc == point["synthetic"]
        assert report.mean["image_auroc"] == point["image_auroc"]
    assert "adkit comparison" in (folder / "comparison.html").read_text()


def test_each_point_is_the_run_that_it_would_be_alone(recipe: Recipe, tmp_path: Path) -> None:
    command("run", written(recipe, tmp_path))
    del recipe["sweep"]
    recipe["scorer"]["k"] = 3
    recipe["run"] |= {"name": "alone"}
    alone = adkit.run(recipe)
    (point,) = (one for one in ranked(tmp_path / "runs" / "small") if one["values"]["scorer.k"] == 3)
    scores = (tmp_path / "runs" / "small" / point["name"] / "scores.csv").read_bytes()
    assert scores == Path(alone.folder, "scores.csv").read_bytes()


def test_features_are_extracted_once(recipe: Recipe, tmp_path: Path, extracted: list[int]) -> None:
    command("run", written(recipe, tmp_path))
    images = sum(1 for path in (tmp_path / "data").rglob("*.png") if "ground_truth" not in path.parts)
    # The drawn ones, and for each run a black one that shows whether there are maps.
    assert sum(extracted) == images + 8 + 3


def test_by_the_test_it_says_what_that_means(recipe: Recipe, tmp_path: Path) -> None:
    recipe["sweep"]["rank_by"] = "test"
    done = command("run", written(recipe, tmp_path))
    assert (
        "ranked by the test itself: the figures of the best are better than those of new images will be" in done.stdout
    )
    figures = [point["test"] for point in ranked(tmp_path / "runs" / "small")]
    assert figures == sorted(figures, reverse=True)


def test_a_point_that_fails_ends_nothing(recipe: Recipe, tmp_path: Path) -> None:
    recipe["sweep"] = {"scorer": {"k": [1, 100_000, 2]}}
    done = command("run", written(recipe, tmp_path))
    assert done.returncode == 2
    assert "; 1 failed\n" in done.stdout
    last = ranked(tmp_path / "runs" / "small")[-1]
    assert last["values"] == {"scorer.k": 100_000}
    assert "expected at most" in last["problem"]


def test_a_killed_sweep_goes_on(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, folder = written(recipe, tmp_path), tmp_path / "runs" / "small"
    name = interrupted_after_one(path, monkeypatch)
    assert not (folder / "sweep.json").exists()
    refused = command("run", path)
    assert refused.returncode == 2
    assert "a sweep of this name was interrupted: go on with --resume, or start over with --fresh" in refused.stderr
    first = (folder / name / "report.json").stat().st_mtime_ns
    assert command("run", path, "--resume").returncode == 0
    assert len(ranked(folder)) == 3
    assert (folder / name / "report.json").stat().st_mtime_ns == first  # it was not run again


def test_an_older_sweep_is_kept_aside(recipe: Recipe, tmp_path: Path) -> None:
    recipe["sweep"] = {"scorer": {"k": [1, 2]}}
    path = written(recipe, tmp_path)
    command("run", path)
    command("run", path)
    assert (tmp_path / "runs" / "small.1" / "sweep.json").exists()


def test_every_point_is_checked_before_the_first_run(recipe: Recipe, tmp_path: Path) -> None:
    recipe["sweep"] = {"scorer": {"k": [1, 0, "many"]}}
    done = command("run", written(recipe, tmp_path))
    assert done.returncode == 2
    assert "scorer.k: expected an integer of at least 1, found 0" in done.stderr
    assert 'scorer.k: expected an integer of at least 1, found "many"' in done.stderr
    assert not (tmp_path / "runs").exists()
    assert command("check", written(recipe, tmp_path)).returncode == 2


def test_check_counts_the_points(recipe: Recipe, tmp_path: Path) -> None:
    assert "  sweep      3 points, by synthetic" in command("check", written(recipe, tmp_path)).stdout


def test_without_drawn_defects_there_is_nothing_to_rank_by(recipe: Recipe, tmp_path: Path) -> None:
    recipe["run"] |= {"synthetic": 0}
    done = command("run", written(recipe, tmp_path))
    assert "run.synthetic: expected a number above 0, by which points are ranked, found 0" in done.stderr


def test_python_is_told_where_sweeps_are_run(recipe: Recipe) -> None:
    with pytest.raises(UserError, match=r"\[sweep\]: expected one setting, found lists of them"):
        adkit.run(recipe)


def test_points_that_were_tested_on_other_images_have_no_page(recipe: Recipe, tmp_path: Path) -> None:
    rest = tmp_path / "data" / "waves"
    write_category(rest)
    recipe["sweep"] = {"data": {"category": ["stripes", "waves"]}}
    done = command("run", written(recipe, tmp_path))
    folder = tmp_path / "runs" / "small"
    assert done.returncode == 0
    assert "there is no page: adkit compare: expected runs with test images in common" in done.stderr
    assert done.stdout.endswith(f"sweep: {folder / 'sweep.json'}\n")


@pytest.mark.parametrize("change", ["recipe", "image", "only"])
def test_a_sweep_of_something_else_does_not_go_on(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    path = written(recipe, tmp_path)
    interrupted_after_one(path, monkeypatch)
    more = {"recipe": ["--set", "run.seed=5"], "only": ["--only", "stripes"], "image": []}[change]
    if change == "image":
        first = sorted((tmp_path / "data").rglob("train/good/*.png"))[0]
        first.write_bytes(sorted((tmp_path / "data").rglob("train/good/*.png"))[1].read_bytes())
    done = command("run", path, "--resume", *more)
    assert done.returncode == 2
    assert "the interrupted sweep cannot go on, since " in done.stderr
    assert command("run", path, "--fresh", *more).returncode == 0


def test_a_point_whose_values_changed_is_run_again(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted_after_one(written(recipe, tmp_path), monkeypatch)
    recipe["sweep"] = {"scorer": {"k": [2, 3, 9]}}
    assert command("run", written(recipe, tmp_path), "--resume").returncode == 0
    points = ranked(tmp_path / "runs" / "small")
    for point in points:
        settings = tomllib.loads((tmp_path / "runs" / "small" / point["name"] / "recipe.toml").read_text())
        assert settings["scorer"]["k"] == point["values"]["scorer.k"]
    assert sorted(point["values"]["scorer.k"] for point in points) == [2, 3, 9]


@pytest.mark.parametrize("how", ["--resume", "--fresh"])
def test_two_sweeps_of_one_name_do_not_meet(recipe: Recipe, tmp_path: Path, how: str) -> None:
    path, folder = written(recipe, tmp_path), tmp_path / "runs" / "small"
    folder.parent.mkdir()
    with only_run(folder):
        done = command("run", path, how)
    assert done.returncode == 2
    assert f"{folder}: expected to be the only run of this name, found another one at work" in done.stderr
    assert not folder.exists()


def test_what_cannot_be_ranked_is_not_said_to_be(recipe: Recipe, tmp_path: Path) -> None:
    recipe["data"]["calibration"] = 0.0
    done = command("run", written(recipe, tmp_path))
    assert "3 points, not ranked, since none has held-out normal images to draw on\n" in done.stdout
