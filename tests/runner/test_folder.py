import errno
import logging
import shutil
import threading
from pathlib import Path

import pytest

from adkit import UserError
from adkit.runner.fingerprint import Fingerprint
from adkit.runner.folder import RunFault, run_folder
from adkit.runner.resume import State


def finish_something(ledger):
    """As far as a run's folder looks: the first of three categories is done."""
    state = State(categories=["a", "b", "c"], images=9, stored=False)
    (ledger.folder / "state.json").write_text(state.model_dump_json())
    (ledger.folder / "finished").mkdir()
    (ledger.folder / "finished" / "000000.json").touch()


def work(ledger, error):
    finish_something(ledger)
    logging.getLogger("adkit").info("first attempt")
    raise error


def interrupt(final, say=lambda text: None):
    with pytest.raises(KeyboardInterrupt), run_folder(final, say=say) as ledger:
        work(ledger, KeyboardInterrupt)


def test_a_whole_run_gets_its_name(tmp_path):
    with run_folder(tmp_path / "tile") as ledger:
        (ledger.run / "report.json").write_text("{}")
    assert (tmp_path / "tile" / "report.json").read_text() == "{}"


def test_the_name_is_not_there_before_the_run_is_whole(tmp_path):
    with run_folder(tmp_path / "tile"):
        assert not (tmp_path / "tile").exists()


def test_older_runs_are_kept_aside_and_numbered(tmp_path):
    for number in range(3):
        with run_folder(tmp_path / "tile") as ledger:
            (ledger.run / "number").write_text(str(number))
    kept = {path.name: (path / "number").read_text() for path in tmp_path.iterdir()}
    assert kept == {"tile": "2", "tile.1": "0", "tile.2": "1"}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), UserError("wrong")])
def test_an_interrupt_or_bad_input_leaves_nothing(tmp_path, error):
    with pytest.raises(type(error)), run_folder(tmp_path / "tile"):
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_fault_leaves_the_log_with_its_traceback(tmp_path):
    with pytest.raises(RunFault, match="ZeroDivisionError: division by zero") as fault, run_folder(tmp_path / "tile"):
        1 / 0  # noqa: B018
    assert fault.value.log == tmp_path / "tile.failed.log"
    assert "Traceback" in fault.value.log.read_text()
    assert list(tmp_path.iterdir()) == [fault.value.log]


def test_a_fault_leaves_an_older_run_in_place(tmp_path):
    with run_folder(tmp_path / "tile") as ledger:
        (ledger.run / "old").touch()
    with pytest.raises(RunFault), run_folder(tmp_path / "tile"):
        raise RuntimeError("broken")
    assert (tmp_path / "tile" / "old").exists()


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "runs").touch()
    with (
        pytest.raises(
            UserError, match=r"runs/tile: expected a folder that the run can be written to, found: .*--output"
        ),
        run_folder(tmp_path / "runs" / "tile"),
    ):
        pass


def test_the_log_takes_what_adkit_and_ignite_say(tmp_path):
    with run_folder(tmp_path / "tile"):
        logging.getLogger("adkit").info("hello")
        logging.getLogger("ignite.engine").warning("from ignite")
        logging.getLogger("ignite.engine").info("a pause")
    text = (tmp_path / "tile" / "log.txt").read_text()
    assert "INFO adkit: hello" in text
    assert "from ignite" in text
    assert "a pause" not in text


def test_loggers_are_as_before_afterwards(tmp_path):
    before = list(logging.getLogger("adkit").handlers)
    with run_folder(tmp_path / "tile"):
        pass
    assert logging.getLogger("adkit").handlers == before


def test_the_folder_has_the_permissions_of_any_other(tmp_path):
    with run_folder(tmp_path / "tile"):
        pass
    (tmp_path / "other").mkdir()
    assert (tmp_path / "tile").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (UserError("wrong"), UserError),
        (OSError(errno.ENOSPC, "No space left on device"), UserError),
        (RuntimeError("broken"), RunFault),
    ],
)
def test_what_is_finished_is_kept(tmp_path, error, seen):
    with pytest.raises(seen), run_folder(tmp_path / "tile") as ledger:
        work(ledger, error)
    assert (tmp_path / ".tile.partial" / "run" / "log.txt").exists()
    assert not (tmp_path / "tile").exists()


def test_what_is_kept_is_told(tmp_path):
    told = []
    interrupt(tmp_path / "tile", say=told.append)
    assert told == [f"{tmp_path / 'tile'}: kept 1 of 3 categories; adkit run --resume goes on from there"]


def test_a_refusal_is_told_to_come_again(tmp_path):
    told = []
    with pytest.raises(UserError), run_folder(tmp_path / "tile", say=told.append) as ledger:
        work(ledger, UserError("wrong"))
    (sentence,) = told
    assert sentence.endswith("--resume goes on from there, and with the same recipe and data ends in the same way")


def test_a_fault_of_a_run_that_is_kept_leaves_its_log_twice(tmp_path):
    with pytest.raises(RunFault) as fault, run_folder(tmp_path / "tile") as ledger:
        work(ledger, RuntimeError("broken"))
    assert fault.value.log.read_text() == (tmp_path / ".tile.partial" / "run" / "log.txt").read_text()


