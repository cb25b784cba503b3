"""What a run keeps on disk to go on from, and what it must match for that."""

import pytest

from adkit import UserError
from adkit.report.report import CategoryReport, ImageCounts
from adkit.runner.fingerprint import SCHEMA, Fingerprint
from adkit.runner.resume import Finished, Ledger, State


@pytest.fixture
def ledger(tmp_path):
    folder = Ledger(tmp_path / ".tile.partial")
    folder.run.mkdir(parents=True)
    return folder


STATE = State(categories=["a", "b"], images=4, stored=False)
PRINT = Fingerprint(
    {"schema": SCHEMA, "recipe.scorer.k": 1, "versions.torch": "2.4", "machine.device": "cpu", "weights.0": "ab"}
)
RULE = "adkit/runner/fingerprint.py says what a run must match to be gone on with"


def record(category):
    counts = ImageCounts(train=1, calibration=0, test_normal=0, test_anomalous=0, unreadable=0)
    report = CategoryReport(metrics={"image_auroc": 1 / 3}, images=counts, threshold=None, pixel_threshold=None)
    return Finished(
        category=category,
        report=report,
        rows=[(category, "test", "good/000.png", "good", 0, "0.1", "", 1)],
        warnings=["few"],
        unreadable={"x": "empty"},
        timings={"fit": 0.1},
    )


def test_a_record_comes_back_as_it_was(ledger):
    (ledger.run / "detector").mkdir()
    ledger.finish(0, record("a"), ledger.run / "detector")
    assert ledger.finished() == {"a": record("a")}


def test_a_record_that_was_not_written_whole_is_no_record(ledger):
    ledger.open(PRINT, STATE)
    (ledger.folder / "finished").mkdir()
    (ledger.folder / "finished" / "000000.draft").write_text('{"category": "a", "rep')
    assert ledger.finished() == {}
    assert ledger.summary() is None


def test_a_damaged_record_is_refused(ledger):
    (ledger.folder / "finished").mkdir()
    (ledger.folder / "finished" / "000000.json").write_text("{}")
    with pytest.raises(UserError, match=r"000000\.json: expected what adkit wrote .*: start over with --fresh"):
        ledger.finished()


def test_a_workplace_lasts_until_its_category_is_finished(ledger):
    (ledger.workspace(0) / "checkpoint").touch()
    (ledger.workspace(1) / "checkpoint").touch()
    assert (ledger.workspace(0) / "checkpoint").exists()
    ledger.finish(0, record("a"), ledger.run)
    assert [path.name for path in (ledger.folder / "work").iterdir()] == ["000001"]


def test_checkpoints_are_something_to_go_on_from(ledger):
    ledger.open(PRINT, STATE)
    (ledger.workspace(0) / "checkpoint.pt").touch()
    assert ledger.summary() == "part of the training"


def test_rows_of_frozen_blocks_are_something_to_go_on_from(ledger):
    ledger.open(PRINT, STATE)
    rows = ledger.workspace(0) / "extractor-0" / "frozen"
    rows.mkdir(parents=True)
    (rows / "journal.jsonl").write_text('{"ids": ["x"], "unreadable": {}, "checksum": 0, "seconds": 1.0}\n')
    assert ledger.summary() == "part of the training"


def test_an_empty_workplace_is_nothing_to_go_on_from(ledger):
    ledger.open(PRINT, STATE)
    ledger.workspace(0)
    assert ledger.summary() is None


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"recipe.scorer.k": 2}, "the recipe changed: scorer.k was 1 and is 2"),
        ({"recipe.scorer.k": ...}, "the recipe changed: scorer.k was 1 and is absent"),
        ({"recipe.scorer.p": None}, "the recipe changed: scorer.p was absent and is None"),
        ({"versions.torch": "2.5"}, "versions changed: torch was '2.4' and is '2.5'"),
        ({"code.acme": "cd"}, "the code of acme changed"),
        ({"machine.device": "cuda"}, "the machine changed: device was 'cpu' and is 'cuda'"),
        ({"files.x.png": [1, 2]}, "1 image joined the data (x.png)"),
        ({"files.x.png": None}, "1 image joined the data (x.png)"),
        ({"weights.0": "cd"}, "the extractor's weights changed"),
        ({"splits.a": "0"}, "splits, labels, masks or groups changed in a"),
    ],
)
def test_differences_are_named(change, sentence):
    assert PRINT.differences(changed(PRINT, change)) == [sentence], RULE


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"files.x.png": [1, 3]}, "1 image changed (x.png)"),
        ({"files.x.png": None}, "1 image changed (x.png)"),
        ({"files.x.png": ...}, "1 image left the data (x.png)"),
        ({"files.x.png": ..., "splits.a": "1"}, "1 image left the data (x.png)"),
    ],
)
def test_differences_of_files_are_named(change, sentence):
    before = changed(PRINT, {"files.x.png": [1, 2], "splits.a": "0"})
    assert before.differences(changed(before, change)) == [sentence], RULE


def changed(fingerprint, change):
    """The fingerprint with other values; a value of ``...`` leaves the key out."""
    values = {**fingerprint.root, **change}
    return Fingerprint({key: value for key, value in values.items() if value is not ...})


def test_equal_fingerprints_differ_in_nothing():
    assert PRINT.differences(PRINT) == [], RULE


@pytest.mark.parametrize(
    ("fingerprint", "schema"),
    [
        ('{"recipe": {"scorer.k": 1}, "versions": {}, "splits": {}, "weights": [], "files": {}}', "none"),
        ('{"schema": "adkit.runner.fingerprint/9"}', "adkit.runner.fingerprint/9"),
    ],
)
def test_a_run_that_another_version_began_is_refused(ledger, fingerprint, schema):
    ledger.open(PRINT, STATE)
    (ledger.folder / "fingerprint.json").write_text(fingerprint)
    with pytest.raises(UserError) as caught:
        ledger.open(PRINT, STATE)
    assert str(caught.value) == (
        f"{ledger.folder}: expected to go on with the run that was interrupted, found that another version of adkit "
        f"began it (its fingerprint has schema {schema}, expected {SCHEMA}): undo that, or start over with --fresh"
    )


def test_a_damaged_fingerprint_is_refused(ledger):
    ledger.open(PRINT, STATE)
    (ledger.folder / "fingerprint.json").write_text("[]")
    with pytest.raises(UserError, match=r"fingerprint\.json: expected what adkit wrote .*: start over with --fresh"):
        ledger.open(PRINT, STATE)
