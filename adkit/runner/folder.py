"""A run's folder: made under a hidden name and renamed when whole, so that a folder of its name is a whole run."""

from __future__ import annotations

import errno
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

from adkit.errors import OutOfMemoryError, PluginError, UserError, exhausted, out_of_memory
from adkit.runner.resume import START_OVER, Ledger
from adkit.utils.escapes import HarmlessFormatter
from adkit.utils.locks import Occupied, alone
from adkit.utils.signals import undisturbed

Interrupted = Literal["ask", "resume", "fresh"]
"""What to do about an unfinished run of the same name: refuse and say what it has finished, go on, start over."""

LOGGERS = {"adkit": logging.INFO, "ignite": logging.WARNING, "py.warnings": logging.WARNING}
"""Logger → the lowest level that is logged; at INFO, Ignite's lines on pauses of an engine read like an abort."""
_DISK = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EFBIG,
    errno.ENOTDIR,
    errno.EIO,
}


class RunFault(Exception):
    """A fault of a plugin or of adkit, whose traceback is in the log at ``log``."""

    def __init__(self, log: Path, cause: BaseException) -> None:
        self.log = log
        plugins = isinstance(cause, PluginError)
        super().__init__(
            f"plugin fault: {cause}" if plugins else f"adkit: internal fault: {type(cause).__name__}: {cause}"
        )


@contextmanager
def run_folder(
    final: Path, interrupted: Interrupted = "ask", say: Callable[[str], None] = lambda text: None
) -> Iterator[Ledger]:
    """Open a working folder, whose ``run`` becomes ``final`` when the block ends well.

    An older ``final`` is kept aside under ``<name>.1``, ``<name>.2`` and so on, the highest the youngest. When
    the block fails or the process is killed, the working folder stays where something in it is finished, for the next
    run of this name to go on from. A fault leaves ``<name>.failed.log``, too.

    Args:
        final: the folder that the run leaves.
        interrupted: what to do about an unfinished run of this name.
        say: called with a sentence on what is kept.

    Raises:
        UserError: there is an unfinished run and ``interrupted`` is ``ask``, another process is carrying out the run,
            the disk is full, or the folder cannot be written.
        RunFault: anything but bad input or an interrupt went wrong inside.
    """
    with only_run(final):
        ledger = _ledger(final)
        _take_up(ledger, final, interrupted, say)
        again = ""
        try:
            ledger.run.mkdir(parents=True, exist_ok=True)
            with _log_to(ledger.log):
                yield ledger
            with undisturbed():
                ledger.settle()
                keep_aside(final)
                ledger.run.rename(final)
        except OutOfMemoryError:
            raise
        except UserError:
            again = ", and with the same recipe and data ends in the same way"
            raise
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:
            raise _ended(ledger, final, error) from error
        finally:
            with undisturbed():  # what a first Ctrl-C left is removed whole
                if not (kept := ledger.summary()):
                    ledger.clear()
                elif not ledger.refused:
                    say(f"{final}: kept {kept}; adkit run --resume goes on from there{again}")


@contextmanager
def only_run(final: Path) -> Iterator[None]:
    """Keep every other run, or sweep, of the same name out; raises UserError where there is one."""
    with ExitStack() as stack:
        try:
            stack.enter_context(alone(final.with_name(f".{final.name}.lock")))
        except Occupied as error:
            raise UserError(
                f"{final}: expected to be the only run of this name, found another one at work in "
                f".{final.name}.partial: wait until that ends, or set another run.name"
            ) from error
        except OSError as error:
            raise _disk_error(final, error) from error
        yield


def refuse_interrupted(final: Path) -> None:
    """Raise UserError where an unfinished run of that folder has something to go on from."""
    if kept := _ledger(final).summary():
        raise UserError(
            f"{final}: a run of this name was interrupted after {kept}: go on with --resume, or {START_OVER} (from "
            'Python: interrupted="resume" or "fresh")'
        )


def _ledger(final: Path) -> Ledger:
    return Ledger(final.with_name(f".{final.name}.partial"))


def _take_up(ledger: Ledger, final: Path, interrupted: Interrupted, say: Callable[[str], None]) -> None:
    """Leave to be resumed, refuse or remove what an interrupted run left."""
    kept = None if interrupted == "fresh" else ledger.summary()
    if kept is None:
        if ledger.run.exists() and interrupted != "fresh":
            say(f"{final}: an interrupted run had finished nothing: starting over")
        ledger.clear()
    elif interrupted == "ask":
        refuse_interrupted(final)


def _ended(ledger: Ledger, final: Path, error: BaseException) -> Exception:
    """What to say of a run that something ended which is neither bad input nor an interrupt."""
    if not ledger.folder.exists() or (ledger.folder.is_dir() and not ledger.run.is_dir()):
        return UserError(
            f"{final}: expected the folder that the run writes to until it ends, found that {ledger.folder} was "
            "removed: leave it there, and run it again"
        )
    if isinstance(error, OSError) and error.errno in _DISK and _inside(ledger.folder, error):
        return _disk_error(final, error)
    if exhausted(error):
        return out_of_memory(str(final), error)
    return RunFault(_save_log(ledger, final), error)


def _inside(partial: Path, error: OSError) -> bool:
    """Whether the disk that failed is the run's own; an error on a write, which names no file, counts as such."""
    return error.filename is None or str(error.filename).startswith(str(partial))


def _disk_error(final: Path, error: OSError) -> UserError:
    advice = "free some space or " if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else ""
    return UserError(
        f"{final}: expected a folder that the run can be written to, found: {error.strerror or error}; "
        f"{advice}choose another folder with --output"
    )


def keep_aside(final: Path) -> None:
    """Rename an older folder of that name, if there is one, to ``<name>.1``, ``<name>.2`` and so on."""
    if not final.exists():
        return
    taken = [path.name.removeprefix(final.name + ".") for path in final.parent.glob(f"{final.name}.*")]
    highest = max((int(number) for number in taken if number.isdecimal()), default=0)
    final.rename(final.with_name(f"{final.name}.{highest + 1}"))


def _save_log(ledger: Ledger, final: Path) -> Path:
    kept = final.with_name(f"{final.name}.failed.log")
    try:
        if ledger.summary():  # its log will go on when the run does
            shutil.copyfile(ledger.log, kept)
        else:
            ledger.log.replace(kept)
    except OSError:  # the disk is full: the fault is to be told all the same
        return ledger.log
    return kept


class _FileHandler(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """Let a full disk stop the run instead of filling the terminal."""
        raise


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
    handler = _FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(HarmlessFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [logger.level for logger in loggers]
    logging.captureWarnings(True)
    for logger, lowest in zip(loggers, LOGGERS.values(), strict=True):
        logger.addHandler(handler)
        logger.setLevel(lowest)
    try:
        yield
    except UserError as error:
        loggers[0].error("%s", error)
        raise
    except Exception:
        loggers[0].exception("the run ended with a fault")
        raise
    finally:
        logging.captureWarnings(False)
        for logger, level in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
        handler.close()
