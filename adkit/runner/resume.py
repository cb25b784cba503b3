"""What an unfinished run has finished, on disk, so that a run that was killed goes on from there.

A run's working folder holds

    run/             what the run's folder will be
    finished/        a record per category that is done, written when its detector is whole
    features/        the feature store of runs whose categories share their images
    work/            a folder per category for what its work keeps meanwhile, such as a trainer's checkpoints
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
from adkit.utils.atomic import sync, whole_file
from adkit.utils.text import some

START_OVER: Final = "start over with --fresh"

M = TypeVar("M", bound=BaseModel)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Finished(_Part):
    """All that a run needs to know of a category whose detector is saved."""

    category: str
    report: CategoryReport
    rows: list[tuple[str | int, ...]]
    """Of ``scores.csv``."""
    warnings: list[str]
    unreadable: dict[str, str]
    """Those of its images that cannot be read, and why."""
    timings: dict[str, float]
    """Seconds of each stage of the run up to it."""


class State(_Part):
    """What was settled when the run began."""

    categories: list[str]
    images: int
    stored: bool
    """Whether all features are extracted into a store first."""
    resumed: int = 0
    """How often the run was taken up again."""


class Ledger:
    """The working folder of a run, and what in it is finished."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = folder / "run"
        self.log = self.run / "log.txt"
        self.features = folder / "features"
        self._finished = folder / "finished"
        self._work = folder / "work"
        self._state = folder / "state.json"
        self._fingerprint = folder / "fingerprint.json"

    def summary(self) -> str | None:
        """What is finished, in words: ``2 of 3 categories``; None where there is nothing to go on from.

        Raises:
            UserError: the state was altered or damaged.
        """
        # Without its run/, which is renamed when it is whole, the folder is what a finished run left.
        if not (self._state.exists() and self.run.exists()):
            return None
        state = _read(self._state, State)
        categories = len(list(self._finished.glob("*.json")))
        images = stored_images(self.features)
        counts = [f"{categories} of {len(state.categories)} categories"] * bool(categories)
        counts += [f"the features of {images:,} of {state.images:,} images"] * bool(images)
        trained = any(self._work.rglob("*.pt")) or any(stored_images(one.parent) for one in self._work.rglob(JOURNAL))
        counts += ["part of the training"] * trained
        return " and ".join(counts) or None

    def open(self, fingerprint: Fingerprint, state: State) -> State:
        """Begin, or go on when there is something to go on from; the state that holds.

        Raises:
            UserError: what is finished belongs to a run of another fingerprint.
        """
        if self._state.exists():
            begun = _read(self._state, State)
            differences = _read(self._fingerprint, Fingerprint).differences(fingerprint)
            if begun.categories != state.categories:
                differences.append(f"it was of {_named(begun.categories)}, and this is of {_named(state.categories)}")
            if differences:
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
        """Category → what is known of it, of those that are done.

        Raises:
            UserError: a record was altered or damaged.
        """
        records = [_read(path, Finished) for path in sorted(self._finished.glob("*.json"))]
        return {record.category: record for record in records}

    def finish(self, number: int, record: Finished, saved: Path) -> None:
        """Note that a category is done: it is never computed again.

        Args:
            number: its place among the categories.
            saved: folder of its detector, which is whole.
        """
        for path in sorted(saved.iterdir()):
            sync(path)  # or else a power cut could leave the record without what it speaks of
        _write(self._finished / f"{number:06}.json", record)
        shutil.rmtree(self._work / f"{number:06}", ignore_errors=True)

    def workspace(self, number: int) -> Path:
        """A folder for what the work on a category keeps for its next attempt; ``finish`` removes it."""
        folder = self._work / f"{number:06}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def settle(self) -> None:
        """See to it that all of the run is on disk before it gets its name; detectors are already."""
        for path in self.run.iterdir():
            if path.is_file():
                sync(path)

    def clear(self) -> None:
        """Remove the folder; killed on the way, it leaves one that holds nothing finished."""
        with suppress(OSError):
            self._state.unlink()
        shutil.rmtree(self.folder, ignore_errors=True)


def _named(categories: Sequence[str]) -> str:
    return some(categories, 5) if len(categories) > 1 else f"{categories[0]} alone"


def _read(path: Path, model: type[M]) -> M:
    try:
        return model.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(
            f"{path}: expected what adkit wrote when the run was interrupted, found something else: {START_OVER}"
        ) from error


def _write(path: Path, values: BaseModel) -> None:
    with whole_file(path) as draft:
        draft.write_text(values.model_dump_json(), encoding="utf-8")
        sync(draft)
