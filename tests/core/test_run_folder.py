import logging
import os

import pytest

from adkit import UserError
from adkit.folder import RunFault, run_folder


def test_a_whole_run_gets_its_name(tmp_path):
    with run_folder(tmp_path / "tile") as folder:
        (folder / "report.json").write_text("{}")
    assert (tmp_path / "tile" / "report.json").read_text() == "{}"


def test_the_name_is_not_there_before_the_run_is_whole(tmp_path):
    with run_folder(tmp_path / "tile"):
        assert not (tmp_path / "tile").exists()


def test_older_runs_are_kept_aside_and_numbered(tmp_path):
    for number in range(3):
        with run_folder(tmp_path / "tile") as folder:
            (folder / "number").write_text(str(number))
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
    with run_folder(tmp_path / "tile") as folder:
        (folder / "old").touch()
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


def test_a_run_of_the_same_process_number_that_was_killed_is_in_nobodys_way(tmp_path):
    (tmp_path / f".tile.{os.getpid()}.partial").mkdir()
    with run_folder(tmp_path / "tile"):
        pass
    assert (tmp_path / "tile").is_dir()


def test_the_folder_has_the_permissions_of_any_other(tmp_path):
    with run_folder(tmp_path / "tile"):
        pass
    (tmp_path / "other").mkdir()
    assert (tmp_path / "tile").stat().st_mode == (tmp_path / "other").stat().st_mode
