"""The commit that code was run from, found without running any of that code.

Git does what a repository's own configuration says: ``core.fsmonitor``, filters that ``.gitattributes`` names, hooks,
and the programs by which a remote's missing objects are fetched are all commands of whoever made the folder. So that
configuration is never read here. The commit is read from the files of ``.git``, and whether the working tree differs
from it is asked of a git that is given a folder of ours in place of ``.git``, with nothing of the repository in it but
the commit, a copy of the index and the place of the objects, which are data.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

SECONDS: Final = 10
"""How long git may look at the working tree; a larger one counts as not compared."""
LONGEST: Final = 64 * 2**20
"""Bytes above which no file of references is read."""
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_REFERENCE = re.compile(r"refs/[^\x00-\x20\x7f]+")


def revision(folder: Path) -> str | None:
    """Find the commit that is checked out at ``folder``.

    Returns:
        Its full hash, with ``-dirty`` where files that it tracks were changed, and ``-unchecked`` where git is not
        there to compare them. None outside a checkout, or where nothing is committed.
    """
    try:
        found = _checkout(folder.absolute())
        if found is None:
            return None
        tree, own = found
        shared = _pointed(own / "commondir", own) or own  # a worktree has references and objects in common with others
        commit = _commit(own, shared)
        return None if commit is None else commit + _changes(tree, own, shared, commit)
    except OSError:  # the working folder was removed, or may not be looked at
        return None


def _checkout(folder: Path) -> tuple[Path, Path] | None:
    """The nearest folder that is checked out, and the folder of its references."""
    for tree in (folder, *folder.parents):
        git = tree / ".git"
        if git.is_dir():
            return tree, git
        if (own := _pointed(git, tree)) is not None:
            return tree, own
    return None


def _pointed(file: Path, base: Path) -> Path | None:
    """The folder that a file names, ``base`` being where it starts from; None where there is no such file or folder."""
    named = _text(file).removeprefix("gitdir:").strip()
    folder = base / named
    return folder if named and "\0" not in named and folder.is_dir() else None


def _text(file: Path) -> str:
    """What a file says; nothing where it is none, such as a pipe that never ends."""
    if not file.is_file() or file.stat().st_size > LONGEST:
        return ""
    return os.fsdecode(file.read_bytes())


def _commit(own: Path, shared: Path) -> str | None:
    """The commit that HEAD leads to."""
    said = _text(own / "HEAD").strip()
    for _ in range(5):  # as many references to references as git follows
        if _COMMIT.fullmatch(said):
            return said
        name = said.removeprefix("ref:").strip()
        if not _REFERENCE.fullmatch(name) or ".." in name.split("/"):
            return None
        said = _text(own / name).strip() or _text(shared / name).strip() or _packed(shared, name)
    return None


def _packed(shared: Path, name: str) -> str:
    for line in _text(shared / "packed-refs").splitlines():
        commit, _, reference = line.partition(" ")
        if reference == name:
            return commit
    return ""


def _changes(tree: Path, own: Path, shared: Path, commit: str) -> str:
    """``-dirty``, ``-unchecked`` or nothing."""
    git = shutil.which("git")
    if git is None or Path(git).resolve().is_relative_to(tree.resolve()):  # PATH may name the current folder
        return "-unchecked"
    with tempfile.TemporaryDirectory(prefix="adkit-git-") as work:
        ours = Path(work)
        (ours / "refs").mkdir()
        (ours / "HEAD").write_text(f"{commit}\n", encoding="ascii")
        kind = "\trepositoryformatversion = 1\n[extensions]\n\tobjectFormat = sha256\n" if len(commit) == 64 else ""
        (ours / "config").write_text(f"[core]\n\tbare = false\n{kind}", encoding="ascii")
        for file in (own / "index", *own.glob("sharedindex.*")):
            if file.is_file():
                shutil.copy2(file, ours)  # with its time, by which git knows which files it must read again
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        environment |= {
            "GIT_DIR": work,
            "GIT_WORK_TREE": str(tree),
            "GIT_OBJECT_DIRECTORY": str(shared / "objects"),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_ATTR_NOSYSTEM": "1",
            "HOME": work,  # where there is no configuration either, nor below it
            "XDG_CONFIG_HOME": work,
            "GIT_TERMINAL_PROMPT": "0",
            "LC_ALL": "C",
        }
        # Submodules have configurations of their own; modes and links are not on every file system what they should be.
        looks = [git, "-c", "core.fileMode=false", "status", "--porcelain", "-z"]
        looks += ["--untracked-files=no", "--ignore-submodules=all", "--no-renames"]
        try:
            done = subprocess.run(
                looks, cwd=tree, env=environment, capture_output=True, stdin=subprocess.DEVNULL, timeout=SECONDS
            )
        except (OSError, subprocess.TimeoutExpired):
            return "-unchecked"
    if done.returncode != 0:
        return "-unchecked"
    return "-dirty" if done.stdout else ""
