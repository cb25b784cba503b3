"""A run's folder: written under a temporary name and renamed when whole, so that what has its name is a whole run."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adkit.errors import UserError

LOGGERS = {"adkit": logging.INFO, "ignite": logging.WARNING, "py.warnings": logging.WARNING}
"""Ignite tells of every pause of an engine at INFO, which reads as if the run had been broken off."""
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
    """An internal fault, whose traceback is in the log at ``log``."""

    def __init__(self, log: Path, cause: BaseException) -> None:
        self.log = log
        super().__init__(f"{type(cause).__name__}: {cause}")


@contextmanager
def run_folder(final: Path) -> Iterator[Path]:
    """Give a folder to write into; when the block ends well it becomes ``final``.

    An older ``final`` is kept aside under ``<name>.1``, ``<name>.2`` and so on, the highest the youngest. When
    the block fails, nothing is left but, for an internal fault, ``<name>.failed.log``.

    Raises:
        UserError: the disk is full or the folder cannot be written.
        RunFault: anything but bad input or an interrupt went wrong inside.
    """
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(suffix=".partial", prefix=f".{final.name}.", dir=final.parent))
        partial.chmod(0o777 & ~_umask())
    except OSError as error:
        raise _disk_error(final, error) from error
    try:
        with _log_to(partial / "log.txt"):
            yield partial
        _keep_aside(final)
        partial.rename(final)
    except OSError as error:
        if error.errno not in _DISK or not _inside(partial, error):
            raise RunFault(_save_log(partial, final), error) from error
        raise _disk_error(final, error) from error
    except (UserError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        raise RunFault(_save_log(partial, final), error) from error
    finally:
        with _undisturbed():
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let a second Ctrl-C wait until what the first one left is gone."""
    if threading.current_thread() is not threading.main_thread():  # where Python runs no signal handlers
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _umask() -> int:
    """The permissions that new files are denied: mkdtemp denies all but the owner's."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _inside(partial: Path, error: OSError) -> bool:
    """Whether the disk that failed is the run's own: an error on a write names no file."""
    return error.filename is None or str(error.filename).startswith(str(partial))


def _disk_error(final: Path, error: OSError) -> UserError:
    advice = "free some space or " if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else ""
    return UserError(
        f"{final}: expected a folder that the run can be written to, found: {error.strerror or error}; "
        f"{advice}choose another folder with --output"
    )


def _keep_aside(final: Path) -> None:
    if not final.exists():
        return
    taken = [path.name.removeprefix(final.name + ".") for path in final.parent.glob(f"{final.name}.*")]
    highest = max((int(number) for number in taken if number.isdecimal()), default=0)
    final.rename(final.with_name(f"{final.name}.{highest + 1}"))


def _save_log(partial: Path, final: Path) -> Path:
    kept = final.with_name(f"{final.name}.failed.log")
    (partial / "log.txt").replace(kept)
    return kept


class _FileHandler(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """Let a full disk stop the run instead of filling the terminal."""
        raise


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
    handler = _FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
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
        loggers[0].exception("the run ended by a fault")
        raise
    finally:
        logging.captureWarnings(False)
        for logger, level in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
        handler.close()