def test_an_interrupted_run_is_not_started_over_unasked(tmp_path):
    interrupt(tmp_path / "tile")
    with (
        pytest.raises(UserError, match=r"interrupted after 1 of 3 categories: go on with --resume, or start over with"),
        run_folder(tmp_path / "tile"),
    ):
        pass
    assert (tmp_path / ".tile.partial" / "finished" / "000000.json").exists()


def test_going_on_finds_what_was_there(tmp_path):
    interrupt(tmp_path / "tile")
    with run_folder(tmp_path / "tile", "resume") as ledger:
        assert ledger.summary() == "1 of 3 categories"
        logging.getLogger("adkit").info("second attempt")
    text = (tmp_path / "tile" / "log.txt").read_text()
    assert "first attempt" in text
    assert "second attempt" in text


def test_going_on_leaves_nothing_but_the_run(tmp_path):
    interrupt(tmp_path / "tile")
    with run_folder(tmp_path / "tile", "resume"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["tile"]


def test_starting_over_finds_nothing(tmp_path):
    interrupt(tmp_path / "tile")
    with run_folder(tmp_path / "tile", "fresh") as ledger:
        assert ledger.summary() is None
    assert "first attempt" not in (tmp_path / "tile" / "log.txt").read_text()


@pytest.mark.parametrize("interrupted", ["ask", "resume", "fresh"])
def test_a_run_that_had_finished_nothing_is_started_over(tmp_path, interrupted):
    (tmp_path / ".tile.partial" / "run").mkdir(parents=True)
    (tmp_path / ".tile.partial" / "run" / "half").touch()
    with run_folder(tmp_path / "tile", interrupted) as ledger:
        assert not (ledger.run / "half").exists()


def test_that_a_run_had_finished_nothing_is_told(tmp_path):
    (tmp_path / ".tile.partial" / "run").mkdir(parents=True)
    told = []
    with run_folder(tmp_path / "tile", say=told.append):
        pass
    assert told == [f"{tmp_path / 'tile'}: an interrupted run had finished nothing: starting over"]


def test_what_a_whole_run_left_when_it_was_killed_at_the_end_asks_nothing(tmp_path):
    with run_folder(tmp_path / "tile") as ledger:
        pass
    ledger.folder.mkdir()
    finish_something(ledger)  # its run/ has become the run's folder
    with run_folder(tmp_path / "tile"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tile", "tile.1"]


def test_a_second_run_of_the_same_name_is_refused(tmp_path):
    with (
        run_folder(tmp_path / "tile"),
        pytest.raises(UserError, match=r"found another one at work in \.tile\.partial: wait until that ends"),
        run_folder(tmp_path / "tile"),
    ):
        pass


def test_a_second_run_leaves_the_first_alone(tmp_path):
    with run_folder(tmp_path / "tile") as ledger:
        (ledger.run / "first").touch()
        with pytest.raises(UserError), run_folder(tmp_path / "tile", "fresh"):
            pass
    assert (tmp_path / "tile" / "first").exists()


def test_runs_of_two_names_do_not_meet(tmp_path):
    with run_folder(tmp_path / "tile"), run_folder(tmp_path / "brick"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["brick", "tile"]


def test_no_two_of_many_runs_of_one_name_are_at_work_at_once(tmp_path):
    at_work, most, refused = [], [], []

    def several():
        for _ in range(4):
            try:
                with run_folder(Path(tmp_path / "tile")):
                    at_work.append(1)
                    most.append(len(at_work))
                    at_work.pop()
            except UserError:
                refused.append(1)

    threads = [threading.Thread(target=several) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert len(most) + len(refused) == 12
    assert not list(tmp_path.glob(".*"))


def test_a_working_folder_that_is_removed_is_told(tmp_path):
    def gone(work):
        with run_folder(tmp_path / "tile") as ledger:
            shutil.rmtree(ledger.folder)
            work(ledger)

    def write(ledger):
        (ledger.run / "report.json").write_text("{}")

    def fail(ledger):
        raise RuntimeError("some library's word for it")

    sentence = (
        f"{tmp_path / 'tile'}: expected the folder that the run writes to until it ends, found that "
        f"{tmp_path / '.tile.partial'} was removed: leave it there, and run it again"
    )
    for work in (write, fail, lambda ledger: None):
        with pytest.raises(UserError) as told:
            gone(work)
        assert str(told.value) == sentence
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_of_what_was_finished_is_a_sentence(tmp_path):
    interrupt(tmp_path / "tile")
    with (
        pytest.raises(UserError) as told,
        run_folder(tmp_path / "tile", "resume") as ledger,
    ):
        ledger.open(Fingerprint({}), State(categories=["a", "b", "c"], images=9, stored=False))
    file = tmp_path / ".tile.partial" / "fingerprint.json"
    assert str(told.value) == (
        f"{file}: expected what adkit wrote when the run was interrupted, found: No such file or directory; "
        "start over with --fresh"
    )
