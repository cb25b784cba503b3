"""The commit of a checkout, in which nothing of what a hostile repository asks for is run."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

import adkit
from adkit.utils.revision import revision

AS_NOBODY = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}


def git(folder, *arguments):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")} | AS_NOBODY
    done = subprocess.run(
        ["git", "-c", "user.name=A", "-c", "user.email=a@b", *arguments],
        cwd=folder,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    """A repository of two files with one commit."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    (folder / "a.txt").write_text("a\n")
    (folder / "b.bin").write_text("b\n")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def head(folder):
    return git(folder, "rev-parse", "HEAD")


def test_a_clean_checkout_is_its_commit(checkout):
    assert revision(checkout) == head(checkout)
    assert len(head(checkout)) == 40


def test_a_folder_inside_a_checkout_is_of_its_commit(checkout):
    (checkout / "x" / "y").mkdir(parents=True)
    assert revision(checkout / "x" / "y") == head(checkout)


def test_a_changed_file_makes_it_dirty(checkout):
    (checkout / "a.txt").write_text("other\n")
    assert revision(checkout) == f"{head(checkout)}-dirty"


def test_a_change_that_is_staged_makes_it_dirty(checkout):
    (checkout / "a.txt").write_text("other\n")
    git(checkout, "add", ".")
    assert revision(checkout) == f"{head(checkout)}-dirty"


def test_a_file_that_is_not_tracked_does_not(checkout):
    (checkout / "c.txt").write_text("c\n")
    assert revision(checkout) == head(checkout)


def test_a_file_that_was_written_anew_as_it_was_does_not(checkout):
    (checkout / "a.txt").write_text("a\n")
    os.utime(checkout / "a.txt", (0, 0))
    assert revision(checkout) == head(checkout)


def test_looking_leaves_the_repository_as_it_is(checkout):
    def files():
        return {path: path.stat().st_mtime_ns for path in (checkout / ".git").rglob("*") if path.is_file()}

    before = files()
    os.utime(checkout / "a.txt", (0, 0))  # git would note in the index that it had looked at it
    revision(checkout)
    assert files() == before


def test_references_that_were_packed_are_found(checkout):
    git(checkout, "pack-refs", "--all")
    assert not (checkout / ".git" / "refs" / "heads" / "main").exists()
    assert revision(checkout) == head(checkout)


def test_a_commit_that_is_checked_out_without_a_branch(checkout):
    git(checkout, "checkout", "-q", "--detach")
    assert revision(checkout) == head(checkout)


def test_a_worktree_has_a_commit_of_its_own(checkout, tmp_path):
    git(checkout, "worktree", "add", "-q", "-b", "side", str(tmp_path / "side"))
    git(tmp_path / "side", "commit", "-q", "--allow-empty", "-m", "second")
    assert revision(tmp_path / "side") == head(tmp_path / "side") != head(checkout)
    (tmp_path / "side" / "a.txt").write_text("other\n")
    assert revision(tmp_path / "side") == f"{head(tmp_path / 'side')}-dirty"


def test_a_split_index_is_read_whole(checkout):
    git(checkout, "update-index", "--split-index")
    assert list((checkout / ".git").glob("sharedindex.*"))
    assert revision(checkout) == head(checkout)


