import os
import threading

import pytest

from adkit.utils.atomic import check_room, sweep_files, sync, whole_file, whole_folder
from tests.utils.disks import files_of_at_most


class Ended(Exception):
    """What ends a block before it has written everything."""


def write_half(path, ends):
    path.write_text("hal")
    raise ends


def test_a_file_is_not_there_before_it_is_whole(tmp_path):
    with whole_file(tmp_path / "a") as draft:
        draft.write_text("all")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a").read_text() == "all"


def test_a_file_leaves_nothing_else_behind(tmp_path):
    with whole_file(tmp_path / "a") as draft:
        draft.write_text("all")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("ends", [Ended, KeyboardInterrupt])
def test_a_file_whose_writing_ends_early_leaves_the_older_one_alone(tmp_path, ends):
    (tmp_path / "a").write_text("older")
    with pytest.raises(ends), whole_file(tmp_path / "a") as draft:
        write_half(draft, ends)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "older"}


def test_a_file_that_nobody_wrote_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "a"):
        pass


def test_the_folders_of_a_file_are_made(tmp_path):
    with whole_file(tmp_path / "b" / "c" / "a") as draft:
        draft.write_text("all")
    assert (tmp_path / "b" / "c" / "a").exists()


def test_the_draft_of_a_file_is_hidden_beside_it(tmp_path):
    with whole_file(tmp_path / "a") as draft:
        draft.touch()
        assert draft.parent == tmp_path
        assert draft.name.startswith(".")


def test_a_name_as_long_as_the_file_system_takes_is_written(tmp_path):
    name = "a" * 255
    with whole_file(tmp_path / name) as draft:
        draft.touch()
    assert (tmp_path / name).exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_a_file_has_the_mode_of_any_other(tmp_path):
    with whole_file(tmp_path / "a") as draft:
        draft.touch()
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_many_writers_of_a_file_leave_one_of_theirs(tmp_path):
    start = threading.Barrier(8)

    def write(text):
        start.wait()
        with whole_file(tmp_path / "a") as draft:
            draft.write_text(text)

    texts = [str(number) * 1000 for number in range(8)]
    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() in texts


def test_sync_hands_the_file_to_the_operating_system(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda number: flushed.append(os.fstat(number).st_ino))
    (tmp_path / "a").write_text("all")
    sync(tmp_path / "a")
    assert flushed == [(tmp_path / "a").stat().st_ino]


def test_sync_leaves_the_file_as_it_is(tmp_path):
    (tmp_path / "a").write_text("all")
    sync(tmp_path / "a")
    assert (tmp_path / "a").read_text() == "all"


def write_folder(folder, text, **options):
    with whole_folder(folder, **options) as draft:
        (draft / "a").write_text(text)


def test_a_folder_is_not_there_before_it_is_whole(tmp_path):
    with whole_folder(tmp_path / "f") as draft:
        (draft / "a").write_text("all")
        assert not (tmp_path / "f").exists()
    assert (tmp_path / "f" / "a").read_text() == "all"


def test_a_folder_leaves_nothing_else_behind(tmp_path):
    write_folder(tmp_path / "f", "all")
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize("ends", [Ended, KeyboardInterrupt])
def test_a_folder_whose_writing_ends_early_leaves_nothing(tmp_path, ends):
    with pytest.raises(ends), whole_folder(tmp_path / "b" / "f") as draft:
        write_half(draft / "a", ends)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_whose_writing_ends_early_leaves_the_older_one_alone(tmp_path):
    write_folder(tmp_path / "f", "older")
    with pytest.raises(Ended), whole_folder(tmp_path / "f", replace=True):
        raise Ended
    assert (tmp_path / "f" / "a").read_text() == "older"


def test_the_folders_above_a_folder_are_made(tmp_path):
    write_folder(tmp_path / "b" / "c" / "f", "all")
    assert (tmp_path / "b" / "c" / "f" / "a").exists()


def test_a_folder_that_is_there_is_not_replaced_unasked(tmp_path):
    write_folder(tmp_path / "f", "older")
    with pytest.raises(OSError, match="f'"):
        write_folder(tmp_path / "f", "newer")
    assert (tmp_path / "f" / "a").read_text() == "older"


def test_a_folder_that_is_there_is_replaced_as_a_whole(tmp_path):
    write_folder(tmp_path / "f", "older")
    (tmp_path / "f" / "more").touch()
    write_folder(tmp_path / "f", "newer", replace=True)
    assert {path.name: path.read_text() for path in tmp_path.rglob("*") if path.is_file()} == {"a": "newer"}


def test_a_folder_below_a_file_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError), whole_folder(tmp_path / "file" / "f"):
        raise AssertionError("the block ran")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_a_folder_has_the_mode_of_any_other(tmp_path):
    write_folder(tmp_path / "f", "all")
    (tmp_path / "g").mkdir()
    assert (tmp_path / "f").stat().st_mode == (tmp_path / "g").stat().st_mode


def left_behind(parent, name, *, locked=True):
    """What a process that was killed left of a folder of that name."""
    partial = parent / f".{name}.abcdefgh.partial"
    (partial / "new").mkdir(parents=True)
    (partial / "new" / "half").touch()
    if locked:
        (partial / "lock").touch()
    return partial


def test_what_a_killed_writer_left_of_a_folder_goes_with_the_next_of_its_name(tmp_path):
    left, other = left_behind(tmp_path, "a"), left_behind(tmp_path, "b")
    above = left_behind(tmp_path, "c")  # from when there was no folder x
    with whole_folder(tmp_path / "a"):
        assert not left.exists()
    assert other.exists()
    (tmp_path / "x").mkdir()
    with whole_folder(tmp_path / "x" / "c"):
        assert not above.exists()


def test_what_another_writer_is_at_work_on_stays(tmp_path):
    with whole_folder(tmp_path / "a") as draft:
        (draft / "first").touch()
        with whole_folder(tmp_path / "a"):
            assert (draft / "first").exists()
        (tmp_path / "a").rmdir()
    assert (tmp_path / "a" / "first").exists()


def test_a_folder_of_such_a_name_that_is_somebody_elses_stays(tmp_path):
    left = left_behind(tmp_path, "a", locked=False)
    with whole_folder(tmp_path / "a"):
        pass
    assert (left / "new" / "half").exists()


def test_drafts_of_files_that_killed_writers_left_are_swept(tmp_path):
    (tmp_path / "x").mkdir()
    for name in (".0123456789abcdef.draft", "x/.fedcba9876543210.draft"):
        (tmp_path / name).touch()
    others = {"a.draft", ".a.draft", ".0123456789abcdef.png"}
    for name in others:
        (tmp_path / name).touch()
    sweep_files(tmp_path)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == others


@pytest.mark.skipif(os.name == "nt", reason="limits are POSIX's")
def test_room_is_asked_for_and_given_back(tmp_path):
    check_room(tmp_path, 100_000)
    with files_of_at_most(50_000), pytest.raises(OSError, match="File too large"):
        check_room(tmp_path, 100_000)
    assert list(tmp_path.iterdir()) == []
