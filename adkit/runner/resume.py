"""Records on disk what an unfinished run has finished, so that a run that was killed goes on from there.

A run's working folder holds

    run/             what the run's folder will be
    finished/        one record per category that is done, written when its detector is whole
    features/        the feature store of runs whose categories share their images
    work/            one folder per category for what its work keeps meanwhile, such as a trainer's checkpoints
    fingerprint.json and state.json, the latter written last and removed first: without it, the rest counts for nothing
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from adkit.errors import UserError
from adkit.inference.store import JOURNAL, stored_images
from adkit.report.report import CategoryReport
from adkit.runner.fingerprint import Fingerprint
from adkit.utils.atomic import sweep_files, sync, whole_file
from adkit.utils.text import counted, some

START_OVER: Final = "start over with --fresh"

M = TypeVar("M", bound=BaseModel)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Finished(_Part):
    """All that a run needs to know about a category whose detector is saved."""

    category: str
    report: CategoryReport
    rows: list[tuple[str | int, ...]]
    """The category's rows of ``scores.csv``."""
    warnings: list[str]
    unreadable: dict[str, str]
    """The category's images that cannot be read → why."""
    timings: dict[str, float]
    """Stage → the seconds that the run had spent on it when the category was done."""


class State(_Part):
    """What was decided when the run began."""

    categories: list[str]
    images: int
    stored: bool
    """Whether all features are extracted into a store first."""
    resumed: int = 0
    """How often the run was resumed."""


class Ledger:
    """The working folder of a run, with a record of what is finished in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.refused = False
        """Whether what is finished turned out to belong to a run of another fingerprint."""
        self.run = folder / "run"
        self.log = self.run / "log.txt"
        self.features = folder / "features"
        self._finished = folder / "finished"
        self._work = folder / "work"
        self._state = folder / "state.json"
        self._fingerprint = folder / "fingerprint.json"

    def summary(self) -> str | None:
        """What is finished, in words such as ``2 of 3 categories``; None where there is nothing to go on from.

        Raises:
            UserError: the state was altered or damaged.
        """
        # Without its run/, which is renamed when it is whole, the folder is what a finished run left.
        if not (self._state.exists() and self.run.exists()):
            return None
        state = _read(self._state, State)
        categories = len(list(self._finished.glob("*.json")))
        images = stored_images(self.features)
        counts = [f"{categories:,} of {counted(len(state.categories), 'category', 'categories')}"] * bool(categories)
        counts += [f"the features of {images:,} of {counted(state.images, 'image')}"] * bool(images)
        trained = any(self._work.rglob("*.pt")) or any(stored_images(one.parent) for one in self._work.rglob(JOURNAL))
        counts += ["part of the training"] * trained
        return " and ".join(counts) or None

    def open(self, fingerprint: Fingerprint, state: State) -> State:
        """Begin the run, or go on with the one that was interrupted, and return the state that applies.

        Raises:
            UserError: what is finished belongs to a run of another fingerprint.
        """
        if self._state.exists():
            sweep_files(self.run)  # drafts of what was being written when the run was killed
            begun = _read(self._state, State)
            differences = _read(self._fingerprint, Fingerprint).differences(fingerprint)
            if begun.categories != state.categories:
                differences.append(f"it was of {_named(begun.categories)}, and this is of {_named(state.categories)}")
            if differences:
                self.refused = True
                found = "; ".join(differences)
                raise UserError(
                    f"{self.folder}: expected to go on with the run that was interrupted, found that {found}: undo "
                    f"that, or {START_OVER}"
                )
            state = begun
            state.resumed += 1
        else:
            _write(self._fingerprint, fingerprint)
        _write(self._state, state)
        return state

    def finished(self) -> dict[str, Finished]:
        """Category → its record, for every category that is done.

        Raises:
            UserError: a record was altered or damaged.
        """
        records = [_read(path, Finished) for path in sorted(self._finished.glob("*.json"))]
        return {record.category: record for record in records}

    def finish(self, number: int, record: Finished, saved: Path) -> None:
        """Record that a category is done, so that it is never computed again.

        Args:
            number: the category's place among all, from 0.
            record: all that is known about it.
            saved: the folder of its detector, which is whole.
        """
        for path in sorted(saved.iterdir()):
            sync(path)  # or else a power cut could leave the record without what it speaks of
        _write(self._finished / f"{number:06}.json", record)
        shutil.rmtree(self._work / f"{number:06}", ignore_errors=True)

    def workspace(self, number: int) -> Path:
        """A folder in which the work on a category keeps what a next attempt needs; ``finish`` removes it."""
        folder = self._work / f"{number:06}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def settle(self) -> None:
        """Flush the run's files to disk before the run gets its name; its detectors are on disk already."""
        for path in self.run.iterdir():
            if path.is_file():
                sync(path)

    def clear(self) -> None:
        """Remove the folder; if the process is killed meanwhile, what is left counts as nothing finished."""
        with suppress(OSError):
            self._state.unlink()
        shutil.rmtree(self.folder, ignore_errors=True)


def _named(categories: Sequence[str]) -> str:
    return some(categories, 5) if len(categories) > 1 else f"{categories[0]} alone"


def _read(path: Path, model: type[M]) -> M:
    try:
        return model.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(
            f"{path}: expected what adkit wrote when the run was interrupted, found: {error.strerror}; {START_OVER}"
        ) from error
    except ValidationError as error:
        raise UserError(
            f"{path}: expected what adkit wrote when the run was interrupted, found something else: {START_OVER}"
        ) from error


def _write(path: Path, values: BaseModel) -> None:
    with whole_file(path) as draft:
        draft.write_text(values.model_dump_json(), encoding="utf-8")
        sync(draft)