def test_a_repository_of_sha256(tmp_path):
    git(tmp_path, "init", "-q", "--object-format=sha256")
    (tmp_path / "a.txt").write_text("a\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    assert revision(tmp_path) == head(tmp_path)
    assert len(head(tmp_path)) == 64


def test_outside_a_checkout_and_before_the_first_commit_there_is_none(tmp_path):
    assert revision(tmp_path) is None
    git(tmp_path, "init", "-q")
    assert revision(tmp_path) is None


def test_without_git_nothing_is_said_of_changes(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert revision(checkout) == f"{(checkout / '.git/refs/heads/main').read_text().strip()}-unchecked"


def test_an_index_that_is_damaged_says_nothing_of_changes(checkout):
    (checkout / ".git" / "index").write_bytes(b"junk")
    assert revision(checkout) == f"{head(checkout)}-unchecked"


@pytest.mark.parametrize("said", ["junk", "ref: ../../secret", "ref: refs/../../../secret", "ref: refs/heads/none", ""])
def test_a_head_that_leads_nowhere(checkout, tmp_path, said):
    (tmp_path / "secret").write_text("0" * 40)
    (checkout / ".git" / "HEAD").write_text(said)
    assert revision(checkout) is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with a name are POSIX's")
@pytest.mark.parametrize(
    ("name", "found"), [("HEAD", False), ("refs/heads/main", False), ("packed-refs", True), ("commondir", True)]
)
def test_a_pipe_in_place_of_a_file_is_never_opened(checkout, name, found):
    commit = head(checkout)
    (checkout / ".git" / name).unlink(missing_ok=True)
    os.mkfifo(checkout / ".git" / name)
    assert revision(checkout) == (commit if found else None)


# What a repository can ask git to run, each as (configuration, attributes).
HOSTILE = {
    "fsmonitor": ("[core]\n\tfsmonitor = {run}\n", ""),
    "hooks": ("[core]\n\thooksPath = {hooks}\n", ""),
    "clean": ("[filter \"evil\"]\n\tclean = {run}\n\trequired = true\n", "* filter=evil\n"),
    "smudge": ("[filter \"evil\"]\n\tsmudge = {run}\n", "* filter=evil\n"),
    "process": ("[filter \"evil\"]\n\tprocess = {run}\n", "* filter=evil\n"),
    "textconv": ("[diff \"evil\"]\n\ttextconv = {run}\n", "* diff=evil\n"),
    "diff": ("[diff \"evil\"]\n\tcommand = {run}\n[diff]\n\texternal = {run}\n", "* diff=evil\n"),
    "pager": ("[core]\n\tpager = {run}\n[pager]\n\tstatus = {run}\n\tdescribe = {run}\n", ""),
    "alias": ("[alias]\n\tstatus = !{run}\n\tdescribe = !{run}\n", ""),
    "include": ("[include]\n\tpath = {included}\n", ""),
    "worktree": ("[core]\n\tworktree = /\n\tfsmonitor = {run}\n", ""),
}  # fmt: skip


@pytest.fixture
def hostile(checkout, tmp_path):
    """Makes the checkout hostile in one way; what is run leaves a file."""
    ran = tmp_path / "ran"
    program = checkout / "evil.sh"
    program.write_text(f"#!/bin/sh\ntouch {shlex.quote(str(ran))}\ncat\n")
    program.chmod(0o755)
    hooks = checkout / ".git" / "hooks"
    hooks.mkdir(exist_ok=True)
    for name in ("post-index-change", "fsmonitor-watchman", "pre-auto-gc", "reference-transaction"):
        (hooks / name).write_bytes(program.read_bytes())
        (hooks / name).chmod(0o755)
    (tmp_path / "included").write_text(f"[core]\n\tfsmonitor = {program}\n")

    def make(kind):
        config, attributes = HOSTILE[kind]
        with (checkout / ".git" / "config").open("a") as file:
            file.write(config.format(run=program, hooks=hooks, included=tmp_path / "included"))
        (checkout / ".gitattributes").write_text(attributes)
        (checkout / ".git" / "info").mkdir(exist_ok=True)
        (checkout / ".git" / "info" / "attributes").write_text(attributes)
        # Files of the same length with another time are read again, through whatever filters there are.
        (checkout / "a.txt").write_text("x\n")
        os.utime(checkout / "a.txt", (0, 0))
        os.utime(checkout / "b.bin", (0, 0))
        return ran

    return make


@pytest.mark.skipif(os.name == "nt", reason="the program is a shell script")
@pytest.mark.parametrize("kind", HOSTILE)
def test_nothing_that_a_repository_asks_for_is_run(checkout, hostile, kind):
    commit, ran = head(checkout), hostile(kind)
    assert revision(checkout) == f"{commit}-dirty"
    assert not ran.exists()


@pytest.mark.skipif(os.name == "nt", reason="the program is a shell script")
def test_git_itself_runs_what_these_repositories_ask_for(checkout, hostile):
    """Else the tests above would show nothing."""
    ran = hostile("fsmonitor")
    git(checkout, "describe", "--always", "--dirty")
    assert ran.exists()


@pytest.mark.skipif(os.name == "nt", reason="the program is a shell script")
def test_the_environment_names_no_program_either(checkout, hostile, monkeypatch):
    ran = hostile("hooks")
    program = str(checkout / "evil.sh")
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", program)
    monkeypatch.setenv("GIT_PAGER", program)
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.fsmonitor")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", program)
    monkeypatch.setenv("GIT_CONFIG_PARAMETERS", f"'core.fsmonitor'='{program}'")
    monkeypatch.setenv("GIT_DIR", str(checkout.parent))
    assert revision(checkout).endswith("-dirty")
    assert not ran.exists()


@pytest.mark.skipif(os.name == "nt", reason="the program is a shell script")
def test_a_git_inside_the_checkout_is_not_run(checkout, hostile, monkeypatch):
    ran = hostile("hooks")
    (checkout / "evil.sh").rename(checkout / "git")
    monkeypatch.setenv("PATH", f"{checkout}{os.pathsep}{os.environ['PATH']}")
    assert revision(checkout).endswith("-unchecked")
    assert not ran.exists()


@pytest.mark.skipif(os.name == "nt", reason="the program is a shell script")
def test_a_run_in_a_hostile_folder_runs_nothing_of_it(checkout, hostile, small_recipe, monkeypatch):
    commit, ran = head(checkout), hostile("fsmonitor")
    monkeypatch.chdir(checkout)
    assert adkit.run(small_recipe).git == f"{commit}-dirty"
    assert not ran.exists()


def test_a_working_folder_that_was_removed_has_no_commit(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert revision(Path()) is None
